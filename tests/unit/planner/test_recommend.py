"""What is picked where, what is left out and why, and that nothing depends on order."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.facts.machine import Machine
from advisor.facts.plan import PlanRequest
from advisor.guide.load import load_pack
from advisor.planner.recommend import recommend
from tests.unit.planner import planner_fakes as fakes
from tests.unit.planner.planner_run import GOALS, PACK, picks, plan

NOTHING_LEFT = """schema: advisor/rules/v1
family: mine
layer: user
rules:
  - id: USR-001
    name: no-gguf
    kind: exclude
    when: {candidate.method: gguf}
    because: My own reason against GGUF.
    sources: [{title: me}]
    examples: {fires: [{candidate.method: gguf}], silent: [{candidate.method: awq}]}
  - id: USR-002
    name: gguf-only
    kind: require
    when: {candidate.runtime: {present: true}}
    requires: {candidate.method: gguf}
    because: My own reason for GGUF.
    sources: [{title: me}]
    examples:
      fires: [{candidate.runtime: vllm, candidate.method: awq}]
      silent: [{candidate.runtime: llama.cpp, candidate.method: gguf}]
"""
AWQ = ("awq", "w4a16-g128", "vllm")


def gguf(fmt: str) -> tuple[str, str, str]:
    return ("gguf", fmt, "llama.cpp")


@pytest.mark.parametrize(
    ("size", "machine", "goal", "first"),
    [
        (8.0, fakes.cpu_only, "chat", gguf("q4_k_m")),
        (8.0, fakes.cpu_only, "coding", gguf("q5_k_m")),
        (8.0, fakes.cpu_only, "accuracy", gguf("q8_0")),
        (8.0, fakes.cpu_only, "serving", gguf("q4_k_m")),
        (8.0, fakes.cpu_only, "throughput", gguf("q4_k_m")),
        (8.0, fakes.cpu_only, "fastest-deployment", gguf("q4_k_m")),
        (8.0, fakes.cpu_only, "smallest-memory", gguf("iq4_xs")),
        (8.0, fakes.cpu_only, "adapter", gguf("q4_k_m")),
        (8.0, fakes.cpu_only, "edge", gguf("q4_k_m")),
        (0.135, fakes.cpu_only, "chat", gguf("q4_k_m")),
        (0.135, fakes.cpu_only, "accuracy", gguf("q8_0")),
        (8.0, fakes.rtx_4090, "chat", AWQ),
        (8.0, fakes.rtx_4090, "serving", AWQ),
        (8.0, fakes.rtx_4090, "edge", AWQ),
        (8.0, fakes.rtx_4090, "adapter", AWQ),
        (8.0, fakes.rtx_4090, "throughput", AWQ),
        (8.0, fakes.rtx_4090, "accuracy", ("none", "bf16", "vllm")),
        (8.0, fakes.rtx_4090, "fastest-deployment", ("nf4", "nf4", "transformers")),
        (8.0, fakes.rtx_4090, "smallest-memory", gguf("iq4_xs")),
        (70.0, fakes.rtx_4090, "chat", gguf("q4_k_m")),
        (8.0, fakes.t4, "accuracy", ("gptq", "w4a16-g32", "vllm")),
        (8.0, fakes.h100, "throughput", ("fp8", "fp8", "vllm")),
        (8.0, fakes.m2_ultra, "chat", gguf("q4_k_m")),
        (8.0, fakes.m2_ultra, "coding", gguf("q5_k_m")),
        (70.0, fakes.m2_ultra, "accuracy", gguf("q8_0")),
    ],
)
def test_the_guides_pick_comes_first(size: float, machine: Any, goal: str, first: tuple[str, str, str]) -> None:
    assert picks(plan(size, machine(), goal))[0] == first


def test_on_a_cpu_the_first_plan_is_ready_and_never_16_bit() -> None:
    for goal in GOALS:
        for size in (0.135, 8.0):
            first = plan(size, fakes.cpu_only(), goal).plans[0]
            assert (first.status, first.executable_here, first.needs) == ("ready", True, ())
            assert first.format not in ("f16", "bf16")
            assert first.devices == ("host",)


def test_on_a_named_card_the_plan_says_what_it_needs() -> None:
    first = plan(8.0, fakes.rtx_4090()).plans[0]
    assert (first.status, first.executable_here, first.needs) == ("needs", False, ("vllm installed",))
    assert first.settings.gpu_memory_utilization == 0.92
    assert first.parameters["quantize.zero_point"] is True
    cited = next(d for d in first.decisions if d.rule == "GUIDE-001")
    assert {s.doc for s in cited.sources} == {"000", "001", "003"}


def test_accuracy_sets_activation_order() -> None:
    found = plan(8.0, fakes.rtx_4090(), "accuracy", method="gptq", top=1).plans[0]
    assert found.parameters["quantize.desc_act"] is True
    assert found.parameters["quantize.damp"] == 0.01
    assert found.parameters["quantize.samples"] == 512
    chat = plan(8.0, fakes.rtx_4090(), "chat", method="gptq", top=1).plans[0]
    assert "quantize.desc_act" not in chat.parameters and chat.parameters["quantize.samples"] == 128


def test_a_split_fills_the_card_and_fits_both_memories() -> None:
    machine = fakes.rtx_4090()
    first = plan(70.0, machine).plans[0]
    assert first.devices == ("gpu0", "host")
    assert 0 < first.settings.gpu_layers < 80
    free = machine.devices[0].memory.free_bytes
    assert free is not None and first.memory.by_device["gpu0"].value <= free
    assert first.memory.by_device["host"].value <= machine.host.memory.total_bytes


def test_every_plan_can_run_where_it_says() -> None:
    caps = fakes.runtimes()
    for machine in (fakes.cpu_only(), fakes.rtx_4090(), fakes.t4(), fakes.m2_ultra(), fakes.h100()):
        for goal in GOALS:
            for p in plan(8.0, machine, goal, top=1000).plans:
                kinds = {d.vendor for d in machine.devices if d.id in p.devices} or {"cpu"}
                assert kinds <= set(caps[p.runtime].devices)
                assert caps[p.runtime].loads(p.method, p.format)
                assert (p.runtime == "llama.cpp") == (p.method == "gguf")
                for key, need in p.memory.by_device.items():
                    device = next((d for d in machine.devices if d.id == key), None)
                    memory = device.memory.free_bytes if device else machine.host.memory.available_bytes
                    assert memory is not None and need.value <= memory


def test_rejections_name_rule_reason_and_alternative() -> None:
    found = plan(8.0, fakes.rtx_4090(), top=1)
    by_rule = {(r.method, r.runtime, r.rule): r for r in found.rejected}
    awq = by_rule["awq", "llama.cpp", "RT-004"]
    assert "GGUF" in awq.because and awq.instead and awq.short_by is None
    assert ("gguf", "vllm", "RT-002") in by_rule
    assert ("nf4", "vllm", "RT-012") in by_rule
    assert ("none", "mlx", "RT-003") in by_rule
    assert len(by_rule) == len(found.rejected)
    assert found.candidates_considered > 100


def test_a_format_that_nothing_makes_is_not_planned() -> None:
    found = plan(8.0, fakes.rtx_4090(), top=1000)
    assert "mxfp4" not in {p.method for p in found.plans}
    assert {r.rule for r in found.rejected if (r.method, r.runtime) == ("mxfp4", "vllm")} == {"RT-904"}
    made = fakes.model(8.0, weights_format="safetensors", weights_dtype="mxfp4", path="/m")
    (first, *_) = plan(made, fakes.rtx_4090(), method="mxfp4").plans
    assert (first.source, first.quantizer, first.runtime) == ("prequantized", None, "vllm")


def test_what_runs_somewhere_is_not_rejected() -> None:
    for machine in (fakes.rtx_4090(), fakes.t4(), fakes.cpu_only()):
        found = plan(8.0, machine, top=1000)
        runs = set(picks(found))
        assert not runs & {(r.method, r.format, r.runtime) for r in found.rejected}


def test_rules_that_leave_nothing_are_named(tmp_path: Any) -> None:
    (tmp_path / "mine.yaml").write_text(NOTHING_LEFT)
    pack = load_pack(overlay=tmp_path)
    assert pack.problems == ()
    found = plan(8.0, fakes.cpu_only(), pack=pack)
    assert found.plans == ()
    assert {"USR-001", "USR-002"} <= {r.rule for r in found.rejected}
    assert found.overlay_rules == ("USR-001", "USR-002")


def test_a_bad_rule_file_is_a_warning_and_the_rest_works(tmp_path: Any) -> None:
    (tmp_path / "mine.yaml").write_text("a: &a [*a]")
    found = plan(8.0, fakes.cpu_only(), pack=load_pack(overlay=tmp_path))
    assert picks(found)[0] == gguf("q4_k_m")
    assert found.warnings[0].code == "bad-rules" and "mine.yaml:1" in found.warnings[0].message


def test_comparisons_that_failed_say_by_how_much() -> None:
    found = plan(8.0, fakes.t4())
    fp8 = next(r for r in found.rejected if r.rule == "FMT-012")
    assert "device.compute_capability is 7.5, 1.4 below 8.9" in fp8.because


def test_groups_that_do_not_divide_are_rejected_and_a_smaller_one_is_tried() -> None:
    found = plan(0.135, fakes.rtx_4090(), method="awq")
    assert next(r.format for r in found.rejected if r.rule == "FMT-001") == "w4a16-g128"
    assert picks(found)[0] == ("awq", "w4a16-g64", "vllm")


def test_old_cards_take_float16() -> None:
    found = plan(8.0, fakes.machine(fakes.host(64 * fakes.GB), fakes.nvidia("V", 32 * fakes.GIB, 10**12, 7.5)),
                 method="none", top=100)  # fmt: skip
    assert {p.format for p in found.plans if p.devices != ("host",)} == {"f16"}


def test_nothing_fits_is_a_result() -> None:
    found = plan(70.0, fakes.tiny())
    assert found.plans == ()
    assert found.rejected[0].rule == "MEM-001"
    short = [r.short_by for r in found.rejected if r.short_by is not None]
    assert short == sorted(short) and short[0] > 0
    assert found.rejected[0].format == "q2_k"
    (more,) = [r for r in found.relaxations if r.change.startswith("host memory")]
    assert more.plan.memory.total.value < 32 * fakes.GIB
    assert not more.plan.executable_here


@pytest.mark.parametrize(
    ("request_", "change"),
    [
        ({"context": 131072, "format": "q8_0"}, "context 131072 -> 65536"),
        ({"context": 131072, "format": "q8_0"}, "kv-type f16 -> q8_0"),
        ({"format": "bf16", "max_memory_bytes": 6 * fakes.GB}, "without --format bf16"),
        ({"max_memory_bytes": 2 * fakes.GB}, "without --max-memory 2GB"),
        ({"min_tps": 500.0}, "without --min-tps 500"),
        ({"no_download": True}, "without --no-download"),
        ({"within_s": 5.0}, "without --within 5s"),
        ({"min_quality": 1.0, "format": "q2_k"}, "without --min-quality 1"),
    ],
)
def test_relaxations_are_found_by_planning_again(request_: dict[str, Any], change: str) -> None:
    machine = fakes.machine(fakes.host(21 * fakes.GB))
    found = plan(8.0, machine, **request_)
    assert found.plans == ()
    relaxed = {r.change: r.plan for r in found.relaxations}
    assert change in relaxed
    if change.startswith("context"):
        assert relaxed[change].settings.context == 65536


def test_memory_that_others_hold_is_named() -> None:
    busy = fakes.host(64 * fakes.GB)
    memory = msgspec.structs.replace(busy.memory, available_bytes=2 * fakes.GB)
    found = plan(8.0, fakes.machine(msgspec.structs.replace(busy, memory=memory)))
    assert "other programs closed, so that all memory is free" in {r.change for r in found.relaxations}


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"quantizer": "llmcompresor"}, 'Did you mean "llmcompressor"'),
        ({"method": "awk"}, 'Did you mean "awq"'),
        ({"runtime": "vlm"}, 'Did you mean "vllm"'),
        ({"format": "q4"}, "no format"),
        ({"kv_type": "q9"}, "KV cache type"),
    ],
)
def test_unknown_names_are_not_found(request_: dict[str, Any], said: str) -> None:
    with pytest.raises(AdvisorError) as e:
        plan(8.0, fakes.rtx_4090(), **request_)
    assert (e.value.code, e.value.exit_code) == ("word-not-found", 4)
    assert said in e.value.message


@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        ({"method": "awq", "format": "q4_k_m"}, "contradictory-options", "not a format of awq"),
        ({"method": "gguf", "runtime": "vllm"}, "contradictory-options", "RT-002"),
        ({"method": "awq", "runtime": "llama.cpp"}, "contradictory-options", "RT-004"),
        ({"format": "q4_k_m", "runtime": "transformers"}, "contradictory-options", "RT-005"),
        ({"format": "nf4", "runtime": "vllm"}, "contradictory-options", "RT-012"),
        ({"method": "gguf", "quantizer": "bitsandbytes"}, "contradictory-options", "does not make gguf"),
        ({"context": 0}, "bad-option", "above zero"),
        ({"min_quality": 1.5}, "bad-option", "at most 1"),
        ({"within_s": float("nan")}, "bad-option", "above zero"),
    ],
)
def test_contradictions_are_errors_of_usage(request_: dict[str, Any], code: str, said: str) -> None:
    with pytest.raises(AdvisorError) as e:
        plan(8.0, fakes.rtx_4090(), **request_)
    assert (e.value.code, e.value.exit_code) == (code, 2)
    assert said in e.value.message


def test_requests_are_honoured() -> None:
    found = plan(8.0, fakes.cpu_only(), format="q6_k", kv_type="q8_0", context=2048, parallel=2, runtime="ollama")
    (p,) = found.plans
    assert (p.format, p.runtime, p.settings.kv_type) == ("q6_k", "ollama", "q8_0")
    assert (p.settings.context, p.settings.parallel) == (4096, 2)
    assert plan(8.0, fakes.cpu_only(), top=2).plans[-1].rank == 2
    assert {p.quantizer for p in plan(8.0, fakes.rtx_4090(), quantizer="gptqmodel").plans} == {"gptqmodel"}
    fast = plan(8.0, fakes.rtx_4090(), within_s=600.0, top=100)
    assert fast.plans and not {"awq", "gptq"} & {p.method for p in fast.plans}
    assert "TIME-001" in {r.rule for r in fast.rejected if r.method == "gptq" and r.runtime == "vllm"}


def test_context_is_cut_to_the_models() -> None:
    found = plan(fakes.model(8.0, context_max=4096), fakes.cpu_only(), context=100_000)
    assert found.plans[0].settings.context == 4096
    assert [w.code for w in found.warnings] == ["context-reduced"]


def test_a_gguf_file_is_served_as_it_is(tmp_path: Any) -> None:
    m = fakes.model(8.0, kind="gguf", weights_format="gguf", weights_bytes=4_900_000_000, path=str(tmp_path / "m.gguf"),
                    source_types={"q4_k": 4 * 10**9, "q6_k": 10**9, "f32": 10**6})  # fmt: skip
    first = plan(m, fakes.cpu_only(), no_download=True).plans[0]
    assert (first.format, first.source, first.quantizer) == ("q4_k_m", "as-is", None)
    assert first.commands.quantize == () and str(tmp_path / "m.gguf") in first.commands.serve[0]
    other = plan(m, fakes.cpu_only(), format="q8_0").plans[0]
    assert other.source == "quantize" and any("already quantized" in w for w in other.warnings)


@pytest.mark.parametrize(
    ("granted", "physical", "expected"), [(0.5, 8, 1), (1.5, 8, 1), (2.0, 1, 1), (6.9, 8, 6), (16.0, 8, 8)]
)
def test_threads_are_what_is_granted(granted: float, physical: int, expected: int) -> None:
    machine = fakes.machine(fakes.host(24 * fakes.GB, cores=granted, physical=physical))
    assert plan(8.0, machine).plans[0].settings.threads == expected


def test_the_tightest_memory_counts() -> None:
    h = fakes.host(64 * fakes.GB)
    limited = msgspec.structs.replace(h, memory=msgspec.structs.replace(h.memory, limit_bytes=6 * fakes.GB))
    found = plan(8.0, fakes.machine(limited), top=100)
    assert found.plans == () or all(p.memory.total.value < 5.7 * fakes.GB for p in found.plans)


def test_unusable_devices_are_named_and_not_used() -> None:
    card = msgspec.structs.replace(fakes.nvidia("X", 24 * fakes.GIB, 10**12, 8.9), unusable="driver mismatch")
    found = plan(8.0, fakes.machine(fakes.host(24 * fakes.GB), card))
    assert picks(found)[0] == gguf("q4_k_m") and found.plans[0].devices == ("host",)
    assert "driver mismatch" in found.warnings[0].message


def test_two_cards_carry_what_one_cannot() -> None:
    cards = [fakes.nvidia("RTX 3090", 24 * fakes.GIB, 936 * fakes.GB, 8.6, n=i) for i in range(2)]
    found = plan(70.0, fakes.machine(fakes.host(16 * fakes.GB), *cards), context=2048, top=100)
    first = found.plans[0]
    assert first.devices == ("gpu0", "gpu1")
    assert first.runtime == "llama.cpp" or first.settings.tensor_parallel == 2
    odd = [fakes.nvidia("RTX 3090", 24 * fakes.GIB, 936 * fakes.GB, 8.6, n=i) for i in range(3)]
    more = plan(70.0, fakes.machine(fakes.host(16 * fakes.GB), *odd), context=2048, top=100)
    served = [p for p in more.plans if p.runtime == "vllm"]
    spread = {(p.settings.tensor_parallel, p.settings.pipeline_parallel) for p in served}
    assert spread == {(2, 1), (1, 3)}  # 64 heads: over 3 cards by layers
    assert {2, 3} <= {len(p.devices) for p in more.plans if p.runtime == "llama.cpp"}
    turned = plan(70.0, fakes.machine(fakes.host(16 * fakes.GB), *reversed(odd)), context=2048, top=100)
    assert turned.dumps() == more.dumps()


def test_ids_depend_on_the_choice_alone() -> None:
    here, later = fakes.cpu_only(), fakes.cpu_only()
    memory = msgspec.structs.replace(later.host.memory, available_bytes=20 * fakes.GB)
    later = msgspec.structs.replace(later, host=msgspec.structs.replace(later.host, memory=memory))
    one, two = plan(8.0, here).plans, plan(8.0, later).plans
    assert {p.format: p.id for p in one}["q4_k_m"] == {p.format: p.id for p in two}["q4_k_m"]
    assert len({p.id for p in plan(8.0, fakes.rtx_4090(), top=1000).plans}) == len(
        plan(8.0, fakes.rtx_4090(), top=1000).plans
    )
    assert plan(8.0, here, context=4096).plans[0].id != one[0].id
    assert one[0].id.startswith("p-") and len(one[0].id) == 10


@settings(max_examples=8, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(sorted(GOALS)))
def test_order_never_matters(rng: random.Random, goal: str) -> None:
    rules = list(PACK.rules)
    rng.shuffle(rules)
    m, machine = fakes.model(8.0), fakes.rtx_4090()
    caps, makers = list(fakes.runtimes().items()), list(fakes.quantizers().items())
    rng.shuffle(caps)
    rng.shuffle(makers)
    other = recommend(
        m,
        fakes.tensors(m),
        machine,
        GOALS[goal],
        PlanRequest(goal=goal),
        msgspec.structs.replace(PACK, rules=tuple(rules)),
        runtimes=dict(caps),
        quantizers=dict(makers),
        executable_here=False,
        cost_fn=fakes.fake_cost,
        layers_fn=fakes.fake_layers,
    )
    assert other.dumps() == plan(8.0, machine, goal).dumps()


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([0.135, 8.0, 70.0]),
    st.integers(10**8, 10**12),
    st.none() | st.integers(10**8, 2 * 10**11),
    st.sampled_from(sorted(GOALS)),
    st.integers(256, 200_000),
)
def test_no_plan_ever_exceeds_its_memory(size: float, host: int, card: int | None, goal: str, context: int) -> None:
    devices = [fakes.nvidia("X", card, 10**12, 8.6)] if card is not None else []
    machine: Machine = fakes.machine(fakes.host(host), *devices)
    found = plan(size, machine, goal, context=context, top=1000)
    for p in found.plans:
        assert p.memory.by_device["host"].value <= host * 0.95 if "host" in p.memory.by_device else True
        if card is not None and "gpu0" in p.memory.by_device:
            assert p.memory.by_device["gpu0"].value <= card
        assert 1 <= p.rank <= len(found.plans)
    assert bool(found.plans) or bool(found.rejected)
