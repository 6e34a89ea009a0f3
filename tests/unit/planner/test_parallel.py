"""Several devices: by heads and columns, by layers, and how many layers each unequal one takes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor import api
from advisor.cost.llama_memory import memory
from advisor.facts.plan import Plan, Settings
from advisor.model.resolve import resolve
from advisor.model.tensors import tensors
from advisor.planner import parallel
from advisor.planner.sharing import shared_out
from advisor.planner.targets import MIXED, targets
from tests.unit.planner import planner_fakes as fakes

LLAMA_70B = resolve("meta-llama/Llama-3.3-70B-Instruct")
QWEN_72B = resolve("qwen2.5:72b")


def plans(model: str, *hardware: str, ram: int = 64 * 10**9, **options: object) -> tuple[Plan, ...]:
    return api.recommend(model, hardware=hardware, memory=ram, top=200, **options).plans  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("count", "machines", "wanted"),
    [(1, 1, 1), (2, 1, 1), (3, 1, 3), (4, 1, 1), (6, 1, 3), (8, 1, 1), (12, 2, 3), (16, 1, 1), (16, 2, 2)],
)
def test_devices_that_do_not_divide_the_heads_share_out_the_layers(count: int, machines: int, wanted: int) -> None:
    known = tensors(LLAMA_70B)
    groups = parallel.stages(LLAMA_70B, known, count, machines)
    assert groups == wanted
    assert parallel.heads_divide(LLAMA_70B, count // groups)
    assert (count // groups) * machines <= max(count, machines)


def test_groups_are_whole_on_each_device() -> None:
    known = tensors(QWEN_72B)  # rows of 29568
    assert parallel.rank_group_divides(128, 1, known) is True
    assert parallel.rank_group_divides(128, 2, known) is False
    assert parallel.rank_group_divides(64, 2, known) is True
    assert parallel.rank_group_divides(None, 2, known) is True
    assert parallel.rank_group_divides(128, 2, ()) is None
    assert parallel.columns_divide(2, known) is True and parallel.columns_divide(5, known) is False
    assert parallel.columns_divide(2, ()) is None


def test_a_smaller_group_is_tried_where_128_does_not_divide_a_devices_rows() -> None:
    found = plans("qwen2.5:72b", "rtx-a6000:2", runtime="vllm", goal="serving")
    by_group = {(p.method, p.format, len([d for d in p.devices if d != "host"])) for p in found}
    assert ("awq", "w4a16-g64", 2) in by_group
    assert ("awq", "w4a16-g128", 2) not in by_group
    named = plans("qwen2.5:72b", "rtx-a6000:2", runtime="vllm", goal="serving", method="awq", format="w4a16-g128")
    assert not any(p.settings.tensor_parallel == 2 for p in named)


def test_one_device_for_one_user_and_all_of_them_for_many() -> None:
    one = plans("meta-llama/Llama-3.1-8B-Instruct", "rtx-3090:2")[0]
    assert one.devices == ("gpu0",)
    many = plans("meta-llama/Llama-3.1-8B-Instruct", "rtx-3090:2", goal="serving")[0]
    assert len(many.devices) == 2
    both = next(p for p in plans("meta-llama/Llama-3.1-8B-Instruct", "rtx-3090:2") if p.settings.tensor_parallel == 2)
    assert any(d.rule == "GUIDE-150" for d in both.decisions)


def test_sixteen_named_devices_stand_in_two_machines() -> None:
    found = plans("deepseek-ai/DeepSeek-V3", "h100:16", ram=2 * 10**12, goal="serving")
    first = found[0]
    assert (first.settings.tensor_parallel, first.settings.pipeline_parallel) == (8, 2)
    assert first.status == "needs" and any("2 machines of 8" in need for need in first.needs)
    assert first.devices[:3] == ("gpu0", "gpu1", "gpu2") and first.devices[-1] == "gpu15"
    assert max(p.settings.tensor_parallel for p in found) == 8
    line = first.commands.serve[0]
    assert line[line.index("--pipeline-parallel-size") + 1] == "2"


def test_layers_on_groups_of_devices_take_as_long_as_on_one() -> None:
    spread = plans("meta-llama/Llama-3.3-70B-Instruct", "rtx-3090:3", goal="serving", method="awq", runtime="vllm")[0]
    assert (spread.settings.tensor_parallel, spread.settings.pipeline_parallel) == (1, 3)
    assert any(d.rule == "RT-052" for d in spread.decisions)
    assert spread.speed.decode is not None and spread.speed.decode.value < 936e9 / 36e9


def test_cards_of_two_makers_take_llama_cpp_alone() -> None:
    found = plans("meta-llama/Llama-3.3-70B-Instruct", "rtx-3090", "rx-7900-xtx")
    together = [p for p in found if {"gpu0", "gpu1"} <= set(p.devices)]
    assert together and {p.runtime for p in together} == {"llama.cpp"}
    assert all("Vulkan" in need for p in together for need in p.needs)
    report = api.recommend("meta-llama/Llama-3.3-70B-Instruct", hardware=("rtx-3090", "rx-7900-xtx"), memory=64 * 10**9)
    machine = report.machine
    assert {t.kind for t in targets(machine) if len(t.devices) == 2} == {MIXED}


def card(size_gib: float, n: int) -> tuple[str, int, int]:
    return f"gpu{n}", 0, int(size_gib * fakes.GIB)


@given(
    sizes=st.lists(st.integers(1, 80), min_size=2, max_size=6),
    blocks=st.integers(1, 120),
    each=st.integers(1 << 20, 1 << 31),
    fixed=st.integers(0, 1 << 30),
)
def test_no_device_gets_more_layers_than_it_has_room_for(sizes: list[int], blocks: int, each: int, fixed: int) -> None:
    cards = [fakes.nvidia("X", n * fakes.GIB, 10**12, 8.6, n=i) for i, n in enumerate(sizes)]
    machine = fakes.machine(fakes.host(16 * fakes.GB), *cards)
    even = Settings(context=1024, gpu_layers=blocks + 1, tensor_split=(1.0,) * len(sizes))
    from advisor.cost.placement import place

    def parts(settings: Settings) -> list[tuple[str, int, int]]:
        at = place(blocks, settings, machine, [c.id for c in cards])
        homes = [*at.layers, at.output]
        return [(c.id, homes.count(c.id) * each + fixed, n * fakes.GIB) for c, n in zip(cards, sizes, strict=True)]

    counts = shared_out(blocks, even, machine, parts(even), float(each))
    room = [(n * fakes.GIB - fixed) // each for n in sizes]
    if counts is None:
        assert sum(max(0, r) for r in room) < blocks + 1
        return
    assert sum(counts) == blocks + 1 and all(0 <= c <= max(0, r) for c, r in zip(counts, room, strict=True))
    after = msgspec.structs.replace(even, tensor_split=tuple(float(c) for c in counts))
    assert all(need <= limit for _, need, limit in parts(after) if need > fixed)
    at = place(blocks, after, machine, [c.id for c in cards])
    homes = [*at.layers, at.output]
    assert [homes.count(c.id) for c in cards] == list(counts)


def test_shares_of_unequal_devices_fit_each_of_them() -> None:
    """Shares by memory put more on the small card than it holds beside its driver and work buffer."""
    for context in (4096, 16384, 32768):
        for plan in plans("qwen2.5:32b", "rtx-4090", "rtx-3060", method="gguf", context=context):
            for key, need in plan.memory.by_device.items():
                size = {"gpu0": 24, "gpu1": 12}.get(key)
                assert size is None or need.value <= 0.95 * size * fakes.GIB
    (moved,) = [p for p in plans("qwen2.5:32b", "rtx-4090", "rtx-2060", format="q6_k") if p.devices == ("gpu0", "gpu1")]
    split = moved.settings.tensor_split
    assert split is not None and sum(split) == 65 and all(n == int(n) for n in split)
    by_memory = msgspec.structs.replace(moved.settings, tensor_split=(24 / 30, 6 / 30))
    machine = api.recommend("8B", hardware=("rtx-4090", "rtx-2060"), memory=64 * 10**9).machine
    model = resolve("qwen2.5:32b")
    known = tensors(model)
    need = memory(model, known, fmt="q6_k", settings=by_memory, machine=machine, devices=moved.devices).by_device
    assert need["gpu1"].value > 0.95 * 6 * fakes.GIB
    line = moved.commands.serve[0]
    assert line[line.index("-ts") + 1] == ",".join(f"{n:g}" for n in split)
