"""Samples of measured speed, and measurements that follow a known law."""

from __future__ import annotations

from typing import Any

import msgspec

from advisor.facts.bench import Bench, BenchPoint, BenchRun, Measurement, Work
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Settings
from advisor.facts.quantity import Quantity, exact
from advisor.model.tensors import tensors
from advisor.planner.token_work import shape_of, work_of


def measured(value: float, spread: float = 0.01) -> Quantity:
    """Tokens a second, with a symmetric range."""
    return Quantity(value=value, low=value * (1 - spread), high=value * (1 + spread), unit="tokens/s",
                    method="measured", source="a clock")  # fmt: skip


def run_at(depth: int, threads: int | None, step: float, *, cpu: float | None = None, tokens: int = 32) -> BenchRun:
    """One run whose tokens took ``step`` seconds each."""
    return BenchRun(
        depth=depth,
        threads=threads,
        prompt_tokens=depth,
        completion_tokens=tokens,
        prefill=600.0,
        decode=1 / step,
        median_step=step,
        wall_s=tokens * step,
        cpu_s=cpu,
    )


def sample_bench(**changes: Any) -> Bench:
    """``advisor bench`` of a file."""
    runs = (run_at(256, 2, 0.01, cpu=0.6), run_at(256, 2, 0.011, cpu=0.62))
    whole = Bench(
        target="a.gguf",
        kind="file",
        what="llama.cpp driven directly.",
        model="SmolLM2-135M",
        method="gguf",
        format="q4_k_m",
        runtime="llama.cpp",
        engine="wheel 1.2.3",
        artifact="/models/a.gguf",
        machine="00ff00ff00ff00ff",
        cores_granted=2.0,
        cores_logical=2,
        load=(0.5, 1.5),
        busy=False,
        points=(
            BenchPoint(
                depth=256,
                threads=2,
                prefill=exact(600.0, "tokens/s", "a clock", "measured"),
                decode=measured(95.0),
                runs=runs,
                cpu_share=0.95,
            ),
        ),
        best_threads=2,
        stand_ins=(measurement(origin="stand-in", fmt="q8_0", decode=80.0),),
        notes=("Measured.",),
        file="/home/me/.local/state/advisor/measured/00ff00ff00ff00ff.json",
        measured_at="2026-01-02T03:04:05Z",
    )
    return msgspec.structs.replace(whole, **changes)


def measurement(
    *,
    fmt: str = "q4_k_m",
    decode: float = 95.0,
    prefill: float | None = 600.0,
    work: Work | None = None,
    **changes: Any,
) -> Measurement:
    """One measurement, of a model with work of its own unless ``work`` is given."""
    whole = Measurement(
        runtime="llama.cpp",
        engine="wheel 1.2.3",
        method="gguf",
        format=fmt,
        model="SmolLM2-135M",
        shape="0123456789ab",
        devices=("cpu",),
        threads=2,
        depth=256,
        kv_type="f16",
        work=work or Work(read_bytes={"q8_0": 1e8}, weights={"q8_0": 1e8}, cache_bytes=1e6, layers=30),
        decode=measured(decode),
        prefill=measured(prefill) if prefill is not None else None,
        origin="bench",
        runs=3,
        measured_at="2026-01-02T03:04:05Z",
    )
    return msgspec.structs.replace(whole, **changes)


class Law:
    """A machine whose tokens take exactly a fixed time a layer and a time a byte by type, busy or not."""

    def __init__(self, *, layer_s: float = 3e-5, gigabytes: float = 12.0, **slower: float) -> None:
        self.layer_s, self.rate, self.slower = layer_s, gigabytes * 1e9, slower

    def seconds(self, work: Work) -> float:
        """Of one token."""
        reading = sum(n * self.slower.get(t, 1.0) for t, n in work.read_bytes.items()) + work.cache_bytes
        return work.layers * self.layer_s + reading / self.rate

    def tokens_per_second(self, model: ModelFacts, fmt: str, *, depth: int = 256) -> float:
        """Decoding of a model in a format."""
        return 1 / self.seconds(work(model, fmt, depth))

    def of(self, model: ModelFacts, fmt: str, *, threads: int = 2, depth: int = 256, **changes: Any) -> Measurement:
        """What a bench of it would find."""
        done = work(model, fmt, depth)
        return measurement(
            fmt=fmt, decode=1 / self.seconds(done), prefill=500.0, work=done, shape=shape_of(model), model=model.name,
            threads=threads, depth=depth, **changes,
        )  # fmt: skip


def work(model: ModelFacts, fmt: str, depth: int = 256) -> Work:
    """The work of one token."""
    return work_of(model, tensors(model), method="gguf", fmt=fmt, settings=Settings(context=8192), depth=depth)


def with_engine(machine: Machine, version: str = "1.2.3") -> Machine:
    """The machine with llama.cpp's wheel in one version and no accelerator."""
    from advisor.facts.machine import RuntimeFound

    found = RuntimeFound(runtime="llama.cpp", provider="wheel", version=version)
    return msgspec.structs.replace(machine, devices=(), runtimes=(found,))
