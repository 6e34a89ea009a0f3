"""Weights that are quantized already, by their makers or in a file of a type that advisor does not make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.backends.registry import quantizers, runtimes
from advisor.cost.gguf_mix import assign
from advisor.cost.gguf_rules import OTHERS
from advisor.execute.dry_header import header
from advisor.execute.runners.gguf_min import write_sparse
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import PlanRequest, Recommendation
from advisor.facts.words import GGUF_FORMATS, GGUF_SERVED, is_format
from advisor.model.gguf import read_header
from advisor.model.gguf_facts import FILE_TYPES
from advisor.model.resolve import resolve
from advisor.model.tensors import tensors
from advisor.planner.building import identity
from advisor.planner.candidate import (
    BITS,
    Candidate,
    formats,
    kept_format,
    method_of,
    original_method,
    own_format,
    source_of,
)
from advisor.planner.facts import fixed_facts
from advisor.planner.recommend import recommend
from advisor.planner.targets import Target
from tests.unit.planner import planner_fakes as fakes
from tests.unit.planner.planner_run import GOALS, PACK

NUMBERS = {name: number for number, name in FILE_TYPES.items()}
HOST = Target("cpu", "cpu", (), ("host",))


def plan(
    model: ModelFacts, machine: Any, weights: tuple[TensorSpec, ...] | None = None, **request: Any
) -> Recommendation:
    return recommend(
        model,
        tensors(model) if weights is None else weights,
        machine,
        GOALS["chat"],
        PlanRequest(**request),
        PACK,
        runtimes={n: r.capabilities() for n, r in runtimes().items()},
        quantizers={n: q.capabilities() for n, q in quantizers().items()},
        executable_here=machine.named is None,
    )


def file_of(path: Path, name: str, fmt: str) -> ModelFacts:
    """Facts of a GGUF file as somebody else made it: a true header, and a hole for the weights."""
    model = resolve(name)
    weights = tensors(model)
    metadata = header(model, weights) | {"tokenizer.ggml.model": "no_vocab", "general.file_type": NUMBERS[fmt]}
    typed = [(a.tensor.name, a.tensor.shape, a.type) for a in assign(model, weights, fmt, imatrix=True)]
    write_sparse(path, metadata, typed)
    return resolve(str(path))


def test_every_type_has_a_name_bits_and_a_number() -> None:
    assert set(GGUF_SERVED) == set(OTHERS) - {"f32"}
    assert not set(GGUF_SERVED) & set(GGUF_FORMATS)
    assert set(FILE_TYPES.values()) == {*GGUF_FORMATS, *GGUF_SERVED}
    assert all(is_format(word) and word in BITS for word in (*GGUF_FORMATS, *GGUF_SERVED))


@pytest.mark.parametrize("fmt", [*GGUF_SERVED, "q4_k_m", "mxfp4"])
def test_a_named_file_is_its_own_format(fmt: str, tmp_path: Path) -> None:
    file = file_of(tmp_path / "model.gguf", "meta-llama/Llama-3.1-8B-Instruct", fmt)
    assert file.weights_dtype == own_format(file) == kept_format(file) == fmt
    assert source_of("gguf", fmt, file) == "as-is"
    assert source_of("gguf", fmt, file, adapter=True) == "quantize"
    assert fmt in formats("gguf", file, PlanRequest())
    assert original_method(file) is None
    assert method_of(fmt, file) == "gguf"


@pytest.mark.parametrize("fmt", ["iq2_xxs", "tq1_0", "iq3_m"])
def test_it_is_served_as_it_is_by_what_its_header_says(fmt: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    file = file_of(path, "meta-llama/Llama-3.1-8B-Instruct", fmt)
    first = plan(file, fakes.cpu_only()).plans[0]
    assert (first.method, first.format, first.source, first.runtime) == ("gguf", fmt, "as-is", "llama.cpp")
    stored = sum(t.nbytes for t in read_header(path).tensors if not t.name.startswith("rope_freqs"))
    assert first.memory.weights.value == pytest.approx(stored, abs=1024)
    assert first.time.quantize is not None
    assert (first.time.quantize.value, first.disk.peak_bytes, first.quantizer, first.imatrix) == (0, 0, None, False)
    assert first.quality.kld is not None
    assert first.quality.kld.value < 0.002
    assert first.commands.quantize == ()
    assert str(path) in first.commands.serve[0]


def test_a_type_that_nothing_makes_is_not_planned_of_other_weights() -> None:
    found = plan(resolve("8B"), fakes.cpu_only(), format="iq2_xxs")
    assert found.plans == ()
    assert "RT-904" in {r.rule for r in found.rejected if r.runtime == "llama.cpp"}


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("openai/gpt-oss-20b", "mxfp4"),
        ("deepseek-ai/DeepSeek-V3", "fp8"),
        ("moonshotai/Kimi-K2-Instruct", "fp8"),
        ("mistralai/Devstral-Small-2-24B-Instruct-2512", "fp8"),
        ("meta-llama/Llama-3.1-8B-Instruct", None),
    ],
)
def test_what_the_makers_published(name: str, method: str | None) -> None:
    model = resolve(name)
    assert original_method(model) == method
    if method is not None:
        assert source_of(method, method, model) == "prequantized"


def test_what_somebody_else_quantized_is_no_original() -> None:
    other = fakes.model(8.0, quantized_method="fp8", quantized_format="fp8", notes=("already quantized: fp8",))
    assert original_method(other) is None
    facts = fixed_facts(other, (), fakes.cpu_only(), GOALS["chat"], PlanRequest())
    assert facts["model.packed_checkpoint"] is True
    assert facts["model.original_method"] is None


def test_native_fp8_is_never_made_into_another_checkpoint() -> None:
    found = plan(resolve("mistralai/Devstral-Small-2-24B-Instruct-2512"), fakes.h100(), top=1000)
    assert (found.plans[0].method, found.plans[0].source) == ("fp8", "prequantized")
    assert {p.method for p in found.plans if p.source != "prequantized"} == {"gguf"}
    assert all("GUIDE-118" in {d.rule for d in p.decisions} for p in found.plans if p.method == "gguf")
    assert {r.rule for r in found.rejected if r.method == "w8a8" and r.runtime == "vllm"} == {"FMT-018"}
    assert all(p.time.quantize is not None and p.time.quantize.value == 0 for p in found.plans if p.method == "fp8")


def test_gpt_oss_as_a_gguf_file_keeps_its_experts() -> None:
    model = resolve("openai/gpt-oss-20b")
    found = plan(model, fakes.cpu_only(), top=1000)
    assert {(p.method, p.format) for p in found.plans} == {("gguf", "mxfp4")}
    first = found.plans[0]
    assert first.source == "quantize"
    assert first.quantizer == "llama.cpp"
    assert not first.imatrix
    assert first.commands.quantize[-1][-1] == "MXFP4_MOE"
    assert first.disk.download_bytes == pytest.approx(13.76e9, rel=0.01)  # the published checkpoint
    assert first.quality.kld is not None
    assert first.quality.kld.low == 0 < first.quality.kld.value < 0.01
    assert {r.rule for r in found.rejected if r.method == "gguf" and r.runtime == "llama.cpp"} == {"FMT-029"}


def test_a_file_of_gpt_oss_is_not_requantized(tmp_path: Path) -> None:
    file = file_of(tmp_path / "gpt-oss.gguf", "openai/gpt-oss-20b", "mxfp4")
    assert original_method(file) == "mxfp4"
    found = plan(file, fakes.rtx_4090(), top=1000)
    assert {(p.method, p.format, p.source) for p in found.plans} == {("gguf", "mxfp4", "as-is")}
    assert source_of("mxfp4", "mxfp4", file) == "quantize"  # vLLM takes a checkpoint, not this file


def test_mxfp4_without_a_method() -> None:
    assert method_of("mxfp4", resolve("openai/gpt-oss-20b")) == "gguf"
    assert method_of("mxfp4", fakes.model(8.0)) == "mxfp4"
    assert method_of("fp8", fakes.model(8.0)) == "fp8"
    assert method_of("q4_k_m", fakes.model(8.0)) == "gguf"
    assert method_of("w4a16-g128", fakes.model(8.0)) == "awq"
    assert method_of("nonsense", fakes.model(8.0)) is None


@pytest.mark.parametrize(
    ("method", "source", "unchanged"),
    [
        ("gguf", "as-is", True),
        ("gguf", "quantize", False),
        ("fp8", "prequantized", True),
        ("awq", "quantize", None),
        ("nf4", "load-time", None),
        ("none", "as-is", None),
    ],
)
def test_cost_is_told_what_is_served_unchanged(method: str, source: Any, unchanged: bool | None) -> None:
    assert Candidate(method, "x", "y", HOST, None, source).unchanged is unchanged


def ids(name: str) -> list[str]:
    return [p.id for p in plan(resolve(name), fakes.rtx_4090()).plans]


def test_a_model_has_the_same_plans_however_it_is_typed() -> None:
    assert ids("openai/gpt-oss-20b") == ids("gpt-oss-20b") == ids("gpt-oss:20b") == ids("OpenAI/GPT-OSS-20B")
    assert set(ids("openai/gpt-oss-20b")).isdisjoint(ids("openai/gpt-oss-safeguard-20b"))


@given(
    st.sampled_from(("org/m", "M", "m:8b", "hf:org/m")), st.sampled_from(("org/m", "m", "https://huggingface.co/org/m"))
)
def test_how_it_is_typed_takes_no_part(one: str, other: str) -> None:
    assert identity(fakes.model(8.0, ref=one)) == identity(fakes.model(8.0, ref=other))


def test_other_weights_are_another_model() -> None:
    hub = fakes.model(8.0)
    other = [
        msgspec.structs.replace(hub, name="other"),
        msgspec.structs.replace(hub, revision="a" * 40),
        msgspec.structs.replace(hub, params=7_000_000_000),
        msgspec.structs.replace(hub, ref="hf:org/m/a-Q4_K_M.gguf"),
        msgspec.structs.replace(hub, ref="hf:org/m/a-Q8_0.gguf"),
        msgspec.structs.replace(hub, kind="folder", path="/models/a"),
        msgspec.structs.replace(hub, kind="folder", path="/models/b"),
        msgspec.structs.replace(hub, kind="gguf", path="/models/a"),
        msgspec.structs.replace(hub, kind="pypi", ref="pypi:a"),
        msgspec.structs.replace(hub, kind="pypi", ref="pypi:b"),
    ]
    assert len({identity(m) for m in (hub, *other)}) == len(other) + 1
    assert identity(other[5]) == identity(msgspec.structs.replace(other[5], ref="./a"))
    assert identity(other[8]) == identity(msgspec.structs.replace(other[8], ref="pypi:A==1.0"))
    # Where the weights of a hub's model lie changes nothing.
    assert identity(hub) == identity(msgspec.structs.replace(hub, path="/cache/x"))


def test_of_an_ordinary_model_no_rule_asks_for_an_original_that_there_is_not() -> None:
    for name in ("meta-llama/Llama-3.1-8B-Instruct", "8B"):
        found = plan(resolve(name), fakes.rtx_4090())
        assert found.plans
        told = [a for p in found.plans for a in p.assumptions if "original_method" in a]
        assert told == []
