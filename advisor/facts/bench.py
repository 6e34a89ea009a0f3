"""Measured speed: what ``advisor bench`` and ``up`` saw, and how it is kept for later predictions."""

from __future__ import annotations

from typing import Literal

from advisor.facts.base import Shape
from advisor.facts.quantity import Quantity
from advisor.facts.recovery import KernelLesson, MemoryLesson
from advisor.facts.words import MethodName, RuntimeName

BenchKind = Literal["deployment", "file"]
Origin = Literal["bench", "up", "stand-in"]

# More CPU time was wanted than was had: below this share of threads x wall time the machine counts as busy. A server
# also waits for its client.
ENOUGH_CPU = 0.9
ENOUGH_CPU_SERVER = 0.75


class BenchRun(Shape, frozen=True, kw_only=True):
    """One run, kept as it was: a prompt up to ``depth`` tokens in the cache, then decoding.

    ``prefill`` and ``decode`` are tokens per second over the wall clock, ``median_step`` the median time of one token
    in seconds, where the engine was driven directly. ``wall_s`` and ``cpu_s``: of prompt and decoding together, the
    latter of all threads of the engine; ``None`` where it cannot be told. ``decode_cpu_s``: CPU time of decoding alone.
    """

    depth: int
    threads: int | None
    prompt_tokens: int
    completion_tokens: int
    prefill: float | None
    decode: float | None
    median_step: float | None = None
    wall_s: float
    cpu_s: float | None = None
    decode_cpu_s: float | None = None


class BenchPoint(Shape, frozen=True, kw_only=True):
    """All runs of one depth and one number of threads. Values are medians, the bounds the extremes of the runs.

    ``cpu_share``: CPU time by threads x wall time; well below 1 the threads waited for cores that others used.
    """

    depth: int
    threads: int | None
    prefill: Quantity | None
    decode: Quantity | None
    runs: tuple[BenchRun, ...]
    cpu_share: float | None = None
    busy: bool = False


class Work(Shape, frozen=True, kw_only=True):
    """What one token costs: bytes of weights that it reads by type, weights that take part by type, bytes of cache,
    and layers, each of which has a fixed cost."""

    read_bytes: dict[str, float]
    weights: dict[str, float]
    cache_bytes: float
    layers: int


class Measurement(Shape, frozen=True, kw_only=True):
    """One speed that this machine was seen to reach, with all that it depends on.

    ``shape`` tells architectures of equal dimensions apart from others; ``devices`` are their names (``cpu`` for the
    host). ``busy``: others used the cores meanwhile; it is kept to be seen, and no prediction follows it. ``origin``
    ``stand-in``: a file of the model's shapes with random weights, perhaps of some layers only.
    """

    runtime: RuntimeName
    engine: str
    method: MethodName
    format: str
    model: str
    shape: str
    devices: tuple[str, ...]
    threads: int | None
    depth: int
    kv_type: str
    work: Work
    decode: Quantity | None
    prefill: Quantity | None
    origin: Origin
    gpu_layers: int = 0
    cpu_moe_layers: int = 0
    runs: int = 1
    busy: bool = False
    measured_at: str | None = None


class ThreadChoice(Shape, frozen=True, kw_only=True):
    """The number of threads that decoded fastest, with the tokens per second of each that was tried.

    ``granted``: the cores at that time. ``because``: why it was tried (``quota``, ``shared``).
    """

    threads: int
    tried: dict[str, float]
    granted: float
    because: str
    shape: str
    format: str
    measured_at: str | None = None


class MeasuredSpeeds(Shape, frozen=True, kw_only=True):
    """The file of one machine's measurements. ``machine``: its key, made of processor, memory and devices. ``memory``:
    what servers that ran out of memory taught; ``kernels``: what runtimes were seen to lack."""

    schema: Literal["advisor/measured-speeds/v1"] = "advisor/measured-speeds/v1"
    machine: str
    speeds: tuple[Measurement, ...] = ()
    threads: tuple[ThreadChoice, ...] = ()
    memory: tuple[MemoryLesson, ...] = ()
    kernels: tuple[KernelLesson, ...] = ()


class MeasuredEngine(Shape, frozen=True, kw_only=True):
    """What ``advisor probe`` says of the engines that were measured here."""

    runtime: RuntimeName
    engine: str
    models: tuple[str, ...]
    formats: tuple[str, ...]
    speeds: int
    file: str
    measured_at: str | None = None


class Bench(Shape, frozen=True, kw_only=True):
    """``advisor bench``: what was measured, how, and every run.

    ``kind``: a running ``deployment`` through its endpoint, or a ``file`` with the engine driven directly. ``what``
    says it in a sentence. ``load``: the system's load average (one minute) before and after. ``best_threads``: the
    number of threads with the fastest decoding. ``stand_ins``: other formats of the same shapes, weights random.
    ``file``: where it is kept for later predictions; remove it to forget.
    """

    target: str
    kind: BenchKind
    what: str
    model: str
    method: MethodName
    format: str
    runtime: RuntimeName
    engine: str
    artifact: str
    machine: str
    cores_granted: float
    cores_logical: int
    load: tuple[float, ...]
    busy: bool
    points: tuple[BenchPoint, ...]
    best_threads: int | None
    stand_ins: tuple[Measurement, ...] = ()
    notes: tuple[str, ...] = ()
    file: str | None = None
    measured_at: str | None = None
