"""Every file type at full size: the quantizer says what it would write, without reading a weight."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from advisor.cost.gguf_mix import EVERY, assign
from advisor.execute.dry_header import header
from advisor.execute.runners.gguf_min import write_sparse
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.model.tensors import computed
from tests.engine.test_quantizer_mix import NUMBERS
from tests.support import shapes
from tests.support.architectures import FIXTURES, facts

pytestmark = [pytest.mark.slow, pytest.mark.beside]
RUNNER = Path(__file__).with_name("quantize_dry.py")
ALL = NUMBERS | {
    "f32": 0, "iq2_xxs": 19, "iq2_xs": 20, "q2_k_s": 21, "iq3_xs": 22, "iq3_xxs": 23, "iq1_s": 24, "iq3_s": 26,
    "iq3_m": 27, "iq2_s": 28, "iq2_m": 29, "iq1_m": 31, "tq1_0": 36, "tq2_0": 37, "nvfp4": 39, "q1_0": 40,
    "q2_0": 41,
}  # fmt: skip


# Quantizers older than a type refuse it.
NEWEST = {"nvfp4", "q1_0", "q2_0"}
# The environment's quantizer (cyllama 0.2.18) is older than this architecture.
NOT_KNOWN = {"deepseek-ai/DeepSeek-V3.2"}


def dry_run(python: str, source: Path, numbers: list[int]) -> dict[int, dict[str, str] | None]:
    """The types that the quantizer would give, by file type number and tensor; ``None`` where it refuses."""
    command = [python, "-I", str(RUNNER), str(source), *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    return {int(number): types for number, types in json.loads(done.stdout).items()}


def hold(model: ModelFacts, tensors: tuple[TensorSpec, ...], before: dict[str, str], python: str, source: Path) -> None:
    """Every file type of ``source``, whose tensors have the types ``before``, as the quantizer has it."""
    told = dry_run(python, source, list(ALL.values()))
    answered = {fmt for fmt, number in ALL.items() if told[number] is not None}
    assert answered >= set(ALL) - NEWEST
    for fmt in answered:
        expected = {a.tensor.name: a.type for a in assign(model, tensors, fmt, imatrix=False)}
        seen = before | (told[ALL[fmt]] or {})
        wrong = {n: (expected[n], seen[n]) for n in expected if expected[n] != seen[n]}
        assert not wrong, (fmt, len(wrong), dict(list(wrong.items())[:6]))


@pytest.mark.parametrize("name", shapes.KNOWN)
def test_every_file_type_without_a_matrix(name: str, tmp_path: Path, quantizing_python: str) -> None:
    arch = shapes.KNOWN[name]
    tensors = shapes.tensors(arch)
    before = {t.name: "f32" if len(t.shape) == 1 or "ffn_gate_inp" in t.name else "f16" for t in tensors}
    source = shapes.write(tmp_path / "f16.gguf", arch, "f16")
    hold(shapes.facts(arch), tensors, before, quantizing_python, source)


@pytest.mark.parametrize("name", dict.fromkeys(f.model for f in FIXTURES if f.model not in NOT_KNOWN))
def test_every_file_type_of_every_architecture(name: str, tmp_path: Path, quantizing_python: str) -> None:
    model = facts(name)
    tensors = computed(model)
    plain = [(a.tensor.name, a.tensor.shape, a.type) for a in assign(model, tensors, "f16", imatrix=False)]
    source = tmp_path / "f16.gguf"
    write_sparse(source, header(model, tensors) | {"tokenizer.ggml.model": "no_vocab"}, plain)
    hold(model, tensors, {n: kind for n, _, kind in plain}, quantizing_python, source)


def test_no_file_type_is_left_out() -> None:
    assert set(ALL) == set(EVERY)
