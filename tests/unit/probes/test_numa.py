"""Memory nodes: what each has, which are granted, and a note where a model spans them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.facts.plan import Memory
from advisor.facts.quantity import Quantity, exact
from advisor.planner.numa import spans_nodes
from advisor.probes.cpu import cpu_list
from advisor.probes.detect import detect
from advisor.probes.record import load_machine
from advisor.probes.sanity import Notes
from advisor.probes.surroundings import allowed_memory, read_numa
from tests.unit.probes.fake import GIB, MACHINES, FakeSource

NODES = "/sys/devices/system/node"


def machine(status: str = "", *, limit: int | None = None) -> FakeSource:
    """Three nodes: 64 GiB, 32 GiB, and one of memory only."""
    files = {
        "/proc/meminfo": f"MemTotal: {112 * GIB // 1024} kB\nMemAvailable: {100 * GIB // 1024} kB\n",
        "/proc/self/status": status,
        f"{NODES}/node0/cpulist": "0-3,8-11\n",
        f"{NODES}/node1/cpulist": "4-7\n",
        f"{NODES}/node2/cpulist": "\n",
    }
    for node, size in ((0, 64), (1, 32), (2, 16)):
        files[f"{NODES}/node{node}/meminfo"] = (
            f"Node {node} MemTotal:       {size * GIB // 1024} kB\nNode {node} MemFree: {GIB // 1024} kB\n"
        )
    if limit is not None:
        files["/proc/self/cgroup"] = "0::/\n"
        files["/proc/self/mountinfo"] = "30 22 0:27 / /cg rw - cgroup2 cgroup2 rw\n"
        files["/cg/memory.max"] = str(limit)
    return FakeSource(files, names={NODES: ("has_memory", "node0", "node1", "node10x", "node2", "online")})


def memory(host: int) -> Memory:
    """Needs of a plan, of which the host has this."""
    nothing = exact(0, "bytes", "test")
    need: Quantity = exact(host, "bytes", "test")
    return Memory(
        weights=need,
        kv_cache=nothing,
        state=nothing,
        compute=nothing,
        output=nothing,
        repack=nothing,
        overhead=nothing,
        total=need,
        reserved=None,
        by_device={"host": need},
    )


def test_the_recorded_machine_of_two_sockets() -> None:
    host = load_machine(MACHINES / "numa-dual-socket").machine.host
    assert [(n.id, n.cpus, n.cores_logical, n.memory_bytes) for n in host.numa] == [
        (0, "0-31,64-95", 64, 128 * GIB),
        (1, "32-63,96-127", 64, 128 * GIB),
    ]
    assert host.memory.limit_bytes is None
    assert (host.cpu.cores_physical, host.cpu.cores_logical) == (64, 128)


def test_nodes_in_order_with_one_that_has_no_cpus() -> None:
    nodes = read_numa(machine(), Notes())
    assert [(n.id, n.cpus, n.cores_logical, n.memory_bytes, n.free_bytes) for n in nodes] == [
        (0, "0-3,8-11", 8, 64 * GIB, GIB),
        (1, "4-7", 4, 32 * GIB, GIB),
        (2, "", 0, 16 * GIB, GIB),
    ]
    assert all(n.allowed for n in nodes)


@pytest.mark.parametrize(
    ("status", "limit", "expected"),
    [
        ("", None, None),
        ("Mems_allowed_list:\t0-2\n", None, None),
        ("Mems_allowed_list:\t1\n", None, 32 * GIB),
        ("Mems_allowed_list:\t0,2\n", None, 80 * GIB),
        ("Mems_allowed_list:\t1\n", 8 * GIB, 8 * GIB),
        ("Mems_allowed_list:\t1\n", 48 * GIB, 32 * GIB),
        ("Mems_allowed_list:\tnonsense\n", None, None),
        ("Mems_allowed_list:\t77\n", None, None),
    ],
)
def test_a_cpuset_that_leaves_nodes_out_limits_memory(status: str, limit: int | None, expected: int | None) -> None:
    host = detect(machine(status, limit=limit)).machine.host
    assert host.memory.limit_bytes == expected
    assert host.memory.available_bytes is not None
    assert host.memory.available_bytes <= (expected or host.memory.total_bytes)


def test_unknown_sizes_limit_nothing() -> None:
    source = machine("Mems_allowed_list:\t1\n")
    del source.files[f"{NODES}/node1/meminfo"]
    assert allowed_memory(read_numa(source, Notes())) is None


@pytest.mark.parametrize(("need", "warned"), [(127 * GIB, False), (128 * GIB, False), (128 * GIB + 1, True)])
def test_a_model_that_spans_nodes_is_told_of(need: int, warned: bool) -> None:
    found = spans_nodes(load_machine(MACHINES / "numa-dual-socket").machine, memory(need))
    assert (found is not None) == warned
    if found is not None:
        assert found.code == "spans-memory-nodes"
        assert "--numa distribute" in found.message


def test_one_node_is_never_spanned() -> None:
    assert spans_nodes(load_machine(MACHINES / "docker-cgroup-v2-no-gpu").machine, memory(1 << 45)) is None


@settings(deadline=None)
@given(st.text(max_size=200), st.text(max_size=60), st.text(max_size=60))
def test_malformed_files_never_raise(info: str, cpus: str, status: str) -> None:
    source = machine("Mems_allowed_list:" + status)
    source.files |= {f"{NODES}/node0/meminfo": info, f"{NODES}/node0/cpulist": cpus}
    for node in detect(source).machine.host.numa:
        assert node.memory_bytes is None or 0 <= node.memory_bytes <= 1 << 50
        assert len(cpu_list(node.cpus)) == node.cores_logical
