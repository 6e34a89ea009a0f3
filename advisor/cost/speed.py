"""Tokens per second of one request."""

from __future__ import annotations

from typing import Final, NamedTuple

from advisor.cost import cpu_speed
from advisor.cost.devices import decode_figures, device_class, prefill_figures
from advisor.cost.formats import checkpoint
from advisor.cost.gguf_file import weight_map
from advisor.cost.gguf_mix import DEFAULTS
from advisor.cost.kv import read_per_token
from advisor.cost.placement import HOST, Placement, device_of, place
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Settings, Speed
from advisor.facts.quantity import Method, Quantity

DEPTH: Final = 256  # tokens in the cache at which decode is stated: a short conversation
_PAGED: Final = ("vllm", "sglang", "tgi")
_ORDER: Final[tuple[Method, ...]] = ("guess", "table", "fit")
# Share of the nominal bandwidth that a copy within a device reaches; assumed, as no device was measured for it.
_COPY: Final = 0.9
# Runtimes whose every step starts many small kernels from Python: share of the engine's efficiency, fixed milliseconds.
_EAGER: Final = {"transformers": (0.5, 25.0), "textgen": (0.5, 25.0), "exllama": (0.9, 3.0), "mlx": (1.0, 3.0)}


class SpeedResult(NamedTuple):
    """The speed, and what to say about it."""

    speed: Speed
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]


class Work(NamedTuple):
    """What one token costs on one device: bytes of weights, bytes of cache, weights that take part."""

    weights: int
    cache: int
    params: float


def _kind(fmt: str, method: str) -> str:
    return DEFAULTS.get(fmt, "bf16") if method == "gguf" else "bf16"


def shares(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    *,
    method: str,
    fmt: str,
    settings: Settings,
    machine: Machine,
    devices: tuple[str, ...],
    imatrix: bool,
    as_is: bool | None,
    depth: int,
) -> dict[str, Work]:
    """Work of one token by device key. Layers are read where they lie, one after the other.

    Raises:
        AdvisorError: ``bad-option`` for a format that cannot be sized.
        KeyError: an unknown device.
    """
    kv = read_per_token(model, tensors, settings, depth)
    gpus = [d for d in devices if d != HOST]
    if method != "gguf":
        read = checkpoint(model, tensors, method, fmt).read
        homes = gpus or [HOST]
        n = len(homes)
        return {h: Work(read // n, kv // n, model.active_params / n) for h in homes}
    weights = weight_map(model, tensors, fmt, imatrix=imatrix, as_is=as_is)
    at: Placement = place(len(weights.layers), settings, machine, devices)
    sums: dict[str, list[float]] = {}
    whole = max(weights.read, 1)
    for i, size in enumerate(weights.read_layers):
        row = sums.setdefault(at.layers[i], [0.0, 0.0])
        held = 0
        if i in at.experts_on_host and at.layers[i] != HOST and model.experts:
            held = weights.experts[i] * model.experts_used // model.experts
            sums.setdefault(HOST, [0.0, 0.0])[0] += held
        row[0] += size - held
        row[1] += kv / len(weights.read_layers)
    sums.setdefault(at.output, [0.0, 0.0])[0] += weights.read - sum(weights.read_layers)
    return {key: Work(int(read), int(cache), model.active_params * read / whole) for key, (read, cache) in sums.items()}


def speed(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    *,
    method: str,
    fmt: str,
    runtime: str,
    settings: Settings,
    machine: Machine,
    devices: tuple[str, ...],
    imatrix: bool = False,
    as_is: bool | None = None,
    depth: int = DEPTH,
) -> SpeedResult:
    """Prefill and decode speed of one request; ``None`` where a device's bandwidth or rate is not known.

    Decode: bytes over effective bandwidth plus a fixed time, by class of device, with fitted figures; a CPU is also
    bound by its arithmetic. Layers on several devices are computed one after the other, so their times add up;
    checkpoints on several devices are computed together, so the slowest counts. Prefill: arithmetic at a
    fitted share of the rate.

    Raises:
        AdvisorError: ``bad-option`` for a format that cannot be sized.
        KeyError: an unknown device.
    """
    work = shares(
        model,
        tensors,
        method=method,
        fmt=fmt,
        settings=settings,
        machine=machine,
        devices=devices,
        imatrix=imatrix,
        as_is=as_is,
        depth=max(0, min(depth, settings.context)),
    )
    assumptions: list[str] = []
    warnings: list[str] = []
    sums: list[tuple[_Sum, _Sum]] = []
    together = method != "gguf" and len(work) > 1
    decode, prefill = _Sum(), _Sum()
    for key, one in work.items():
        if together:
            decode, prefill = _Sum(), _Sum()
        sums.append((decode, prefill))
        if key == HOST:
            _host(decode, prefill, machine, settings, one, _kind(fmt, method), runtime, method, assumptions)
        else:
            _device(decode, prefill, machine, key, one, runtime, bool(model.experts), together, warnings)
    known = all(d.known for d, _ in sums), all(p.known for _, p in sums)
    return SpeedResult(
        speed=Speed(
            prefill=max((p for _, p in sums), key=lambda p: p.seconds).quantity() if known[1] else None,
            decode=max((d for d, _ in sums), key=lambda d: d.seconds).quantity() if known[0] else None,
        ),
        assumptions=tuple(dict.fromkeys(assumptions)),
        warnings=tuple(dict.fromkeys(warnings)),
    )


class _Sum:
    """Times of one token, added over devices; the weakest method and all sources name the result."""

    def __init__(self) -> None:
        self.seconds = self.slow = self.fast = 0.0
        self.method: Method = "fit"
        self.sources: list[str] = []
        self.known = True

    def add(self, seconds: float, low: float, high: float, method: Method, source: str) -> None:
        self.seconds += seconds
        self.slow += seconds / low
        self.fast += seconds / high
        self.method = min(self.method, method, key=_ORDER.index)
        self.sources.append(source)

    def quantity(self) -> Quantity | None:
        if not self.known or self.seconds <= 0:
            return None
        return Quantity(
            value=1 / self.seconds,
            low=1 / self.slow,
            high=1 / self.fast,
            unit="tokens/s",
            method=self.method,
            source="; ".join(dict.fromkeys(self.sources)),
        )


def _host(
    decode: _Sum,
    prefill: _Sum,
    machine: Machine,
    settings: Settings,
    one: Work,
    kind: str,
    runtime: str,
    method: str,
    assumptions: list[str],
) -> None:
    rate = cpu_speed.decode(
        machine.host,
        settings,
        read=one.weights + one.cache,
        params=one.params,
        kind=kind,
        runtime=runtime,
        method=method,
    )
    decode.add(rate.seconds, rate.low, rate.high, "fit" if rate.known else "guess", rate.source)
    if not rate.known:
        assumptions.append(
            "the read bandwidth of host memory is not known: two channels of DDR4-3200 are assumed, or eight above "
            "16 cores; measure it with: advisor probe --measure"
        )
    read = cpu_speed.prefill(machine.host, settings, params=one.params, kind=kind, runtime=runtime, method=method)
    prefill.add(read.seconds, read.low, read.high, "fit", read.source)


def nominal(rate: Quantity) -> float:
    """Bytes a second as a data sheet would have it, which is what the efficiencies were fitted to.

    A measured copy within the memory of a device reaches less than that; by how much is assumed.
    """
    return float(rate.value) / (_COPY if rate.method == "measured" else 1.0)


def _device(
    decode: _Sum,
    prefill: _Sum,
    machine: Machine,
    key: str,
    one: Work,
    runtime: str,
    moe: bool,
    together: bool,
    warnings: list[str],
) -> None:
    device = device_of(machine, key)
    if device is None:
        return
    engine = "vllm" if runtime in _PAGED else "llama.cpp"
    cls = device_class(device)
    figures = decode_figures(engine, cls, moe=moe) or decode_figures("llama.cpp", cls, moe=moe)
    share, extra = _EAGER.get(runtime, (1.0, 0.0))
    parallel = 0.8 if together else 1.0  # tensor parallel: the devices wait for each other
    if device.bandwidth is None or figures is None:
        decode.known = False
        warnings.append(f"the memory bandwidth of {key} ({device.name}) is not known, so decode speed is not predicted")
    else:
        row, own = figures
        seconds = (one.weights + one.cache) / (row.efficiency * share * parallel * nominal(device.bandwidth))
        fixed = (row.fixed_ms + extra) / 1000
        guess = not own or runtime in _EAGER or together
        decode.add(
            seconds + fixed,
            row.low * (0.7 if guess else 1.0),
            row.high * (1.4 if guess else 1.0),
            "guess" if guess else row.method,
            row.source,
        )
    rate = device.fp16_tflops
    found = prefill_figures(engine, cls) or prefill_figures("llama.cpp", cls)
    if rate is None or found is None:
        prefill.known = False
        warnings.append(f"the FP16 rate of {key} ({device.name}) is not known, so prefill speed is not predicted")
        return
    p, own = found
    took = 2 * one.params / (p.share * parallel * rate * 1e12)
    prefill.add(took, p.low, p.high, p.method if own else "guess", p.source)
