"""The limits that a candidate misses, each in figures, and by what share: how near it came."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from advisor.facts import shown
from advisor.facts.plan import PlanRequest

if TYPE_CHECKING:
    from advisor.cost.estimate import Cost
    from advisor.planner.costing import Fit


class Miss(NamedTuple):
    """One limit: the figures in words, and how far beyond the limit they are, as a share of the limit."""

    text: str
    share: float


def misses(cost: Cost, fit: Fit, request: PlanRequest, *, room: int) -> tuple[Miss, ...]:
    """Every limit of memory, size, speed, quality and time that is missed, memory first.

    Args:
        room: bytes of all memories of the machine together; what is missing is held against it.
    """
    out = []
    total = cost.memory.total.value
    if fit.fits is False and fit.short_by is not None:
        text = f"it takes {shown.quantity(cost.memory.total)}, {shown.size(fit.short_by)} more than may be used there"
        out.append(Miss(text, fit.short_by / max(1, room)))
    most = request.max_memory_bytes
    if most is not None and total > most:
        text = f"it takes {shown.quantity(cost.memory.total)}, {shown.size(total - most)} above --max-memory"
        out.append(Miss(text, (total - most) / most))
    decode = cost.speed.decode
    if request.min_tps is not None and decode is not None and decode.value < request.min_tps:
        text = f"it decodes {shown.quantity(decode)}, --min-tps wants {shown.plain(request.min_tps)}"
        out.append(Miss(text, request.min_tps / max(decode.value, 1e-9) - 1))
    out += _quality(cost, request)
    took = [q.value for q in (cost.time.fetch, cost.time.quantize, cost.time.start) if q is not None]
    if request.within_s is not None and sum(took) > request.within_s:
        text = f"it serves after {shown.seconds(sum(took))}, --within allows {shown.seconds(request.within_s)}"
        out.append(Miss(text, sum(took) / request.within_s - 1))
    return tuple(out)


def _quality(cost: Cost, request: PlanRequest) -> list[Miss]:
    from advisor.planner.costing import quality_share

    share = quality_share(cost)
    if request.min_quality is None or share is None or share >= request.min_quality:
        return []
    text = f"it keeps {share:.1%} of the quality, --min-quality wants {request.min_quality:.1%}"
    return [Miss(text, request.min_quality / max(share, 1e-9) - 1)]
