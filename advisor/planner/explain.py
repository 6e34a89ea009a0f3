"""Why a plan, why not the others, and the rules behind both, in sentences."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from advisor.facts import shown
from advisor.facts.plan import Decision, Plan, Rejected, SourceRef
from advisor.facts.quantity import Quantity
from advisor.facts.reports import Explanation, ExplanationPart
from advisor.guide.docs import rule_text, source_text
from advisor.guide.schema import Rule
from advisor.planner.rejections import by_reason, text

_VERBS = {
    "exclude": "rules it out",
    "require": "demands",
    "set": "sets",
    "prefer": "weighs",
    "warn": "warns",
}
_TERMS = {
    "quality": "quality",
    "speed": "speed",
    "memory": "free memory",
    "time": "time to make it",
    "disk": "disk space",
    "guide": "the guide's preference",
}


def explain_plan(
    plan: Plan,
    *,
    goal: str | None = None,
    machine: str | None = None,
    others: Sequence[Plan] = (),
    rejected: Sequence[Rejected] = (),
    goal_weights: dict[str, float] | None = None,
) -> Explanation:
    """Why ``plan``: its numbers, the rules that spoke, what set it apart from the other plans, what was dropped.

    Args:
        goal: what it was ranked for; ``machine``: on which machine (``this``: the own one).
        others: the other plans of the same recommendation.
        goal_weights: the goal's weights; without them terms are compared unweighed.
    """
    said = {d.because for d in plan.decisions if d.effect == "warn"}
    warned = [f"Warning: {text}" for text in plan.warnings if text not in said]
    beside = [plan.against_next] if plan.against_next else []
    beside += [against(plan, o, goal_weights) for o in sorted(others, key=lambda p: p.rank) if o.id != plan.id]
    then = [f"{what}: {shlex.join(argv)}" for what, commands in _by_hand(plan) for argv in commands]
    runs = plan.status == "ready" and plan.executable_here
    then.append(f"To carry it out: advisor up {plan.id}" if runs else f"In full: advisor up --dry-run {plan.id}")
    if plan.decisions:
        then.append(f"A rule in full, with its condition: advisor explain {plan.decisions[0].rule}")
    parts = (
        ("Figures", [_numbers(plan)]),
        ("Rules", [decision_text(d) for d in sorted(plan.decisions, key=_weightiest)]),
        ("Warnings and assumptions", [*warned, *(f"Assumed: {text}." for text in plan.assumptions)]),
        ("Against the other plans", beside),
        ("What was ruled out", rejected_texts(rejected)),
        ("What to type next", then),
    )
    return Explanation(
        kind="plan",
        id=plan.id,
        title=f"{plan.model} as {plan.format} ({plan.method}) in {plan.runtime}",
        text=_headline(plan, goal, machine),
        details=tuple(s for _, sentences in parts for s in sentences),
        sources=_sources(plan.decisions),
        parts=tuple(ExplanationPart(title=title, sentences=tuple(told)) for title, told in parts if told),
    )


def _by_hand(plan: Plan) -> tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]:
    return (("By hand, to make it", plan.commands.quantize), ("By hand, to serve it", plan.commands.serve))


def explain_rule(rule: Rule) -> Explanation:
    """One rule, in full."""
    return Explanation(
        kind="rule", id=rule.id, title=rule.name, text=rule.because, details=(rule_text(rule),), sources=rule.sources
    )


def rule_effect(rule: str, plans: Sequence[Plan], rejected: Sequence[Rejected]) -> tuple[str, ...]:
    """What one rule did in a recommendation, as far as its plans and its rejections tell."""
    out = [f"It ruled out {text(reason)}" for reason in by_reason([r for r in rejected if r.rule == rule])]
    for plan in plans:
        out += [
            f"Plan {plan.rank} ({plan.id}, {plan.format} in {plan.runtime}): {decision_text(d)}"
            for d in plan.decisions
            if d.rule == rule
        ]
        out += [f"Plan {plan.rank} ({plan.id}): {a}." for a in plan.assumptions if a.startswith(f"{rule} gave way to ")]
    return tuple(out) or ("It did not speak of any plan or choice that was shown.",)


def _weightiest(d: Decision) -> tuple[int, float, str]:
    """The order in which decisions are told: for, against, then what is set and what is warned of."""
    return (1 if d.weight is None else 0, -(d.weight or 0.0), d.rule)


def _headline(plan: Plan, goal: str | None, machine: str | None) -> str:
    cards = sum(key != "host" for key in plan.devices)
    how = shown.placement(plan, cards)
    where = shown.listed(plan.devices) + (f" ({how})" if cards > 1 else "") if plan.devices else "the machine"
    made = {
        "quantize": f"made with {plan.quantizer}",
        "as-is": "served as it is",
        "load-time": f"quantized by {plan.quantizer} while loading",
        "prequantized": "already quantized",
    }[plan.source]
    status = {
        "ready": "It is ready to run.",
        "needs": f"It needs: {'; '.join(plan.needs)}.",
        "elsewhere": f"It has to be made elsewhere: {'; '.join(plan.needs)}.",
    }[plan.status]
    weighty = [d for d in sorted(plan.decisions, key=_weightiest) if (d.weight or 0) > 0]
    guide = plan.terms.get("guide", 0.0)
    score = (
        f"score {plan.score:.2f} ({plan.score - guide:.2f} of 1 for its numbers, {guide:+.2f} from the guide's rules)"
    )
    why = f" {weighty[0].because}" if weighty else ""
    asked = (f" for {goal}" if goal else "") + (
        f" on {machine if machine != 'this' else 'this machine'}" if machine else ""
    )
    return f"Rank {plan.rank}{asked}, {score}: {plan.format} in {plan.runtime} on {where}, {made}. {status}{why}"


def _told(q: Quantity | None) -> str:
    if q is None:
        return "not known"
    origin = ", ".join(part for part in (shown.origin(q), shown.wide(q)) if part)
    return f"{shown.quantity(q)} ({origin})"


def _numbers(plan: Plan) -> str:
    return (
        f"Memory {_told(plan.memory.total)}, decode {_told(plan.speed.decode)}, "
        f"KL divergence {_told(plan.quality.kld)}, time to make {_told(plan.time.quantize)}."
    )


def decision_text(d: Decision) -> str:
    """One decision: rule, effect, reason, measured differences, citations."""
    effect = _VERBS[d.effect] + (f" {d.target}" if d.target else "")
    if d.weight is not None:
        effect = f"speaks {'against' if d.weight < 0 else 'for'} it ({d.target})"
    measured = f" ({'; '.join(d.measured)})" if d.measured else ""
    own = " [your own rule]" if d.overlay else ""
    cited = "; ".join(source_text(s) for s in d.sources)
    return f"{d.rule} {effect}: {d.because}{measured}{own}" + (f" [{cited}]" if cited else "")


def rejected_texts(rejected: Sequence[Rejected]) -> list[str]:
    """One line for each rule: what it dropped, why, the missing bytes of the closest, what to take instead."""
    return [f"Not {text(reason)}" for reason in by_reason(rejected)]


def against(plan: Plan, other: Plan, weights: dict[str, float] | None = None) -> str:
    """What set ``plan`` apart from ``other``: the terms of the score, largest difference first."""
    name = f"{other.id} ({other.format} in {other.runtime} on {' and '.join(other.devices)}, score {other.score:.2f})"
    gaps = []
    for term in sorted({*plan.terms, *other.terms}):
        weight = 1.0 if term == "guide" or weights is None else weights.get(term, 0.0)
        gap = (plan.terms.get(term, 0.0) - other.terms.get(term, 0.0)) * weight
        if abs(gap) >= 0.001:
            gaps.append((gap, term))
    gaps.sort(key=lambda g: (-abs(g[0]), g[1]))
    words = [f"{_TERMS.get(term, term)} {gap:+.3f}" for gap, term in gaps]
    extra = [need for need in other.needs if need not in plan.needs]
    status = f"; it also needs: {'; '.join(extra)}" if other.status == "needs" and extra else ""
    if other.status == "elsewhere":
        status = "; it has to be made elsewhere"
    verb = "Before" if plan.rank < other.rank else "After"
    return f"{verb} {name}: {', '.join(words) or 'equal in every term, ordered by name'}{status}."


def _sources(decisions: Sequence[Decision]) -> tuple[SourceRef, ...]:
    return tuple(dict.fromkeys(s for d in decisions for s in d.sources))
