"""The score: five terms between 0 and 1, weighed by the goal, and what the rules add."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from advisor.facts.plan import Goal

if TYPE_CHECKING:
    from advisor.cost.estimate import Cost

# KL divergence at which half of the quality term is lost (nats): between Q4_K_M and Q2_K of an 8B model.
_HALF_KLD: Final = 0.1
# Seconds and bytes at which half of the time and disk terms are lost: ten minutes, and one copy of 16-bit weights.
_HALF_SECONDS: Final = 600.0
_DEFAULT_TPS: Final = 10.0
# A plan whose prerequisites are not met yet gives way to an equal one that is ready.
NEEDS_PENALTY: Final = 0.02


def terms(cost: Cost, goal: Goal, *, headroom: float | None, params: int, bits: float | None) -> dict[str, float]:
    """The terms of one candidate, each between 0 and 1.

    Quality falls with KL divergence, half at 0.1 nats; speed rises with decode speed, half at the goal's floor; memory
    is what stays free; time and disk fall, half at ten minutes and at the size of the 16-bit weights.
    """
    kld = cost.quality.kld
    if kld is not None:
        quality = 1 / (1 + max(0.0, float(kld.value)) / _HALF_KLD)
    else:
        quality = min(1.0, (bits or 4.0) / 16) * 0.5 + 0.4
    wanted = goal.min_decode_tps or _DEFAULT_TPS
    decode = cost.speed.decode
    speed = 0.0 if decode is None else float(decode.value) / (float(decode.value) + wanted)
    took = sum(float(q.value) for q in (cost.time.fetch, cost.time.quantize, cost.time.start) if q is not None)
    peak = cost.disk.peak_bytes
    found = {
        "quality": quality,
        "speed": speed,
        "memory": 0.0 if headroom is None else max(0.0, min(1.0, headroom)),
        "time": 1 / (1 + max(0.0, took) / _HALF_SECONDS),
        "disk": 0.5 if peak is None else 1 / (1 + max(0, peak) / max(1, 2 * params)),
    }
    return {k: 0.0 if math.isnan(v) else round(v, 4) for k, v in found.items()}


def score(parts: Mapping[str, float], goal: Goal, added: Mapping[str, float]) -> float:
    """The goal's weighted sum of terms and of what the rules add to them; the guide's own term has weight one."""
    total = sum(weight * (parts.get(term, 0.0) + added.get(term, 0.0)) for term, weight in sorted(goal.weights.items()))
    return round(total + added.get("guide", 0.0), 4)
