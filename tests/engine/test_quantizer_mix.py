"""The types that advisor predicts are those that llama.cpp's quantizer writes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from advisor.cost.gguf_file import file_bytes
from advisor.cost.gguf_mix import DEFAULTS, assign
from advisor.model.gguf import read_header
from tests.support import shapes

pytestmark = [pytest.mark.slow, pytest.mark.beside]
RUNNER = Path(__file__).with_name("quantize_all.py")
NUMBERS = {
    "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k_s": 11, "q3_k_m": 12,
    "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18, "iq4_nl": 25, "iq4_xs": 30,
    "bf16": 32, "mxfp4": 38,
}  # fmt: skip
SMALL = {"hidden": 256, "ff": 512, "vocab": 512}
# Narrow copies: what decides types is the number of layers, the heads' ratio, experts, tying, and whether 256 divides
# the width.
CASES = {
    "llama-3.1-8b": shapes.KNOWN["llama-3.1-8b"]._replace(heads=4, kv=1, dim=64, **SMALL),
    "llama-2-7b": shapes.KNOWN["llama-2-7b"]._replace(heads=4, kv=4, dim=64, **SMALL),
    "llama-3.3-70b": shapes.KNOWN["llama-3.3-70b"]._replace(heads=8, kv=1, dim=32, **SMALL),
    "qwen2.5-72b": shapes.KNOWN["qwen2.5-72b"]._replace(heads=8, kv=1, dim=32, **SMALL),
    "qwen2.5-0.5b": shapes.KNOWN["qwen2.5-0.5b"]._replace(heads=14, kv=2, dim=64, vocab=512),
    "gemma-3-27b": shapes.KNOWN["gemma-3-27b"]._replace(heads=4, kv=2, dim=64, **SMALL),
    "mixtral-8x7b": shapes.KNOWN["mixtral-8x7b"]._replace(heads=4, kv=1, dim=64, expert_ff=256, **SMALL),
    "qwen3-30b-a3b": shapes.KNOWN["qwen3-30b-a3b"]._replace(
        heads=4, kv=1, dim=64, experts=16, used=4, expert_ff=256, **SMALL
    ),
    "narrow": shapes.KNOWN["smollm2-135m"]._replace(heads=3, kv=1, dim=32, hidden=96, ff=256, vocab=512),
    "odd": shapes.KNOWN["llama-3.1-8b"]._replace(layers=7, heads=4, kv=2, dim=64, hidden=320, ff=480, vocab=512),
}


@pytest.mark.parametrize("name", CASES)
def test_every_type_of_every_tensor(name: str, tmp_path: Path, quantizing_python: str) -> None:
    assert set(NUMBERS) == set(DEFAULTS)
    arch = CASES[name]
    source = shapes.write(tmp_path / "f16.gguf", arch, "f16")
    command = [quantizing_python, "-I", str(RUNNER), str(source), str(tmp_path / "NUMBER.gguf")]
    done = subprocess.run([*command, *map(str, NUMBERS.values())], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    model, tensors = shapes.facts(arch), shapes.tensors(arch)
    for fmt, number in NUMBERS.items():
        header = read_header(tmp_path / f"{number}.gguf")
        written = {t.name: t.type for t in header.tensors}
        expected = {a.tensor.name: a.type for a in assign(model, tensors, fmt, imatrix=False)}
        wrong = {n: (expected[n], written[n]) for n in expected if expected[n] != written[n]}
        assert not wrong, (fmt, wrong)
        size = file_bytes(model, tensors, fmt)
        body = header.file_bytes - header.data_offset
        assert int(size.value) - body < 200_000  # the rest is the header, which has no vocabulary here
        assert int(size.value) >= body
