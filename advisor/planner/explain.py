"""Why a plan, why not the others, and the rules behind both, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from advisor.facts.plan import Decision, Plan, Rejected, SourceRef
from advisor.facts.quantity import Quantity
from advisor.facts.reports import Explanation
from advisor.guide.docs import rule_text, source_text
from advisor.guide.schema import Rule, RulePack

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
    others: Sequence[Plan] = (),
    rejected: Sequence[Rejected] = (),
    pack: RulePack | None = None,
    goal_weights: dict[str, float] | None = None,
) -> Explanation:
    """Why ``plan``: its numbers, the rules that spoke for it, what set it apart from each other plan, what was dropped.

    Args:
        others: the other plans of the same recommendation.
        goal_weights: the goal's weights; without them terms are compared unweighed.
    """
    details = [_numbers(plan)]
    details += [decision_text(d) for d in plan.decisions]
    details += [f"Assumed: {text}." for text in plan.assumptions]
    details += [f"Warning: {text}" for text in plan.warnings]
    details += [against(plan, o, goal_weights) for o in sorted(others, key=lambda p: p.rank) if o.id != plan.id]
    details += rejected_texts(rejected)
    if pack is not None:
        cited = [r for d in plan.decisions if (r := pack.get(d.rule)) is not None]
        details += [rule_text(r) for r in cited]
    return Explanation(
        kind="plan",
        id=plan.id,
        title=f"{plan.model} as {plan.format} ({plan.method}) in {plan.runtime}",
        text=_headline(plan),
        details=tuple(details),
        sources=_sources(plan.decisions),
    )


def explain_rule(rule: Rule) -> Explanation:
    """One rule, in full."""
    return Explanation(
        kind="rule", id=rule.id, title=rule.name, text=rule.because, details=(rule_text(rule),), sources=rule.sources
    )


def _headline(plan: Plan) -> str:
    where = " and ".join(plan.devices) or "the machine"
    made = {
        "quantize": f"made with {plan.quantizer}",
        "as-is": "served as it is",
        "load-time": f"quantized by {plan.quantizer} while loading",
        "prequantized": "already quantized",
    }[plan.source]
    status = {
        "ready": "It is ready to run.",
        "needs": f"It needs: {', '.join(plan.needs)}.",
        "elsewhere": f"It has to be made elsewhere: {', '.join(plan.needs)}.",
    }[plan.status]
    weighty = [d for d in plan.decisions if d.effect == "prefer" and (d.target or "").find("+") >= 0]
    why = f" {weighty[0].because}" if weighty else ""
    return f"Rank {plan.rank}, score {plan.score:g}: {plan.format} in {plan.runtime} on {where}, {made}. {status}{why}"


def _size(q: Quantity | None) -> str:
    if q is None:
        return "not known"
    if q.unit == "bytes":
        return f"{q.value / 1e9:.2f} GB"
    return f"{q.value:.3g} {q.unit}"


def _numbers(plan: Plan) -> str:
    return (
        f"Memory {_size(plan.memory.total)} ({plan.memory.total.method}), decode {_size(plan.speed.decode)}, "
        f"KL divergence {_size(plan.quality.kld)}, time to make {_size(plan.time.quantize)}."
    )


def decision_text(d: Decision) -> str:
    """One decision: rule, effect, reason, measured differences, citations."""
    effect = _VERBS[d.effect] + (f" {d.target}" if d.target else "")
    measured = f" ({'; '.join(d.measured)})" if d.measured else ""
    own = " [your own rule]" if d.overlay else ""
    cited = "; ".join(source_text(s) for s in d.sources)
    return f"{d.rule} {effect}: {d.because}{measured}{own}" + (f" [{cited}]" if cited else "")


def rejected_text(r: Rejected) -> str:
    """One dropped candidate: rule, reason, missing bytes, what to take instead."""
    return rejected_texts((r,))[0]


def rejected_texts(rejected: Sequence[Rejected]) -> list[str]:
    """One line for each reason: what it dropped, why, the missing bytes of the closest, what to take instead."""
    groups: dict[tuple[str, str], list[Rejected]] = {}
    for r in rejected:
        groups.setdefault((r.rule, r.because), []).append(r)
    out = []
    for (rule, because), members in groups.items():
        by_runtime: dict[str, list[str]] = {}
        for r in members:
            name = r.format if r.method in ("gguf", r.format) else f"{r.method} {r.format}"
            by_runtime.setdefault(r.runtime, []).append(name)
        what = "; ".join(f"{', '.join(dict.fromkeys(names))} in {runtime}" for runtime, names in by_runtime.items())
        shorts = [r.short_by for r in members if r.short_by]
        short = f" The closest is short by {min(shorts) / 1e9:.2f} GB." if shorts else ""
        instead = f" Instead: {', '.join(members[0].instead)}." if members[0].instead else ""
        out.append(f"Not {what}: {because} ({rule}){short}{instead}")
    return out


def against(plan: Plan, other: Plan, weights: dict[str, float] | None = None) -> str:
    """What set ``plan`` apart from ``other``: the terms of the score, largest difference first."""
    name = f"{other.id} ({other.format} in {other.runtime} on {' and '.join(other.devices)}, score {other.score:g})"
    gaps = []
    for term in sorted({*plan.terms, *other.terms}):
        weight = 1.0 if term == "guide" or weights is None else weights.get(term, 0.0)
        gap = (plan.terms.get(term, 0.0) - other.terms.get(term, 0.0)) * weight
        if abs(gap) >= 0.001:
            gaps.append((gap, term))
    gaps.sort(key=lambda g: (-abs(g[0]), g[1]))
    words = [f"{_TERMS.get(term, term)} {gap:+.3f}" for gap, term in gaps]
    status = f"; it {other.status} {', '.join(other.needs)}" if other.status == "needs" else ""
    if other.status == "elsewhere":
        status = "; it has to be made elsewhere"
    verb = "Before" if plan.rank < other.rank else "After"
    return f"{verb} {name}: {', '.join(words) or 'equal in every term, ordered by name'}{status}."


def _sources(decisions: Sequence[Decision]) -> tuple[SourceRef, ...]:
    return tuple(dict.fromkeys(s for d in decisions for s in d.sources))
