"""Where nothing fits: the moves, their order, the commands that ask for them, smaller models of a family."""

from __future__ import annotations

import shlex
from typing import Any

import click
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.api.options import request_of
from advisor.cli.app import build as program
from advisor.facts.plan import PlanRequest, Recommendation
from advisor.facts.recipe import RecipeOptions
from advisor.model.resolve import resolve
from advisor.model.tensors import tensors
from advisor.planner.again import Named, command, size_word, time_word
from advisor.planner.moves import first_that
from advisor.planner.recommend import recommend
from advisor.planner.relax import ORDER
from advisor.planner.siblings import kin, siblings
from tests.unit.planner import planner_fakes as fakes
from tests.unit.planner.planner_run import GOALS, PACK, plan

GROUP = program()


def changes(found: Recommendation) -> list[str]:
    assert found.plans == ()
    return [r.change for r in found.relaxations]


def spoken(line: str) -> dict[str, Any]:
    """The keywords that the command line would hand to the library."""
    words = shlex.split(line)
    assert words[:2] == ["advisor", "recommend"]
    made = GROUP.get_command(click.Context(GROUP), "recommend")
    assert made is not None
    return dict(made.make_context("recommend", words[2:]).params)


REQUESTS = st.builds(
    PlanRequest,
    goal=st.sampled_from(sorted(GOALS)),
    context=st.none() | st.integers(256, 10**6),
    parallel=st.none() | st.integers(1, 512),
    method=st.sampled_from([None, "awq", "gguf"]),
    runtime=st.sampled_from([None, "vllm", "llama.cpp"]),
    kv_type=st.sampled_from([None, "q8_0"]),
    min_tps=st.none() | st.floats(0.01, 1e4).map(lambda v: round(v, 4)),
    max_memory_bytes=st.none() | st.integers(1, 2**45),
    min_quality=st.none() | st.floats(0.01, 1).map(lambda v: round(v, 6)),
    within_s=st.none() | st.integers(1, 10**6).map(float),
    no_download=st.booleans(),
    threads=st.none() | st.integers(1, 64),
    recipe=st.builds(
        RecipeOptions,
        bits=st.none() | st.integers(2, 8),
        group_size=st.none() | st.integers(1, 1024),
        desc_act=st.none() | st.booleans(),
        static_activations=st.none() | st.booleans(),
        layout=st.sampled_from([None, "gemv"]),
        damp=st.none() | st.floats(0.001, 0.9).map(lambda v: round(v, 6)),
    ),
)


@given(REQUESTS)
def test_the_command_line_asks_for_exactly_what_was_asked(request: PlanRequest) -> None:
    params = spoken(command(Named(model=("my model; rm -rf",)), request))
    assert params.pop("model") == "my model; rm -rf"
    known = {k: v for k, v in params.items() if k in _KEYS}
    assert request_of(known, top=request.top) == request  # type: ignore[arg-type]


_KEYS = {
    *(f for f in PlanRequest.__struct_fields__ if f not in ("recipe", "top", "pareto", "calibration", "adapter")),
    *("max_memory", "within"),
    *(f for f in RecipeOptions.__struct_fields__ if f != "sequence_length"),
}


def test_the_machine_is_named_again() -> None:
    named = Named(("8B",), ("rtx-3090:2", "Apple M2 Ultra (76)"), 16 * 10**9, 24 << 30, 1008 * 10**9, "a b.json")
    params = spoken(command(named, PlanRequest()).replace("'a b.json'", shlex.quote(__file__)))
    assert params["hardware"] == ("rtx-3090:2", "Apple M2 Ultra (76)")
    assert (params["memory"], params["vram"], params["bandwidth"]) == (16 * 10**9, 24 << 30, 1008 * 10**9)


@given(st.integers(1, 2**50))
def test_sizes_and_times_are_read_back_exactly(value: int) -> None:
    from advisor.cli.values import parse_duration, parse_size

    assert parse_size(size_word(value)) == value
    assert parse_duration(time_word(value % 10**8 + 1)) == value % 10**8 + 1
    assert parse_duration(time_word(0.5)) == 0.5


@given(st.integers(0, 40), st.integers(0, 40))
def test_of_a_series_the_first_that_holds(length: int, at: int) -> None:
    values = list(range(length))
    assert first_that(values, lambda v: v >= at) == (at if at < length else None)


@pytest.mark.parametrize(
    ("request_", "change", "kind"),
    [
        ({"context": 131072, "format": "q8_0"}, "kv-type f16 -> q8_0", "capacity"),
        ({"context": 131072, "format": "q8_0"}, "context 131072 -> 65536", "capacity"),
        ({"context": 65536, "format": "bf16"}, "format bf16 -> q8_0", "choice"),
        ({"max_memory_bytes": 2 * fakes.GB}, "without --max-memory 2GB", "limit"),
        ({"within_s": 5.0}, "without --within 5s", "limit"),
        ({"min_tps": 500.0}, "without --min-tps 500", "limit"),
        ({"parallel": 64, "format": "q6_k"}, "parallel 64 -> 8", "much-capacity"),
    ],
)
def test_each_move_leads_to_a_plan_and_a_command(request_: dict[str, Any], change: str, kind: str) -> None:
    found = plan(8.0, fakes.machine(fakes.host(21 * fakes.GB)), **request_)
    moved = {r.change: r for r in found.relaxations}
    assert change in moved, changes(found)
    told = moved[change]
    assert told.gives_up == kind
    assert told.command is not None
    params = spoken(told.command)
    option, _, value = change.partition(" ")
    if " -> " in change:
        wanted = value.rpartition(" -> ")[2]
        assert str(params[option.replace("-", "_")]) == wanted
    else:
        name = change.split("--")[1].split()[0].replace("-", "_")
        assert not params[name]
    again = plan(8.0, fakes.machine(fakes.host(21 * fakes.GB)), **_kept(params))
    assert again.plans[0].id == told.plan.id, "the command finds the plan that it was offered with"


def _kept(params: dict[str, Any]) -> dict[str, Any]:
    out = {k: v for k, v in params.items() if k in PlanRequest.__struct_fields__ and k not in ("goal", "top")}
    return out | {"max_memory_bytes": params["max_memory"], "within_s": params["within"]}


def test_the_least_that_is_given_up_comes_first() -> None:
    busy = fakes.host(21 * fakes.GB)
    memory = msgspec.structs.replace(busy.memory, available_bytes=12 * fakes.GB)
    found = plan(8.0, fakes.machine(msgspec.structs.replace(busy, memory=memory)), context=32768, format="q8_0")
    kinds = [ORDER.index(r.gives_up) for r in found.relaxations]
    assert kinds == sorted(kinds) and len(set(kinds)) >= 4
    assert found.relaxations[0].change == "other programs closed, so that all memory is free"
    assert [r.change for r in found.relaxations if r.gives_up == "choice"] == [
        "format q8_0 -> q6_k",
        "without --format q8_0",
    ]


def test_a_group_that_nothing_takes_is_moved_to_the_nearest_that_works() -> None:
    card = fakes.machine(fakes.host(4 * fakes.GB), fakes.rtx_4090().devices[0])
    found = plan(8.0, card, method="awq", runtime="vllm", recipe=RecipeOptions(group_size=256))
    assert changes(found)[0] == "group-size 256 -> 128"
    assert found.relaxations[0].plan.format == "w4a16-g128"
    assert spoken(found.relaxations[0].command or "")["group_size"] == 128
    narrow = plan(0.135, card, method="awq", runtime="vllm", recipe=RecipeOptions(group_size=128))
    assert changes(narrow)[0] == "group-size 128 -> 64", "rows of 576 are divided by 64"


def test_a_cache_that_the_heads_cannot_have_is_moved_to_16_bits() -> None:
    phi = resolve("microsoft/phi-2")
    found = plan(phi, fakes.cpu_only(), kv_type="q8_0", runtime="llama.cpp")
    assert changes(found)[0] == "kv-type q8_0 -> f16"
    assert found.relaxations[0].plan.settings.kv_type == "f16"


def test_more_devices_are_as_many_as_it_takes_and_named_by_their_profiles() -> None:
    card = msgspec.structs.replace(fakes.rtx_4090().devices[0], profile="rtx-4090")
    machine = fakes.machine(fakes.host(8 * fakes.GB), card)
    found = plan(70.0, machine, method="none", runtime="vllm")
    (more,) = [r for r in found.relaxations if "RTX" in r.change]
    assert more.change.endswith("instead of 1") and more.gives_up == "hardware" and not more.plan.executable_here
    count = int(more.change.split()[0])
    assert spoken(more.command or "")["hardware"] == (f"rtx-4090:{count}",)
    assert len(more.plan.devices) == count
    fewer = plan(70.0, _with(machine, card, count // 2), method="none", runtime="vllm")
    assert fewer.plans == (), "half as many do not do"
    nameless = plan(
        70.0, fakes.machine(fakes.host(8 * fakes.GB), msgspec.structs.replace(card, profile=None)), method="none"
    )
    assert [r.command for r in nameless.relaxations if card.name in r.change] == [None]


def _with(machine: Any, card: Any, count: int) -> Any:
    cards = tuple(msgspec.structs.replace(card, id=f"gpu{i}") for i in range(count))
    return msgspec.structs.replace(machine, devices=cards)


def test_no_single_change_helps_but_all_wishes_dropped_do() -> None:
    found = plan(0.135, fakes.cpu_only(), min_tps=10**6, min_quality=1.0, within_s=0.1)
    assert changes(found) == ["without --min-tps, --min-quality and --within"]
    assert found.relaxations[0].command == "advisor recommend org/model-0.135b"


# ------------------------------------------------------------------------------------------- siblings


@pytest.mark.parametrize(
    ("ref", "first", "never"),
    [
        ("meta-llama/Llama-3.3-70B-Instruct", "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B"),
        ("Qwen/Qwen2.5-Coder-32B-Instruct", "Qwen/Qwen2.5-Coder-14B-Instruct", "Qwen/Qwen2.5-14B-Instruct"),
        ("Qwen/Qwen2.5-VL-72B-Instruct", "Qwen/Qwen2.5-VL-32B-Instruct", "Qwen/Qwen2.5-32B-Instruct"),
        ("openai/gpt-oss-120b", "openai/gpt-oss-20b", "openai/gpt-oss-safeguard-20b"),
        ("mistralai/Mixtral-8x22B-Instruct-v0.1", "mistralai/Mixtral-8x7B-Instruct-v0.1", "mistralai/Mixtral-8x22B"),
        ("70B", "32B", "70B"),
        ("671B:37B", "235B:22B", "671B:37B"),
    ],
)
def test_a_smaller_sibling_is_of_the_same_family_and_kind(ref: str, first: str, never: str) -> None:
    model = resolve(ref)
    found = siblings(model)
    assert found[0].ref == first
    assert never not in {m.ref for m in found}
    sizes = [m.params for m in found]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] < model.params


def test_a_model_without_a_family_has_no_siblings() -> None:
    assert siblings(fakes.model(8.0)) == ()
    assert kin("meta-llama/Llama-3.3-70B-Instruct") == {"llama", "instruct"}
    assert kin("Qwen/Qwen3-235B-A22B-Instruct-2507") == {"qwen", "instruct"}


def test_the_largest_sibling_that_fits_is_offered() -> None:
    model = resolve("meta-llama/Llama-3.3-70B-Instruct")
    found = recommend(
        *(model, tensors(model), fakes.machine(fakes.host(8 * fakes.GB)), GOALS["chat"], PlanRequest(), PACK),
        runtimes=fakes.runtimes(),
        quantizers=fakes.quantizers(),
        executable_here=False,
    )
    (sibling,) = [r for r in found.relaxations if r.gives_up == "model"]
    assert sibling.plan.model == "meta-llama/Llama-3.1-8B-Instruct"
    assert spoken(sibling.command or "")["model"] == "meta-llama/Llama-3.1-8B-Instruct"
    assert found.relaxations[-1] is sibling, "another model gives up most"


# ------------------------------------------------------------------------------------------- what came closest


def test_the_closest_say_each_limit_that_they_miss_in_figures() -> None:
    machine = fakes.machine(fakes.host(21 * fakes.GB))
    found = plan(8.0, machine, min_tps=500.0, max_memory_bytes=5 * fakes.GB, method="gguf", runtime="llama.cpp")
    near = [r for r in found.rejected if r.misses]
    assert near == list(found.rejected[: len(near)]), "near misses come first"
    slow = next(r for r in near if r.format == "q2_k")
    assert len(slow.misses) == 1 and "--min-tps wants 500" in slow.misses[0]
    large = next(r for r in near if r.format == "q8_0")
    assert ["above --max-memory" in large.misses[0], "--min-tps" in large.misses[1]] == [True, True]
    assert large.devices == ("host",)
    demanding = plan(8.0, machine, min_quality=0.9999, format="q2_k", within_s=1.0)
    said = " ".join(demanding.rejected[0].misses)
    assert "--min-quality wants 100.0%" in said and "--within allows 1.0 s" in said
