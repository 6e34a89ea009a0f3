"""Speed: published measurements, laws, and what is unknown."""

from __future__ import annotations

import msgspec
import pytest

from advisor.cost.devices import NEAREST, decode_figures, device_class, engines, prefill_figures
from advisor.cost.speed import SpeedResult, speed
from advisor.facts.machine import Machine
from advisor.facts.plan import Settings
from tests.support import shapes

KNOWN = {name: (shapes.facts(a), shapes.tensors(a)) for name, a in shapes.KNOWN.items()}
RTX_4090 = shapes.machine(shapes.gpu())


def run(name: str, fmt: str, machine: Machine, *devices: str, method: str = "gguf", runtime: str = "llama.cpp",
        depth: int = 256, **settings: int) -> SpeedResult:  # fmt: skip
    model, tensors = KNOWN[name]
    asked = Settings(**{"context": 32768, **settings})
    return speed(
        model, tensors, method=method, fmt=fmt, runtime=runtime, settings=asked, machine=machine, devices=devices,
        depth=depth,
    )  # fmt: skip


def decode(*args: object, **kwargs: object) -> float:
    q = run(*args, **kwargs).speed.decode  # type: ignore[arg-type]
    assert q is not None
    assert 0 < q.low <= q.value <= q.high
    assert q.unit == "tokens/s"
    return float(q.value)


# tokens/s of one request: XiongjieDai/GPU-Benchmarks-on-LLM-Inference@aa72e0e, geerlingguy/ai-benchmarks@bdf9441.
MEASURED = [
    ("llama-3.1-8b", "q4_k_m", shapes.gpu(), 127.74),
    ("llama-3.1-8b", "f16", shapes.gpu(), 54.34),
    ("llama-3.1-8b", "q4_k_m", shapes.gpu(name="NVIDIA GeForce RTX 3080", bandwidth=760_300_000_000), 106.4),
    ("llama-3.3-70b", "q4_k_m", shapes.gpu(name="NVIDIA RTX 6000 Ada", bandwidth=960_000_000_000), 18.36),
    ("llama-3.1-8b", "q4_k_m", shapes.gpu(name="NVIDIA A100 SXM4 80 GB", bandwidth=2_039_000_000_000), 133.38),
    ("llama-3.1-8b", "q4_k_m", shapes.gpu(name="Apple M4 (10)", vendor="apple", bandwidth=120_000_000_000), 20.87),
    ("llama-3.3-70b", "q4_k_m", shapes.gpu(name="NVIDIA GB10", bandwidth=273_000_000_000), 4.71),
]


@pytest.mark.parametrize(("name", "fmt", "device", "measured"), MEASURED)
def test_published_measurements_are_in_range(name: str, fmt: str, device: object, measured: float) -> None:
    q = run(name, fmt, shapes.machine(device), "gpu0").speed.decode  # type: ignore[arg-type]
    assert q is not None
    assert q.low <= measured <= q.high
    assert q.value == pytest.approx(measured, rel=0.25)
    assert q.method == "fit"


def test_unknown_bandwidth_is_not_guessed_for_a_device() -> None:
    bare = shapes.gpu(bandwidth=None, tflops=None)
    result = run("llama-3.1-8b", "q4_k_m", shapes.machine(bare), "gpu0")
    assert result.speed.decode is None
    assert result.speed.prefill is None
    assert any("bandwidth of gpu0" in w for w in result.warnings)
    assert any("FP16 rate" in w for w in result.warnings)


def test_a_cpu_without_measured_bandwidth_is_a_wide_guess() -> None:
    guess = run("llama-3.1-8b", "q4_k_m", shapes.machine(), "host")
    assert guess.speed.decode is not None
    assert guess.speed.decode.method == "guess"
    assert guess.speed.decode.high / guess.speed.decode.low > 5
    assert any("advisor probe --measure" in a for a in guess.assumptions)
    known = run("llama-3.1-8b", "q4_k_m", shapes.machine(bandwidth=40_000_000_000), "host")
    assert known.assumptions == ()
    assert known.speed.decode is not None
    assert known.speed.decode.method == "fit"


def test_a_cpu_is_bound_by_cores_or_by_memory() -> None:
    # One core made three to four tokens a second of an 8B Q4_K_M.
    assert 2.5 < decode("llama-3.1-8b", "q4_k_m", shapes.machine(cores=1, bandwidth=40_000_000_000), "host") < 4.5
    few = decode("llama-3.1-8b", "q4_k_m", shapes.machine(cores=2, bandwidth=100_000_000_000), "host")
    many = decode("llama-3.1-8b", "q4_k_m", shapes.machine(cores=64, bandwidth=100_000_000_000), "host")
    assert few < many <= 0.7 * 100e9 / 4.9e9
    limited = shapes.machine(cores=64, bandwidth=100_000_000_000)
    assert decode("llama-3.1-8b", "q4_k_m", limited, "host", threads=2) == pytest.approx(few)
    old = shapes.machine(isa=("sse4_2",), bandwidth=100_000_000_000)
    assert decode("llama-3.1-8b", "q4_k_m", old, "host") < few
    # SmolLM2-135M: 93 tokens a CPU second.
    assert 45 < decode("smollm2-135m", "q4_k_m", shapes.machine(cores=1, bandwidth=40_000_000_000), "host") < 140


def test_fewer_bytes_are_faster() -> None:
    order = ["bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m"]
    rates = [decode("llama-3.1-8b", fmt, RTX_4090, "gpu0") for fmt in order]
    assert rates == sorted(rates)
    assert decode("llama-3.1-8b", "q4_k_m", RTX_4090, "gpu0", depth=30000) < rates[4]
    assert decode("qwen3-30b-a3b", "q4_k_m", RTX_4090, "gpu0") > decode("gemma-3-27b", "q4_k_m", RTX_4090, "gpu0")


def test_a_split_adds_both_times() -> None:
    box = shapes.machine(shapes.gpu(), bandwidth=50_000_000_000)
    rates = [decode("llama-3.1-8b", "q4_k_m", box, "gpu0", "host", gpu_layers=n) for n in (0, 8, 16, 24, 33)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(decode("llama-3.1-8b", "q4_k_m", box, "gpu0"))
    two = shapes.machine(shapes.gpu("gpu0"), shapes.gpu("gpu1"))
    in_turn = decode("llama-3.1-8b", "q4_k_m", two, "gpu0", "gpu1")
    assert in_turn < decode("llama-3.1-8b", "q4_k_m", RTX_4090, "gpu0")
    together = decode("llama-3.1-8b", "bf16", two, "gpu0", "gpu1", method="none", runtime="vllm")
    assert together > decode("llama-3.1-8b", "bf16", RTX_4090, "gpu0", method="none", runtime="vllm")


def test_runtimes() -> None:
    vllm = decode("llama-3.1-8b", "w4a16-g128", RTX_4090, "gpu0", method="awq", runtime="vllm")
    eager = run("llama-3.1-8b", "nf4", RTX_4090, "gpu0", method="nf4", runtime="transformers").speed.decode
    assert eager is not None
    assert eager.value < vllm
    assert eager.method == "guess"
    cpu = shapes.machine(bandwidth=40_000_000_000)
    slow = decode("smollm2-135m", "fp8", cpu, "host", method="fp8", runtime="vllm")
    assert slow < decode("smollm2-135m", "w8a8", cpu, "host", method="w8a8", runtime="vllm") / 5


@pytest.mark.parametrize(
    ("name", "vendor", "expected"),
    [
        ("NVIDIA GeForce RTX 3060", "nvidia", "nvidia-gddr"),
        ("NVIDIA H200", "nvidia", "nvidia-hbm"),
        ("NVIDIA Jetson AGX Orin", "nvidia", "nvidia-gb10"),
        ("AMD Instinct MI300X", "amd", "amd-cdna"),
        ("AMD Radeon RX 7900 XTX", "amd", "amd-rdna"),
        ("Intel Arc B580", "intel", "intel-arc"),
        ("Apple M2 Ultra (76)", "apple", "apple"),
        ("Something", "other", "other"),
    ],
)
def test_classes(name: str, vendor: str, expected: str) -> None:
    cls = device_class(shapes.gpu(name=name, vendor=vendor))
    assert cls == expected
    for moe in (False, True):
        assert decode_figures("llama.cpp", cls, moe=moe) is not None
    assert prefill_figures("llama.cpp", cls) is not None


def test_pascal_is_a_class_of_its_own() -> None:
    old = msgspec.structs.replace(shapes.gpu(name="Tesla P40"), compute_capability=6.1)
    assert device_class(old) == "nvidia-pascal"


def test_figures_are_sourced_and_sane() -> None:
    table = engines()
    for row in table.decode:
        assert row.source
        assert 0.1 < row.efficiency <= 0.95
        assert row.low <= 1 <= row.high
        assert (row.method == "guess") or row.n > 1
    for p in table.prefill:
        assert p.source
        assert 0 < p.share < 1
    classes = {r.device for r in table.decode}
    for start in NEAREST:
        seen, at = set(), start
        while at not in classes:
            assert at not in seen
            seen.add(at)
            at = NEAREST[at]
