"""Evaluates rules. The order of rules and files never matters: exclusions are unions, weights are sums, and a conflict
of two ``set`` rules is settled by ``overrides``, then by layer (the user's own over the guide), then by rule id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from advisor.facts.catalogue import LATE_PREFIXES, OPEN_PREFIXES, FactValue
from advisor.facts.plan import Decision
from advisor.guide.conditions import FALSE, Facts, Test, compile_, facts_of, measure, missing, reduce
from advisor.guide.schema import Outcome, Rule, RulePack, Scalar

_LAYER_RANK: Final = {"facts": 0, "guide": 1, "user": 2}
_EXCLUDING: Final = ("exclude", "require")


class Ready(NamedTuple):
    """One rule, prepared: ``when`` and, for ``require``, what must hold. ``late``: needs the cost of a candidate.

    ``varies`` are the facts it asks for that differ between candidates.
    """

    rule: Rule
    when: Test
    must: Test | None
    late: bool
    varies: frozenset[str]


class Prepared(NamedTuple):
    """The rules that can still speak once the fixed facts are known, by rule id."""

    early: tuple[Ready, ...]
    late: tuple[Ready, ...]

    @property
    def all(self) -> tuple[Ready, ...]:
        """Both, by rule id."""
        return tuple(sorted((*self.early, *self.late), key=lambda r: r.rule.id))


def _open(fact: str) -> bool:
    return fact.startswith(OPEN_PREFIXES)


def prepare(pack: RulePack, fixed: Facts | None = None) -> Prepared:
    """Settle what the fixed facts decide, drop the rules that can no longer fire, and compile the rest.

    Without ``fixed`` nothing is settled.
    """
    early: list[Ready] = []
    late: list[Ready] = []
    for rule in sorted(pack.rules, key=lambda r: r.id):
        when, must = rule.when, rule.requires
        if fixed is not None:
            when = reduce(when, fixed, _open)
            if when == FALSE:
                continue
            must = reduce(must, fixed, _open) if must is not None else None
        asks = facts_of(rule.when) | (facts_of(rule.requires) if rule.requires else frozenset())
        # Every wish is weighed once the cost is known; only what excludes is worth knowing before.
        is_late = rule.kind not in _EXCLUDING or any(f.startswith(LATE_PREFIXES) for f in asks)
        ready = Ready(
            rule,
            compile_(when),
            compile_(must) if must is not None else None,
            is_late,
            frozenset(f for f in asks if _open(f)),
        )
        (late if is_late else early).append(ready)
    return Prepared(tuple(early), tuple(late))


class _Fired(NamedTuple):
    rule: Rule
    assumed: bool


def verdict(ready: Ready, facts: Facts) -> bool | None:
    """Whether the rule speaks: ``when`` holds and, for ``require``, what it requires does not."""
    held = ready.when(facts)
    if ready.must is None or held is False:
        return held
    must = ready.must(facts)
    if must is True:
        return False
    return held if must is False else None


def excluded_by(rules: Iterable[Ready], facts: Facts) -> Ready | None:
    """The first of ``rules`` that excludes for certain or by assumption; a quick test without any explanation."""
    for ready in rules:
        said = verdict(ready, facts)
        if said or (said is None and ready.rule.on_unknown == "assume-true"):
            return ready
    return None


def run(rules: Iterable[Ready], facts: Facts) -> Outcome:
    """Evaluate prepared rules on one set of facts."""
    fired: list[_Fired] = []
    warnings: list[str] = []
    assumptions: list[str] = []
    unknown: set[str] = set()
    for ready in rules:
        said = verdict(ready, facts)
        rule = ready.rule
        if said:
            fired.append(_Fired(rule, assumed=False))
        elif said is None and rule.on_unknown != "skip":
            lacking = _lacking(rule, facts)
            unknown.update(lacking)
            tail = f"{rule.id} ({rule.name}) could not be decided: {', '.join(lacking)} not known"
            if rule.on_unknown == "assume-true":
                fired.append(_Fired(rule, assumed=True))
                assumptions.append(f"{tail}; taken to apply")
            elif rule.on_unknown == "assume-false":
                assumptions.append(f"{tail}; taken not to apply")
            else:
                warnings.append(tail)
                assumptions.append(tail)
    return _outcome(fired, facts, warnings, assumptions, unknown)


def evaluate(pack: RulePack, facts: Mapping[str, FactValue | None]) -> Outcome:
    """Evaluate every rule of ``pack`` on ``facts`` (names of ``advisor.facts.catalogue.FACTS``; absent is unknown)."""
    return run(prepare(pack).all, facts)


def _lacking(rule: Rule, facts: Facts) -> tuple[str, ...]:
    out = set(missing(rule.when, facts))
    if rule.requires is not None:
        out.update(missing(rule.requires, facts))
    return tuple(sorted(out))


def _outcome(
    fired: list[_Fired], facts: Facts, warnings: list[str], assumptions: list[str], unknown: set[str]
) -> Outcome:
    beaten = _overridden(fired)
    standing = sorted((f for f in fired if f.rule.id not in beaten), key=lambda f: f.rule.id)
    decisions = {f.rule.id: decision(f.rule, facts) for f in standing}
    excluded = tuple(decisions[f.rule.id] for f in standing if f.rule.kind in _EXCLUDING)
    scores: dict[str, float] = {}
    for f in standing:
        if f.rule.score is not None and f.rule.weight is not None:
            scores[f.rule.score] = scores.get(f.rule.score, 0.0) + f.rule.weight
    warnings = warnings + [f"{f.rule.because}" for f in standing if f.rule.kind == "warn"]
    return Outcome(
        excluded=excluded,
        decisions=tuple(decisions.values()),
        values=_values(standing),
        scores={k: round(max(-1.0, min(1.0, v)), 6) for k, v in sorted(scores.items())},
        warnings=tuple(dict.fromkeys(warnings)),
        assumptions=tuple(dict.fromkeys(assumptions)),
        unknown=tuple(sorted(unknown)),
        overridden=beaten,
    )


def _overridden(fired: list[_Fired]) -> dict[str, str]:
    """Who is silenced by whom: by ``overrides``, then, for two ``set`` of one key, by layer and id."""
    ids = {f.rule.id for f in fired}
    beaten: dict[str, str] = {}
    for f in sorted(fired, key=lambda f: f.rule.id):
        for loser in f.rule.overrides:
            if loser in ids and loser != f.rule.id:
                beaten.setdefault(loser, f.rule.id)
    holders: dict[str, Rule] = {}
    for f in sorted(fired, key=lambda f: (-_LAYER_RANK[f.rule.layer], f.rule.id)):
        rule = f.rule
        if rule.key is None or rule.id in beaten:
            continue
        first = holders.setdefault(rule.key, rule)
        if first is not rule and first.value != rule.value:
            beaten[rule.id] = first.id
    return dict(sorted(beaten.items()))


def _values(standing: list[_Fired]) -> dict[str, Scalar]:
    values = {f.rule.key: f.rule.value for f in standing if f.rule.key is not None and f.rule.value is not None}
    return dict(sorted(values.items()))


def decision(rule: Rule, facts: Facts) -> Decision:
    """What the rule decided, with the differences of the comparisons that decided it."""
    if rule.requires is not None:
        measured = measure(rule.requires, facts, held=False)
    else:
        measured = measure(rule.when, facts, held=True)
    target: str | None = None
    if rule.key is not None:
        shown = str(rule.value).lower() if isinstance(rule.value, bool) else str(rule.value)
        target = f"{rule.key}={shown}"
    elif rule.score is not None and rule.weight is not None:
        target = f"{rule.score}{rule.weight:+g}"
    return Decision(
        rule=rule.id,
        effect=rule.kind,
        because=rule.because,
        sources=rule.sources,
        target=target,
        overlay=rule.overlay,
        measured=measured,
    )


def examples_failing(rule: Rule) -> list[tuple[str, int, bool | None]]:
    """The rule's own examples that come out wrong: (side, index, what the rule said)."""
    (ready,) = prepare(RulePack(rules=(rule,), problems=(), content_hash="")).all
    out: list[tuple[str, int, bool | None]] = []
    for side, wanted, examples in (("fires", True, rule.examples.fires), ("silent", False, rule.examples.silent)):
        for i, facts in enumerate(examples):
            said = verdict(ready, facts)
            speaks = said is True or (said is None and rule.on_unknown == "assume-true")
            if speaks is not wanted:
                out.append((side, i, said))
    return out
