"""What a plan gains and costs against another one, from their figures: memory, speed, quality, time, what is needed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import msgspec

from advisor.facts import shown
from advisor.facts.plan import Plan

# Differences below these are not worth a word: shares of the smaller figure, nats, seconds, points of the score.
_MEMORY: Final = 0.03
_SPEED: Final = 0.05
_TIMES: Final = 1.5
_NATS: Final = 0.0005
_SECONDS: Final = 5.0
_TIME: Final = 0.1
_POINTS: Final = 0.01


def compared(plans: Sequence[Plan]) -> tuple[Plan, ...]:
    """The plans, each with what it gains and costs against the next one; the last one has nothing to be held against
    but what it says already."""
    out = [msgspec.structs.replace(plan, against_next=against_next(plan, other)) for plan, other in pairwise(plans)]
    return (*out, *plans[len(out) :])


def against_next(plan: Plan, other: Plan) -> str:
    """One sentence: ``Against plan 2 (q5_k_m in llama.cpp): 1.12 GiB less memory; but ...``."""
    gains, costs = differences(plan, other)
    name = f"Against plan {other.rank} ({way(other, plan)})"
    guide = plan.terms.get("guide", 0.0) - other.terms.get("guide", 0.0)
    rules = f"the guide's rules speak for it ({guide:+.2f})" if guide >= _POINTS else ""
    if gains and costs:
        return f"{name} it gains {shown.listed(gains)}; it costs {shown.listed(costs)}" + _tail(rules)
    if gains:
        return f"{name} it gains {shown.listed(gains)} and costs nothing more" + _tail(rules)
    if costs:
        return f"{name} it costs {shown.listed(costs)}" + _tail(rules or "its score is higher all the same")
    return f"{name} no figure differs by much" + _tail(rules)


def _tail(rules: str) -> str:
    return f"; {rules}." if rules else "."


def way(plan: Plan, beside: Plan) -> str:
    """``q5_k_m in llama.cpp``; with the devices, the source or the quantizer where that is all that differs."""
    name = plan.format if plan.method in ("gguf", "none", plan.format) else f"{plan.method} {plan.format}"
    said = f"{name} in {plan.runtime}"
    if (plan.method, plan.format, plan.runtime) != (beside.method, beside.format, beside.runtime):
        return said
    if plan.devices != beside.devices:
        return f"{said} on {shown.listed(plan.devices)}"
    if plan.artifact != beside.artifact:
        return f"{said}, {'fetched ready-made' if plan.artifact else 'made here'}"
    return f"{said}, made with {plan.quantizer}" if plan.quantizer != beside.quantizer else said


def differences(plan: Plan, other: Plan) -> tuple[list[str], list[str]]:
    """What ``plan`` gains over ``other``, and what it costs, in words with figures."""
    gains: list[str] = []
    costs: list[str] = []
    mine, theirs = plan.memory.total.value, other.memory.total.value
    if abs(mine - theirs) > _MEMORY * min(mine, theirs):
        word = "less" if mine < theirs else "more"
        (gains if mine < theirs else costs).append(f"{shown.size(abs(mine - theirs))} {word} memory")
    _speed(plan, other, gains, costs)
    kld, others = plan.quality.kld, other.quality.kld
    if kld is not None and others is not None and abs(kld.value - others.value) > _NATS:
        better = kld.value < others.value
        text = f"fidelity (KL divergence {shown.quantity(kld)} instead of {shown.quantity(others)})"
        (gains if better else costs).append(text)
    _time(plan, other, gains, costs)
    order = ("ready", "needs", "elsewhere")
    if plan.status != other.status:
        ahead = order.index(plan.status) < order.index(other.status)
        text = "that it is ready" if plan.status == "ready" else "that it can be made here"
        (gains if ahead else costs).append(text if ahead else "what it needs first")
    return gains, costs


def _speed(plan: Plan, other: Plan, gains: list[str], costs: list[str]) -> None:
    mine, theirs = plan.speed.decode, other.speed.decode
    if mine is None or theirs is None or min(mine.value, theirs.value) <= 0:
        return
    ratio = max(mine.value, theirs.value) / min(mine.value, theirs.value)
    if ratio < 1 + _SPEED:
        return
    faster = mine.value > theirs.value
    share = ratio - 1 if faster else 1 - 1 / ratio
    much = f"{ratio:.1f} times the speed" if faster and ratio >= _TIMES else f"{share:.0%} of speed"
    text = f"{much} ({shown.quantity(mine).removesuffix(' tok/s')} instead of {shown.quantity(theirs)})"
    (gains if faster else costs).append(text)


def served_after(plan: Plan) -> float | None:
    """Seconds until the plan serves, as far as they are known."""
    parts = [q.value for q in (plan.time.fetch, plan.time.quantize, plan.time.start) if q is not None]
    return sum(parts) if parts else None


def _time(plan: Plan, other: Plan, gains: list[str], costs: list[str]) -> None:
    mine, theirs = served_after(plan), served_after(other)
    if mine is None or theirs is None or abs(mine - theirs) < max(_SECONDS, _TIME * min(mine, theirs)):
        return
    text = f"{shown.seconds(abs(mine - theirs))} until it serves"
    (gains if mine < theirs else costs).append(text)
