"""Tokens per second of one request."""

from __future__ import annotations

from typing import Final, NamedTuple

from advisor.cost import cpu_speed
from advisor.cost.devices import kernel, law, prompt_share, speeds
from advisor.cost.placement import HOST, device_of
from advisor.cost.work import LINK_UNKNOWN, Kinds, Work, link_bandwidth, shares
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Settings, Speed
from advisor.facts.quantity import Method, Quantity

DEPTH: Final = 256  # tokens in the cache at which speed is stated: a short conversation
_ORDER: Final[tuple[Method, ...]] = ("guess", "table", "fit")
# Share of the nominal bandwidth that a copy within a device reaches; assumed, as no device was measured for it.
_COPY: Final = 0.9
# Runtimes whose every step starts many small kernels from Python: bytes' time relative to others, fixed milliseconds.
# Assumed: no figure of one request was published.
_EAGER: Final = {"transformers": (0.5, 25.0), "textgen": (0.5, 25.0), "exllama": (0.9, 3.0), "mlx": (1.0, 3.0)}
_CROSSING: Final = 40e-6  # seconds to hand a token's activations from one device to another; assumed
_REDUCTION: Final = 20e-6  # seconds until devices that compute one matrix together have summed; assumed
# llama.cpp computes batches of at least this many tokens on the device even where the weights are on the host, and
# copies them over for that (ggml-cuda, offload_op).
_OFFLOADED_BATCH: Final = 32


# Of dense models with fewer weights one prompt on one device was published. Their matrices fill a fast device less, so
# that prompts may take longer than arithmetic tells; by how much is assumed.
_SMALLEST: Final = 3e9
_SMALLER: Final = 0.4


class SpeedResult(NamedTuple):
    """The speed, and what to say about it."""

    speed: Speed
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]


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

    Decode: bytes over effective bandwidth plus a fixed time, by class of device and kernel, with fitted figures; a CPU
    is also bound by its arithmetic. Layers on several devices are computed one after the other, so their times add up,
    and so does the time to go from one to the next; checkpoints on several devices are computed together, so the
    slowest counts, and the devices wait for each other twice a layer; groups of them that hold some of the layers each
    follow each other. Prefill: arithmetic at a fitted share of the
    rate, and a token's fixed time for each batch; llama.cpp copies layers from the host to the device for whole batches
    where that is faster.

    Args:
        depth: tokens in the cache, for decode and on average for a token of the prompt.

    Raises:
        AdvisorError: ``bad-option`` for a format that cannot be sized.
        KeyError: an unknown device.
    """
    found = shares(
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
    job = _Job(model, machine, settings, found.kinds, method, runtime, [], [])
    together = method != "gguf" and len(found.work) > 1
    parts = [device_of(machine, key) for key in found.work]
    links = [link_bandwidth(part) for part in parts if part is not None]
    sums: list[tuple[_Sum, _Sum]] = []
    decode, prefill = _Sum(), _Sum()
    for key, one in found.work.items():
        if together:
            decode, prefill = _Sum(), _Sum()
        sums.append((decode, prefill))
        if key == HOST:
            _host(decode, prefill, job, one, min(links, default=None))
        else:
            _device(decode, prefill, job, key, one)
    if together:
        slowest, groups = min(links, default=LINK_UNKNOWN), found.crossings + 1
        for d, p in sums:
            d.repeat(groups)
            p.repeat(groups)
            if len(found.work) > groups:
                reduced = 2 * model.layers * 2 * 2 * model.hidden / slowest
                d.wait(2 * model.layers * _REDUCTION + reduced)
                p.wait(reduced)
            d.wait(found.crossings * (_CROSSING + 4 * model.hidden / slowest))
    elif found.crossings:
        decode.wait(found.crossings * (_CROSSING + 4 * model.hidden / min(links, default=LINK_UNKNOWN)))
    known = all(d.known for d, _ in sums), all(p.known for _, p in sums)
    return SpeedResult(
        speed=Speed(
            prefill=max((p for _, p in sums), key=lambda p: p.seconds).quantity() if known[1] else None,
            decode=max((d for d, _ in sums), key=lambda d: d.seconds).quantity() if known[0] else None,
        ),
        assumptions=tuple(dict.fromkeys(job.assumptions)),
        warnings=tuple(dict.fromkeys(job.warnings)),
    )


class _Job(NamedTuple):
    """What is the same on all devices, and what there is to say."""

    model: ModelFacts
    machine: Machine
    settings: Settings
    kinds: Kinds
    method: str
    runtime: str
    assumptions: list[str]
    warnings: list[str]

    @property
    def family(self) -> str:
        """The kernels that multiply with most of the weights."""
        return kernel(self.kinds[0][0] if self.kinds else "", self.method)


class _Sum:
    """Times of one token, added over devices; the weakest method and all sources name the result."""

    def __init__(self) -> None:
        self.seconds = self.slow = self.fast = 0.0
        self.method: Method = "fit"
        self.sources: list[str] = []
        self.known = True

    def add(self, seconds: float, low: float, high: float, method: Method, source: str, least: float = 0.0) -> None:
        """``least``: what no device can fall below."""
        self.seconds += max(seconds, least)
        self.slow += max(seconds, least) / low
        self.fast += max(seconds / high, least)
        self.method = min(self.method, method, key=_ORDER.index)
        self.sources.append(source)

    def repeat(self, times: int) -> None:
        """Several groups of devices take as long each, one after the other."""
        self.seconds, self.slow, self.fast = self.seconds * times, self.slow * times, self.fast * times

    def wait(self, seconds: float) -> None:
        """Time between devices; assumed, so it may be twice or half of that."""
        self.seconds += seconds
        self.slow += 2 * seconds
        self.fast += seconds / 2

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


def _host(decode: _Sum, prefill: _Sum, job: _Job, one: Work, link: float | None) -> None:
    rate = cpu_speed.decode(
        job.machine.host,
        job.settings,
        read=one.weights + one.cache,
        params=one.params,
        kinds=job.kinds,
        runtime=job.runtime,
        method=job.method,
        layers=one.layers,
        attention=one.attention,
    )
    sure = rate.known and rate.fitted
    decode.add(rate.seconds, rate.low, rate.high, "fit" if sure else "guess", rate.source, rate.least)
    if not rate.known:
        job.assumptions.append(
            "the read bandwidth of host memory is not known: two channels of DDR4-3200 are assumed, or eight above "
            "16 cores; measure it with: advisor probe --measure"
        )
    if cpu_speed.crowded(job.machine.host, job.settings):
        granted = job.machine.host.cpu.cores_granted
        job.warnings.append(
            f"{job.settings.threads} threads share {granted:g} granted cores: they wait for each other, which can be "
            "several times slower"
        )
    read = cpu_speed.prefill(
        job.machine.host,
        job.settings,
        params=one.params,
        kinds=job.kinds,
        runtime=job.runtime,
        method=job.method,
        attention=one.attention,
    )
    seconds, method = read.seconds, "fit" if read.fitted else "guess"
    source = read.source
    if link is not None and job.settings.ubatch >= _OFFLOADED_BATCH:
        copied = one.held / (job.settings.ubatch * link)
        if copied < seconds:
            seconds, method, source = copied, "guess", "copied to the device for each batch"
    prefill.add(seconds, read.low, read.high, "fit" if method == "fit" else "guess", source)


def nominal(rate: Quantity) -> float:
    """Bytes a second as a data sheet would have it, which is what the efficiencies were fitted to.

    A measured copy within the memory of a device reaches less than that; by how much is assumed.
    """
    return float(rate.value) / (_COPY if rate.method == "measured" else 1.0)


def _device(decode: _Sum, prefill: _Sum, job: _Job, key: str, one: Work) -> None:
    device = device_of(job.machine, key)
    if device is None:
        return
    moe = bool(job.model.experts)
    fixed = 0.0
    if device.bandwidth is None or device.bandwidth.value <= 0:
        decode.known = False
        job.warnings.append(
            f"the memory bandwidth of {key} ({device.name}) is not known, so decode speed is not predicted"
        )
    else:
        found = law(
            device,
            runtime=job.runtime,
            family=job.family,
            moe=moe,
            layers=job.model.layers,
        )
        share, extra = _EAGER.get(job.runtime, (1.0, 0.0))
        least = (one.weights + one.cache) / nominal(device.bandwidth)
        part = min(1.0, one.layers / max(job.model.layers, 1))
        guess = job.runtime in _EAGER
        fixed = found.fixed * part + extra / 1000
        decode.add(
            least * found.inverse / share + fixed,
            found.low * (0.7 if guess else 1.0),
            found.high * (1.4 if guess else 1.0),
            "guess" if guess else found.method,
            found.source,
            least,
        )
    rate, assumed = device.fp16_tflops, False
    if rate is None and device.bandwidth is not None:
        rate, assumed = speeds().prefill.tflops_per_tbs * nominal(device.bandwidth) / 1e12, True
    if rate is None or rate <= 0:
        prefill.known = False
        job.warnings.append(f"the FP16 rate of {key} ({device.name}) is not known, so prefill speed is not predicted")
        return
    p = prompt_share(device, runtime=job.runtime, family=job.family, moe=moe)
    share = 1.0 if assumed else p.share
    took = (2 * one.params + one.attention) / (share * rate * 1e12)
    # A batch starts as many kernels as a token does, which small models feel.
    batch = job.settings.ubatch if job.method == "gguf" else job.settings.batch
    took += fixed / max(min(batch, job.settings.context), 1)
    low, method = p.low, p.method
    if job.model.active_params < _SMALLEST:
        low, method = low * _SMALLER, "guess"
    if assumed:
        source = f"the FP16 rate of {device.name} is not known; by its bandwidth"
        prefill.add(took, low / 2, p.high * 2, "guess", source)
    else:
        prefill.add(took, low, p.high, method, p.source)
