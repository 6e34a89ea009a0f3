"""A plan corrected by the engine's own word on what it would allocate."""

from __future__ import annotations

from typing import Final

import msgspec

from advisor.facts.plan import Plan
from advisor.facts.protocols import EngineAnswer
from advisor.facts.quantity import exact, total

SOURCE: Final = "llama.cpp, dry load"
_PARTS: Final = ("weights", "kv_cache", "state", "compute", "output", "repack", "overhead")


def corrected(plan: Plan, answer: EngineAnswer) -> Plan:
    """The plan with cache, state, work and output buffer as the engine gave them, and the totals that follow.

    Only a plan that runs on the host alone is corrected by device: the dry load is one of the host.
    """
    memory = plan.memory
    new = {
        "kv_cache": exact(answer.kv_cache_bytes, "bytes", SOURCE, "engine"),
        "state": exact(answer.state_bytes, "bytes", SOURCE, "engine"),
        "compute": exact(answer.compute_bytes, "bytes", SOURCE, "engine"),
        "output": exact(answer.output_bytes, "bytes", SOURCE, "engine"),
    }
    whole = total([new.get(name, getattr(memory, name)) for name in _PARTS], f"sum; cache and buffers: {SOURCE}")
    by_device = {"host": whole} if set(memory.by_device) == {"host"} else memory.by_device
    return msgspec.structs.replace(
        plan, memory=msgspec.structs.replace(memory, total=whole, by_device=by_device, **new)
    )
