"""Layers and experts on a device, its work buffer, and the replay of the engine's allocator behind it."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.cost.arena import Holes, Node, buffer_bytes
from advisor.cost.device_work import Habits, device_work, habits
from advisor.cost.gguf_file import weight_map
from advisor.cost.kv import cells
from advisor.cost.llama_memory import memory
from advisor.cost.offload import engine_buffers, expert_layers_on_host, gpu_layers_that_fit
from advisor.cost.placement import place
from advisor.facts.plan import Settings
from advisor.facts.quantity import Quantity
from tests.support import shapes

MIB = 1 << 20
PLACES = ("gpu0", "host")
MACHINE = shapes.machine(shapes.gpu(memory=24 << 30))
B9190 = Habits(512, True)
DENSE = shapes.KNOWN["llama-3.1-8b"]
MOE = shapes.KNOWN["qwen3-30b-a3b"]


def work(arch: shapes.Arch, fmt: str, settings: Settings, how: Habits = B9190) -> Quantity:
    model, tensors = shapes.facts(arch), shapes.tensors(arch)
    weights = weight_map(model, tensors, fmt, imatrix=False, as_is=False)
    at = place(len(weights.layers), settings, MACHINE, PLACES)
    return device_work(model, tensors, settings, cells(model, settings), weights, at, "gpu0", how)


# Buffers that llama.cpp b9190 allocated on a Vulkan device (MiB), all with one sequence and f16 cache.
MEASURED = [
    (DENSE._replace(layers=4, vocab=512), "q4_k_m", 5, 512, 512, 109.51),
    (DENSE._replace(layers=4, vocab=512), "q4_k_m", 5, 8192, 512, 116.01),
    (DENSE._replace(layers=4, vocab=512), "q4_k_m", 2, 8192, 512, 128.5),
    (DENSE._replace(layers=4, vocab=512), "q8_0", 2, 512, 128, 87.5),
    (shapes.KNOWN["qwen2.5-0.5b"]._replace(layers=6, vocab=512), "q8_0", 7, 8192, 512, 48.76),
    (shapes.KNOWN["qwen3-0.6b"]._replace(layers=6, vocab=512), "q8_0", 7, 8192, 512, 38.01),
    (shapes.KNOWN["qwen3-0.6b"]._replace(layers=6, vocab=512), "q8_0", 2, 8192, 512, 70.12),
    (shapes.KNOWN["gemma-3-27b"]._replace(layers=12, vocab=512), "q4_k_m", 13, 8192, 512, 183.52),
    (MOE._replace(layers=4, experts=16, used=4, vocab=512), "q8_0", 5, 8192, 512, 56.01),
    (MOE._replace(layers=4, experts=32, used=8, vocab=512), "q4_k_m", 5, 512, 128, 21.38),
    (MOE._replace(layers=4, experts=16, used=4, vocab=512), "q8_0", 2, 8192, 512, 81.5),
    (shapes.KNOWN["smollm2-135m"], "q8_0", 31, 512, 512, 101.51),
    (shapes.KNOWN["smollm2-135m"], "q8_0", 12, 8192, 512, 101.41),
    (shapes.KNOWN["smollm2-135m"], "q8_0", 31, 512, 128, 25.38),
]


@pytest.mark.parametrize(("arch", "fmt", "layers", "context", "ubatch", "mib"), MEASURED)
def test_work_buffer_is_near_what_was_measured(
    arch: shapes.Arch, fmt: str, layers: int, context: int, ubatch: int, mib: float
) -> None:
    settings = Settings(context=context, ubatch=ubatch, gpu_layers=layers)
    told = work(arch, fmt, settings, Habits(ubatch, True))
    assert told.low <= (mib + 0.01) * MIB
    assert (mib - 0.01) * MIB <= told.high
    if layers > arch.layers:
        assert told.value / MIB == pytest.approx(mib, rel=0.08)


def test_newer_builds_reserve_logits_for_the_slots_only() -> None:
    settings = Settings(context=4096, gpu_layers=33)
    assert habits("vulkan", 512) == B9190
    new, old = work(DENSE, "q8_0", settings, habits("build", 512)), work(DENSE, "q8_0", settings)
    assert old.value > 4 * 512 * DENSE.vocab > new.value


def test_an_unknown_graph_gets_wide_bounds_and_no_less_than_its_logits() -> None:
    arch = DENSE._replace(arch="mamba3", layers=4)
    told = work(arch, "q8_0", Settings(context=4096, gpu_layers=5))
    assert told.method == "guess"
    assert told.low < told.value < told.high
    assert told.value >= 4 * 512 * arch.vocab


@given(st.lists(st.tuples(st.integers(1, 5000), st.booleans()), max_size=60))
def test_holes_never_overlap_and_all_comes_back(script: list[tuple[int, bool]]) -> None:
    holes = Holes()
    held: list[tuple[int, int]] = []
    for size, release in script:
        if release and held:
            holes.give(*held.pop(size % len(held)))
            continue
        held.append((holes.take(size), size))
        spans = sorted((a, a + s) for a, s in held)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert holes.top >= spans[-1][1]
    for one in held:
        holes.give(*one)
    assert len(holes.free) == 1
    assert holes.free[0][0] == 0


def test_copies_of_weights_do_not_pile_up_and_results_take_their_operands_place() -> None:
    x = Node(1000, place="host")
    graph = []
    for _ in range(5):
        x = Node(1000, [x], weight=64_000)
        graph.append(x)
    # One weight, and two rows: what goes in and what comes out.
    assert 66_000 <= buffer_bytes(graph) <= 64_000 * 2
    x = start = Node(6400)
    chain = [start]
    for _ in range(5):
        x = Node(6400, [x], reuses=True)
        chain.append(x)
    assert buffer_bytes(chain) == 6400


@given(room=st.integers(200, 40_000), context=st.sampled_from([512, 4096, 32768]))
def test_planned_layers_fit_and_one_more_does_not(room: int, context: int) -> None:
    model, tensors = shapes.facts(DENSE), shapes.tensors(DENSE)
    base = Settings(context=context)
    given_room = room * MIB

    def need(n: int) -> float:
        tried = msgspec.structs.replace(base, gpu_layers=n)
        all_of_it = memory(model, tensors, fmt="q4_k_m", settings=tried, machine=MACHINE, devices=PLACES, as_is=False)
        return engine_buffers(all_of_it.by_device["gpu0"], MACHINE, "gpu0").high

    n = gpu_layers_that_fit(
        model, tensors, fmt="q4_k_m", settings=base, machine=MACHINE, device="gpu0", as_is=False, room=given_room
    )
    assert 0 <= n <= 33
    if n:
        assert need(n) <= given_room
    if n < 33:
        assert need(n + 1) > given_room


def test_experts_go_to_the_host_before_layers_do() -> None:
    model, tensors = shapes.facts(MOE), shapes.tensors(MOE)
    base = Settings(context=8192)

    def held(gib: int) -> int | None:
        card = shapes.machine(shapes.gpu(memory=gib << 30))
        return expert_layers_on_host(
            model, tensors, fmt="q4_k_m", settings=base, machine=card, device="gpu0", as_is=False
        )

    assert held(48) == 0
    twelve, sixteen = held(12), held(16)
    assert twelve is not None
    assert sixteen is not None
    assert 48 >= twelve > sixteen > 0
    assert held(2) is None
    dense = shapes.facts(DENSE), shapes.tensors(DENSE)
    card = shapes.machine(shapes.gpu(memory=4 << 30))
    assert expert_layers_on_host(*dense, fmt="q4_k_m", settings=base, machine=card, device="gpu0") is None
    everything = msgspec.structs.replace(base, gpu_layers=49, cpu_moe_layers=twelve)
    need = memory(
        model,
        tensors,
        fmt="q4_k_m",
        settings=everything,
        machine=shapes.machine(shapes.gpu(memory=12 << 30)),
        devices=PLACES,
        as_is=False,
    )
    weights = weight_map(model, tensors, "q4_k_m", imatrix=False, as_is=False)
    assert need.by_device["host"].value > sum(weights.experts[:twelve])
    assert need.by_device["gpu0"].high <= 12 << 30
