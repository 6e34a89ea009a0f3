"""Predicted memory against llama.cpp's own allocation, on files that hold a true header and no weights."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from advisor.cost.gguf_mix import assign
from advisor.cost.llama_memory import memory
from advisor.facts.plan import Memory, Settings
from tests.support import shapes

pytestmark = pytest.mark.slow
RUNNER = Path(__file__).with_name("serve_once.py")
MIB = 1 << 20
ISA = ("avx", "avx2", "fma", "f16c")


def serve(python: str, model: Path, settings: Settings, *, prompt: int = 0, no_repack: bool = False) -> dict[str, Any]:
    """Buffers in MiB by the engine's log, and the process's peak resident bytes."""
    request = {
        "model": str(model),
        "context": settings.context,
        "parallel": settings.parallel,
        "ubatch": settings.ubatch,
        "kv_type": settings.kv_type,
        "load_mode": settings.load_mode,
        "prompt_tokens": prompt,
        "no_repack": no_repack,
    }
    command = [python, "-I", str(RUNNER), json.dumps(request)]
    # Spinning at barriers takes many times the CPU where cores are shared, and changes nothing that is measured here.
    env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=550, env=env)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-3000:]

    def sizes(pattern: str) -> float:
        return sum(float(x) for x in re.findall(pattern + r" buffer size =\s+([\d.]+) MiB", log))

    last = [line for line in done.stdout.splitlines() if line.startswith('{"resident"')][-1]
    return {
        "kv": sizes("KV"),
        "compute": sizes("compute"),
        "output": sizes("output"),
        "repack": sizes("CPU_REPACK model"),
        "model": sizes("model"),
        **json.loads(last),
    }


def predict(arch: shapes.Arch, fmt: str, settings: Settings) -> Memory:
    return memory(
        shapes.facts(arch),
        shapes.tensors(arch),
        fmt=fmt,
        settings=settings,
        machine=shapes.machine(isa=ISA),
        devices=("host",),
        as_is=False,
    )


def make(path: Path, arch: shapes.Arch, fmt: str, *, filled: bool = False) -> Path:
    types = {a.tensor.name: a.type for a in assign(shapes.facts(arch), shapes.tensors(arch), fmt, imatrix=False)}
    return shapes.write(path, arch, types, words=True, filled=filled, merges=True)


BUFFERS = [
    ("llama-3.1-8b", Settings(context=8192)),
    ("llama-3.1-8b", Settings(context=8192, parallel=4)),
    ("llama-3.1-8b", Settings(context=4000, parallel=3, kv_type="q8_0", ubatch=256)),
    ("qwen2.5-7b", Settings(context=8192)),
    ("qwen2.5-0.5b", Settings(context=32768, ubatch=1024)),
    ("qwen3-0.6b", Settings(context=5000)),
    ("gemma-2-9b", Settings(context=8192)),
    ("gemma-3-27b", Settings(context=32768)),
    ("smollm2-135m", Settings(context=8192, parallel=2)),
]


@pytest.mark.parametrize(("name", "settings"), BUFFERS)
def test_buffers_are_the_engines(name: str, settings: Settings, tmp_path: Path, serving_python: str) -> None:
    # Layers repeat: a few of them, as many as the window pattern needs, show all there is.
    arch = shapes.KNOWN[name]
    arch = arch._replace(layers=(arch.pattern or 3) * 2)
    model = make(tmp_path / "model.gguf", arch, "q4_k_m")
    told = serve(serving_python, model, settings)
    q = predict(arch, "q4_k_m", settings)
    assert q.kv_cache.value / MIB == pytest.approx(told["kv"], abs=0.02)
    assert q.compute.value / MIB == pytest.approx(told["compute"], abs=0.6)
    assert q.output.value / MIB == pytest.approx(told["output"], abs=0.02)
    assert q.repack.value / MIB == pytest.approx(told["repack"], rel=0.001, abs=0.5)


@pytest.mark.parametrize(
    ("name", "fmt"),
    [
        ("llama-3.1-8b", "q4_k_m"),
        ("qwen2.5-0.5b", "q4_0"),
        ("gemma-2-9b", "q4_k_m"),
        ("qwen3-30b-a3b", "q4_k_m"),
        ("smollm2-135m", "q8_0"),
    ],
)
def test_weights_that_are_read_are_there_once(name: str, fmt: str, tmp_path: Path, serving_python: str) -> None:
    arch = shapes.KNOWN[name]
    arch = arch._replace(layers=(arch.pattern or 3) * 2, experts=min(arch.experts, 16))
    settings = Settings(context=1024, load_mode="none")
    told = serve(serving_python, make(tmp_path / "model.gguf", arch, fmt), settings)
    q = predict(arch, fmt, settings)
    assert (q.weights.value + q.repack.value) / MIB == pytest.approx(told["model"], rel=0.001, abs=0.5)
    mapped = predict(arch, fmt, Settings(context=1024))
    assert mapped.repack.value / MIB == pytest.approx(told["repack"], rel=0.001, abs=0.5)


@pytest.mark.parametrize("used", [2, 4, 8])
def test_work_buffer_of_experts_is_bounded(used: int, tmp_path: Path, serving_python: str) -> None:
    arch = shapes.KNOWN["qwen3-30b-a3b"]._replace(layers=3, experts=16, used=used, vocab=4096)
    settings = Settings(context=4096)
    told = serve(serving_python, make(tmp_path / "model.gguf", arch, "q8_0"), settings)
    q = predict(arch, "q8_0", settings)
    assert q.compute.low / MIB <= told["compute"] <= q.compute.high / MIB
    assert q.kv_cache.value / MIB == pytest.approx(told["kv"], abs=0.02)


@pytest.mark.parametrize(
    ("name", "fmt", "load_mode", "layers"),
    [
        ("smollm2-135m", "q4_k_m", "mmap", 30),
        ("smollm2-135m", "q8_0", "mmap", 30),
        ("qwen2.5-0.5b", "q4_0", "none", 24),
        ("qwen2.5-0.5b", "iq4_nl", "mmap", 24),
        pytest.param("llama-3.1-8b", "q4_k_m", "mmap", 32, marks=pytest.mark.long),
        pytest.param("llama-3.1-8b", "q4_k_m", "none", 32, marks=pytest.mark.long),
    ],
)
def test_resident_memory_after_a_prompt(
    name: str, fmt: str, load_mode: str, layers: int, tmp_path: Path, serving_python: str
) -> None:
    arch = shapes.KNOWN[name]._replace(layers=layers)
    settings = Settings(context=2048, load_mode=load_mode, ubatch=128 if arch.hidden > 2048 else 512)
    told = serve(
        serving_python, make(tmp_path / "model.gguf", arch, fmt), settings, prompt=130 if arch.hidden > 2048 else 600
    )
    assert told["tokens"] > settings.ubatch
    q = predict(arch, fmt, settings)
    assert told["resident"] <= q.total.value
    assert q.total.value / told["resident"] == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("fmt", ["q4_k_m", "q4_0"])
def test_both_ways_to_load_a_real_file(fmt: str, tmp_path: Path, serving_python: str) -> None:
    arch = shapes.KNOWN["tinyllama-1.1b"]
    model = make(tmp_path / "model.gguf", arch, fmt, filled=True)
    resident = {}
    for mode in ("mmap", "none"):
        settings = Settings(context=2048, load_mode=mode)
        told = serve(serving_python, model, settings, prompt=600)
        q = predict(arch, fmt, settings)
        assert told["resident"] <= q.total.value, mode
        assert q.total.value / told["resident"] == pytest.approx(1, abs=0.08), mode
        resident[mode] = told["resident"]
    # The difference is the second copy, and nothing else.
    copies = predict(arch, fmt, Settings(context=2048)).repack.value
    assert resident["mmap"] - resident["none"] == pytest.approx(copies, rel=0.08)
