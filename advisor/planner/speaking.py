"""What each rule did in one round of planning: the ways it ruled out, the plans it spoke of, the rules that beat it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.facts.reports import RuleEffect
from advisor.facts.shown import counted, listed
from advisor.guide.docs import effect_text

if TYPE_CHECKING:
    from advisor.guide.schema import Rule, RulePack
    from advisor.planner.recommend import Round


class _Tally:
    """The counts of one rule."""

    def __init__(self) -> None:
        self.excluded: list[str] = []
        self.ranks: list[int] = []
        self.beaten_by: set[str] = set()


def effects(found: Round, pack: RulePack) -> dict[str, RuleEffect]:
    """The effect of every rule that spoke, by its id; rules that kept silent are not in it."""
    tallies: dict[str, _Tally] = {}

    def of(rule_id: str) -> _Tally:
        return tallies.setdefault(rule_id, _Tally())

    for drop in found.dropped:
        c = drop.candidate
        of(drop.rule.id).excluded.append(f"{c.format if c.method in ('gguf', 'none') else c.method} in {c.runtime}")
    for rank, kept in enumerate(found.kept, 1):
        for d in kept.outcome.decisions:
            of(d.rule).ranks.append(rank)
        for loser, winner in kept.outcome.overridden.items():
            of(loser).beaten_by.add(winner)
    return {rule_id: _effect(tallies[rule_id], pack.get(rule_id), len(found.kept)) for rule_id in sorted(tallies)}


def _effect(t: _Tally, rule: Rule | None, plans: int) -> RuleEffect:
    said = []
    if t.excluded:
        kinds = list(dict.fromkeys(t.excluded))
        most = listed(kinds if len(kinds) <= 3 else [*kinds[:3], f"{len(kinds) - 3} more"])
        said.append(f"ruled out {counted(len(t.excluded), 'way')}: {most}")
    if t.ranks and rule is not None and rule.kind not in ("exclude", "require"):
        which = "all plans" if len(t.ranks) == plans and plans > 1 else counted(len(t.ranks), "plan")
        said.append(
            f"{effect_text(rule)[:1].lower()}{effect_text(rule)[1:]}, for {which}, the best of rank {t.ranks[0]}"
        )
    if t.beaten_by:
        said.append(f"gave way to {listed(sorted(t.beaten_by))}")
    return RuleEffect(
        excluded=len(t.excluded),
        ranks=tuple(t.ranks),
        overridden_by=tuple(sorted(t.beaten_by)),
        text="; ".join(said) or "spoke",
    )
