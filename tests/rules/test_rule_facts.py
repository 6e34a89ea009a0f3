"""Facts that only rules ask for: groups on each device, versions of what is installed, what the cache takes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.backends.registry import runtimes
from advisor.facts.machine import RuntimeFound
from advisor.facts.model import TensorSpec
from advisor.facts.plan import PlanRequest
from advisor.model.resolve import resolve
from advisor.planner.facts import CandidateFacts, fixed_facts, installed_versions, native_method
from tests.unit.planner import planner_fakes as fakes
from tests.unit.planner.planner_run import GOALS, plan

CAPABILITIES = {name: r.capabilities() for name, r in runtimes().items()}


def facts_of(tensors: tuple[TensorSpec, ...]) -> CandidateFacts:
    return CandidateFacts(fakes.model(8.0), tensors, PlanRequest(), CAPABILITIES, fakes.rtx_4090())


@given(
    st.sampled_from((32, 64, 128)),
    st.sampled_from((1, 2, 3, 4, 8)),
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
)
def test_a_group_is_whole_on_every_device(group: int, parallel: int, widths: list[int]) -> None:
    down = tuple(
        TensorSpec(name=f"blk.{i}.ffn_down.weight", shape=(64, w * 32), role="ffn_down", layer=i)
        for i, w in enumerate(widths)
    )
    whole = all((w * 32) % parallel == 0 and (w * 32 // parallel) % group == 0 for w in widths)
    expected = True if parallel == 1 else whole
    assert facts_of(down).rank_group_divides(f"w4a16-g{group}", parallel) is expected


def test_only_rows_that_are_cut_count() -> None:
    odd = TensorSpec(name="blk.0.attn_q.weight", shape=(64, 96), role="attn_q", layer=0)
    even = TensorSpec(name="blk.0.attn_output.weight", shape=(64, 512), role="attn_output", layer=0)
    assert facts_of((odd, even)).rank_group_divides("w4a16-g128", 4) is True
    assert facts_of((odd,)).rank_group_divides("w4a16-g128", 4) is None
    assert facts_of(()).rank_group_divides("fp8", 4) is True
    assert facts_of(()).rank_group_divides("w4a16-g128", 4) is None


def test_cut_groups_are_named_and_smaller_ones_run() -> None:
    cards = tuple(
        fakes.nvidia("NVIDIA H100", 80 * fakes.GIB, 3350 * fakes.GB, 9.0, n=n, fp8="native") for n in range(8)
    )
    machine = fakes.machine(fakes.host(512 * fakes.GB, cores=32), *cards, named="h100:8")
    # 28672 / 8 = 3584 = 28 groups of 128; a width of 29184 leaves half a group over.
    model = fakes.model(70.0, intermediate=29184)
    found = plan(model, machine, method="gptq", runtime="vllm", format="w4a16-g128", top=50)
    assert all(len(p.devices) < 8 for p in found.plans)
    small = plan(model, machine, method="gptq", runtime="vllm", format="w4a16-g64", top=50)
    assert any(len(p.devices) == 8 for p in small.plans)


@pytest.mark.parametrize(
    ("runtime", "version", "known"),
    [
        ("vllm", "0.32.0", "0.32.0"),
        ("vllm", "v0.32.1rc1+cu130", "0.32.1"),
        ("ollama", "0.17.1-rc0", "0.17.1"),
        ("ollama", "devel", None),
        ("ollama", None, None),
        ("llama.cpp", "b9190 1a2b3c4", "9190"),
        ("llama.cpp", "0.5.0 b11739 0ce8cd1", "11739"),
        ("llama.cpp", "2026.10.11549", None),
        ("llama.cpp", "unknown", None),
    ],
)
def test_versions_of_what_is_installed(runtime: str, version: str | None, known: str | None) -> None:
    found = RuntimeFound(runtime=runtime, provider="path", version=version)  # type: ignore[arg-type]
    machine = msgspec.structs.replace(fakes.cpu_only(), runtimes=(found,))
    assert installed_versions(machine) == ({runtime: known} if known else {})


def test_of_several_the_oldest_counts() -> None:
    found = tuple(RuntimeFound(runtime="vllm", provider="path", version=v) for v in ("0.9.2", "0.33.0", "0.10.0"))
    assert installed_versions(msgspec.structs.replace(fakes.cpu_only(), runtimes=found)) == {"vllm": "0.9.2"}


@pytest.mark.parametrize(
    ("ref", "native", "vision"),
    [
        ("openai/gpt-oss-20b", "mxfp4", False),
        ("deepseek-ai/DeepSeek-V3", "fp8", False),
        ("meta-llama/Llama-3.1-8B-Instruct", None, False),
        ("google/gemma-3-12b-it", None, True),
    ],
)
def test_what_a_model_was_published_in(ref: str, native: str | None, vision: bool) -> None:
    facts = fixed_facts(resolve(ref), (), fakes.cpu_only(), GOALS["chat"], PlanRequest(adapter="mine"))
    assert (facts["model.native_method"], facts["model.vision"], facts["request.adapter"]) == (native, vision, True)


def test_a_gguf_file_is_no_native_checkpoint() -> None:
    model = fakes.model(8.0, weights_format="gguf", weights_dtype="mxfp4")
    assert native_method(model) is None
    assert native_method(fakes.model(8.0, weights_dtype="bf16")) is None
    assert native_method(fakes.model(8.0, quantized_method="awq")) == "awq"


@pytest.mark.parametrize(
    ("ref", "latent", "window", "heads"),
    [
        ("deepseek-ai/DeepSeek-V3", True, False, True),
        ("google/gemma-3-4b-it", False, True, True),
        ("openai/gpt-oss-20b", False, True, True),
        ("microsoft/phi-2", False, False, False),  # heads of 80
        ("meta-llama/Llama-3.1-8B-Instruct", False, False, True),
    ],
)
def test_what_a_models_cache_takes(ref: str, latent: bool, window: bool, heads: bool) -> None:
    facts = fixed_facts(resolve(ref), (), fakes.cpu_only(), GOALS["chat"], PlanRequest())
    told = tuple(facts[f"model.{name}"] for name in ("latent_attention", "sliding_window", "heads_32_divisible"))
    assert told == (latent, window, heads)
