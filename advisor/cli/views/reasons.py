"""Why plans are where they are: each rule, prerequisite and warning said once, with the plans that it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from ..page import FAINT, FAIR

if TYPE_CHECKING:
    from advisor.facts.plan import Decision, Plan, SourceRef

    from ..page import Page

_MOST: Final = 6


def cite(source: SourceRef) -> str:
    """``guide 000 section 7``, or a document's title."""
    if source.doc:
        return f"guide {source.doc} section {source.section}" if source.section else f"guide {source.doc}"
    title = source.title or source.url or "unnamed source"
    return f"{title} {source.version}" if source.version else title


def reason(decision: Decision, *, full: bool = False) -> str:
    """``because (RULE; citation)``; in full with what the rule adds or sets and all citations."""
    cited = [cite(s) for s in (decision.sources if full else decision.sources[:1])]
    said = [decision.rule + (" (your rule)" if decision.overlay else "")]
    if full and decision.target:
        said.append(decision.target)
    return f"{decision.because} ({'; '.join([*said, *cited])})"


def ranks(plans: Sequence[Plan], among: Sequence[Plan]) -> str:
    """``1``, ``1, 3``, ``2-5`` or ``all`` of the plans that are shown; nothing where only one is shown."""
    if len(among) == 1:
        return ""
    if len(plans) == len(among):
        return "all"
    runs: list[list[int]] = []
    for rank in sorted(plan.rank for plan in plans):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs)


def gathered(plans: Sequence[Plan], say: Callable[[Plan], Iterable[str]]) -> list[tuple[str, str]]:
    """What is said of plans, each text once: (plans, text), in the order in which it first comes up."""
    about: dict[str, list[Plan]] = {}
    for plan in plans:
        for text in dict.fromkeys(say(plan)):
            about.setdefault(text, []).append(plan)
    return [(ranks(of, plans), text) for text, of in about.items()]


def section(page: Page, title: str, said: list[tuple[str, str]], style: str = "", *, most: int | None = None) -> None:
    """A heading and its texts behind the plans that they are about; nothing without texts."""
    if not said:
        return
    page.title(title)
    shown = said if most is None or len(said) <= most + 1 else said[:most]
    pad = max(len(label) for label, _ in shown)
    page.numbered(((f"{label:<{pad}} " if pad else "-", text) for label, text in shown), style)
    if len(shown) < len(said):
        page.text(f"and {len(said) - len(shown)} more: --verbose", FAINT)


def _speaking(against: bool, *, full: bool) -> Callable[[Plan], Iterable[str]]:
    """The reasons of the rules that weigh, the weightiest first."""

    def say(plan: Plan) -> Iterable[str]:
        weighing = [d for d in plan.decisions if d.effect == "prefer" and ((d.weight or 0) < 0) is against]
        weighing.sort(key=lambda d: -abs(d.weight or 0))
        if not weighing and not against:
            return ["No rule speaks for it: ranked by numbers alone."]
        return [reason(d, full=full) for d in weighing]

    return say


def _setting(plan: Plan) -> Iterable[str]:
    return [reason(d, full=True) for d in plan.decisions if d.effect == "set"]


def _warned(plan: Plan) -> Iterable[str]:
    rules = {d.because: d.rule for d in plan.decisions if d.effect == "warn"}
    return [f"{text} ({rules[text]})" if text in rules else text for text in plan.warnings]


def why(page: Page, plans: Sequence[Plan], *, verbose: bool = False) -> None:
    """For, against, needed, warned of; with ``verbose`` also what the rules set and what was assumed."""
    most = None if verbose else _MOST
    section(page, "Why", gathered(plans, _speaking(against=False, full=verbose)), most=most)
    section(page, "What speaks against", gathered(plans, _speaking(against=True, full=verbose)), most=most)
    section(
        page,
        "Ready-made",
        gathered(plans, lambda plan: [f"fetched, not made: {plan.artifact}"] if plan.artifact else []),
    )
    section(page, "Needed first", gathered(plans, lambda plan: plan.needs))
    section(page, "Warnings", gathered(plans, _warned), FAIR)
    if verbose:
        section(page, "Set by rules", gathered(plans, _setting))
        section(page, "Assumed", gathered(plans, lambda plan: plan.assumptions), FAINT)
