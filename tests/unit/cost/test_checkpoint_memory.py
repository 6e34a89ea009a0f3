"""transformers' memory on a CPU as measured, memory of making checkpoints, and laws of both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.cost.effort import making_memory
from advisor.cost.memory import memory
from advisor.facts.plan import Memory, Settings
from tests.support import shapes

MIB = 1 << 20
KNOWN = {name: (shapes.facts(a), shapes.tensors(a)) for name, a in shapes.KNOWN.items()}
SMALL = KNOWN["smollm2-135m"]


def at(method: str, context: int, *, name: str = "smollm2-135m", devices: tuple[str, ...] = ("host",)) -> Memory:
    box = shapes.machine(*(shapes.gpu(key) for key in devices if key != "host"))
    return memory(
        *KNOWN[name], method=method, fmt="bf16" if method == "none" else method, runtime="transformers",
        settings=Settings(context=context, load_mode=None), machine=box, devices=devices,
    )  # fmt: skip


# Peak of the served process (proportional set size) after a prompt as long as the context, SmolLM2-135M, MiB.
@pytest.mark.parametrize(
    ("method", "context", "mib"),
    [("none", 2000, 746), ("nf4", 2000, 865), ("nf4", 3900, 925), ("int8", 2000, 1169), ("int8", 3900, 1288)],
)
def test_within_8_percent_of_what_was_measured(method: str, context: int, mib: float) -> None:
    q = at(method, context)
    assert q.total.value / MIB == pytest.approx(mib, rel=0.08)
    assert q.total.low / MIB <= mib <= q.total.high / MIB


@given(
    method=st.sampled_from(["none", "nf4", "int8"]),
    name=st.sampled_from(["smollm2-135m", "llama-3.1-8b", "gemma-2-9b"]),
    context=st.integers(1, 100_000),
    devices=st.sampled_from([("host",), ("gpu0",), ("gpu0", "gpu1")]),
)
def test_laws(method: str, name: str, context: int, devices: tuple[str, ...]) -> None:
    q, larger = (at(method, n, name=name, devices=devices) for n in (context, 2 * context))
    parts = (q.weights, q.kv_cache, q.state, q.compute, q.output, q.repack, q.overhead)
    assert q.total.value == sum(p.value for p in parts) == sum(d.value for d in q.by_device.values())
    assert all(0 <= p.low <= p.value <= p.high for p in (*parts, q.total))
    assert larger.total.value >= q.total.value
    assert set(q.by_device) == {"host", *devices}
    assert q.reserved is None


# Peak resident memory of making, 16 pieces of calibration text: SmolLM2-135M whole, and cut to two layers.
@pytest.mark.parametrize(
    ("method", "fmt", "quantizer", "layers", "peak"),
    [
        ("w8a8", "w8a8", None, 30, 1_265_651_712),
        ("awq", "w4a16-g64", None, 30, 1_445_736_448),
        ("gptq", "w4a16-g64", None, 30, 1_598_541_824),
        ("gptq", "w4a16-g64", "gptqmodel", 2, 1_090_000_000),
        ("rtn", "w4a16-g64", "llmcompressor", 2, 930_000_000),
        ("rtn", "w4a16-g64", None, 30, 1_180_000_000),
        ("awq", "w4a16-g64", "autoawq", 30, 1_600_000_000),
    ],
)
def test_making_takes_what_was_measured(method: str, fmt: str, quantizer: str | None, layers: int, peak: int) -> None:
    arch = shapes.KNOWN["smollm2-135m"]._replace(layers=layers)
    q = making_memory(shapes.facts(arch), shapes.tensors(arch), method, fmt, quantizer=quantizer)
    assert q is not None
    assert q.value == pytest.approx(peak, rel=0.15)
    assert q.low <= peak <= q.high


def test_making_holds_the_whole_model() -> None:
    for method, fmt in (("awq", "w4a16-g128"), ("gptq", "w4a16-g128"), ("w8a8", "w8a8"), ("fp8", "fp8")):
        q = making_memory(*KNOWN["llama-3.1-8b"], method, fmt)
        assert q is not None and 16e9 < q.low <= q.value <= q.high
    assert making_memory(*SMALL, "gguf", "q4_k_m") is None
    assert making_memory(*SMALL, "nf4", "nf4") is None
