"""Memory nodes: a model that does not fit into one of them is read across the link between processors."""

from __future__ import annotations

from advisor.facts.machine import Machine
from advisor.facts.plan import Memory, Warning_


def spans_nodes(machine: Machine, memory: Memory) -> Warning_ | None:
    """A warning where what the host must hold is more than the largest node that this process may use has."""
    nodes = [n for n in machine.host.numa if n.allowed and n.memory_bytes]
    need = memory.by_device.get("host")
    if len(nodes) < 2 or need is None:
        return None
    largest = max(n.memory_bytes or 0 for n in nodes)
    if need.value <= largest:
        return None
    return Warning_(
        code="spans-memory-nodes",
        message=f"The model takes {need.value / 2**30:.1f} GiB of host memory and spans memory nodes of at most "
        f"{largest / 2**30:.1f} GiB: CPU cores read part of it over the link between processors, so that decoding may "
        'be slower than predicted. With llama.cpp, "--numa distribute" spreads the reading evenly.',
    )
