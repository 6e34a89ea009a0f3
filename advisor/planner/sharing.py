"""How many layers each of several unequal devices takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from advisor.facts.machine import Machine
from advisor.facts.plan import Settings


def shared_out(
    blocks: int, settings: Settings, machine: Machine, parts: Sequence[tuple[str, int, int]], each: float
) -> tuple[int, ...] | None:
    """Layers of each device, the output matrix counted as one, so that none has more than it may; ``None`` where they
    do not all fit.

    As ``tensor_split`` these numbers are exact: llama.cpp gives a layer to the first device whose share of all layers,
    summed up to it, is larger than the layer's own.

    Args:
        blocks: layers of the model.
        settings: how they are shared out now.
        parts: of each device what it needs now, and what it may take.
        each: bytes that moving one layer moves.
    """
    from advisor.cost.placement import place

    keys = [key for key, _, _ in parts]
    at = place(blocks, settings, machine, keys)
    homes = [*at.layers, at.output]
    room = [max(0, homes.count(key) + math.floor((limit - need) / max(each, 1.0))) for key, need, limit in parts]
    whole = blocks + 1
    if sum(room) < whole:
        return None
    counts = [min(r, whole) for r in room]
    while sum(counts) > whole:  # so that as much room is left on each
        spare = [(r - n, n, i) for i, (r, n) in enumerate(zip(room, counts, strict=True)) if n]
        counts[min(spare)[2]] -= 1
    return tuple(counts)
