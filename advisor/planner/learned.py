"""Predictions that follow what was measured on this very machine: the same choice as measured, others by a fit.

The time of a token is taken as a fixed time a layer, the bytes of weights by their type, each at a speed of its own,
and the bytes of cache: ``t = layers * t0 + sum(bytes_i / speed_i)``. What a few measurements leave open stays near the
usual proportions between types (``PROPORTIONS``); with two formats measured, bandwidth and fixed time are known.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from advisor.facts.bench import Measurement, ThreadChoice, Work
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Settings, Speed
from advisor.facts.quantity import Quantity
from advisor.planner import fitting
from advisor.planner.devices import whole
from advisor.planner.fitting import Prior, Sample
from advisor.planner.token_work import device_names, shape_of, work_of

if TYPE_CHECKING:
    from advisor.cost.estimate import Cost

DECODE_DEPTH: Final = 256  # tokens in the cache at which a plan states decode
PREFILL_DEPTH: Final = 512
# A measurement within this factor of the depth that is stated stands for it.
_NEAR: Final = 2.5
# Time of a byte by its type on a CPU, relative to q8_0: fitted to 16 formats of SmolLM2-135M in llama.cpp on one core
# of an AMD EPYC with AVX-512, where arithmetic counts as much as reading. A type that is not named is taken as q8_0.
PROPORTIONS: Final = {
    "f32": 0.9, "f16": 0.64, "bf16": 0.71, "q8_0": 1.0, "q4_0": 1.27, "q4_1": 1.53, "q5_0": 1.78, "q5_1": 1.73,
    "q4_k": 1.6, "q5_k": 1.87, "q6_k": 1.39, "q3_k": 2.5, "q2_k": 1.7, "iq4_nl": 1.28, "iq4_xs": 1.71, "mxfp4": 1.4,
}  # fmt: skip
# Arithmetic of a weight in a prompt by its type, relative to q8_0.
_ARITHMETIC: Final = {"q8_0": 1.0, "f32": 2.0, "f16": 1.5, "bf16": 1.5, "q6_k": 1.2, "q3_k": 1.3, "q2_k": 1.3}
_SPREAD: Final = 0.35
_FIXED_SHARE: Final = 0.1
_WEIGHTS: Final = {"bench": 1.0, "up": 0.5, "stand-in": 0.7}
# Half of the interval: at least this; and what is added for bytes of a type that was never measured.
_LEAST: Final = 0.04
_UNSEEN: Final = 0.25
_ONE_SAMPLE: Final = 0.12
_OTHER_MODEL: Final = 0.2
_MUCH_LARGER: Final = 4.0


class _Fit(NamedTuple):
    """``error``: relative, of what was left out; ``seen``: kinds of work that were measured; ``most``: bytes a token
    at most among the samples."""

    costs: dict[str, float]
    error: float
    seen: frozenset[str]
    samples: int
    most: float
    engine: str


class Learned:
    """What is known of this machine by measuring; ``corrected`` lays it over a cost. For no other machine.

    What was measured while others used the cores says how busy it was, not how fast it is: it takes no part.
    """

    def __init__(self, speeds: Iterable[Measurement], machine: Machine, threads: Iterable[ThreadChoice] = ()) -> None:
        self.machine = machine
        self.speeds = _current(tuple(m for m in speeds if not m.busy), machine)
        self.threads = tuple(threads)
        self._fits: dict[tuple[object, ...], _Fit | None] = {}

    def __bool__(self) -> bool:
        return bool(self.speeds)

    def of(self, machine: Machine) -> bool:
        """Whether ``machine`` is the one that was measured, however full it is."""
        return machine is self.machine or whole(machine) == whole(self.machine)

    def corrected(
        self,
        cost: Cost,
        model: ModelFacts,
        tensors: tuple[TensorSpec, ...],
        *,
        method: str,
        fmt: str,
        runtime: str,
        settings: Settings,
        devices: tuple[str, ...],
        imatrix: bool,
        as_is: bool | None = None,
        threads_named: bool = False,
    ) -> Cost:
        """The cost with its speed as measured, or as fitted to what was measured; as it was where nothing applies.

        ``threads_named``: the user named the threads, so that no others are chosen when it is launched.
        """
        names = device_names(self.machine, devices)
        on_host = "cpu" in names
        if on_host and not threads_named:
            settings = self._launched(settings, model, fmt)
        here = [
            m
            for m in self.speeds
            if m.runtime == runtime and m.devices == names and (not on_host or m.threads in (None, settings.threads))
        ]
        if not here:
            return cost
        shape = shape_of(model)
        alike = [
            m
            for m in here
            if (m.shape, m.method, m.format, m.kv_type) == (shape, method, fmt, settings.kv_type)
            and (m.gpu_layers, m.cpu_moe_layers) == (settings.gpu_layers, settings.cpu_moe_layers)
        ]
        same = [m for m in alike if m.origin != "stand-in"]
        decode = _as_measured(same, "decode", DECODE_DEPTH)
        prefill = _as_measured(same, "prefill", PREFILL_DEPTH)
        if len(devices) == 1 and (decode is None or prefill is None):
            depth = max(0, min(DECODE_DEPTH, settings.context))
            work = work_of(
                model, tensors, method=method, fmt=fmt, settings=settings, depth=depth, imatrix=imatrix, as_is=as_is
            )
            key = (runtime, names, settings.threads if on_host else None)
            old = cost.speed
            decode = decode or self._decode(key, here, alike, shape, work, old.decode, on_host=on_host)
            prefill = prefill or self._prefill(key, here, shape, work)
        if decode is None and prefill is None:
            return cost
        speed = Speed(prefill=prefill or cost.speed.prefill, decode=decode or cost.speed.decode)
        told = decode or prefill
        assert told is not None
        how = "was measured" if told.method == "measured" else "follows what was measured"
        return msgspec.structs.replace(
            cost, speed=speed, assumptions=(*cost.assumptions, f"the speed {how} on this machine: {told.source}")
        )

    def _launched(self, settings: Settings, model: ModelFacts, fmt: str) -> Settings:
        """With the threads that a launch takes here under the same quota, as a trial found."""
        granted = self.machine.host.cpu.cores_granted
        found = [t for t in self.threads if t.granted == granted and t.because == "quota"]
        own = [t for t in found if (t.shape, t.format) == (shape_of(model), fmt)]
        return msgspec.structs.replace(settings, threads=own[-1].threads) if own else settings

    def _decode(
        self, key: tuple[object, ...], here: list[Measurement], alike: list[Measurement], shape: str, work: Work,
        old: Quantity | None, *, on_host: bool,
    ) -> Quantity | None:  # fmt: skip
        own = [m for m in here if m.shape == shape]
        found = self._fit(("decode", *key, shape if own else None), own or here)
        if found is None:
            return None
        amounts = _amounts(work)
        seconds = fitting.seconds(_with_unknown(found.costs, amounts, "read:"), amounts)
        if seconds <= 0:
            return None
        seconds *= _beyond(found.costs, alike)
        read = sum(work.read_bytes.values()) + work.cache_bytes
        larger = read > _MUCH_LARGER * found.most
        limit = self.machine.host.bandwidth
        if on_host and larger and limit is not None and limit.value > 0:
            seconds = max(seconds, read / float(limit.value))  # what fitted into a cache says nothing of the memory
        unseen = sum(n for k, n in amounts.items() if k.startswith("read:") and k not in found.seen) / max(read, 1.0)
        half = max(_LEAST, 1.5 * found.error) if own else max(_OTHER_MODEL, 2 * found.error)
        half = min(0.6, half + _UNSEEN * unseen)
        value = 1 / seconds
        fixed = fitting.seconds(found.costs, {"layers": work.layers})
        rate = read / (seconds - fixed) / 1e9 if seconds > fixed else 0.0
        low, high = value * (1 - half), value * (1 + half)
        if larger and old is not None:
            low = min(low, float(old.value))
        return Quantity(
            value=value,
            low=low,
            high=high,
            unit="tokens/s",
            method="fit",
            source=f"{_count(found)}: {rate:.3g} GB/s and {1000 * fixed:.2g} ms a token",
        )

    def _prefill(self, key: tuple[object, ...], here: list[Measurement], shape: str, work: Work) -> Quantity | None:
        own = [m for m in here if m.shape == shape and m.prefill is not None and m.origin != "stand-in"]
        others = [m for m in here if m.prefill is not None and m.origin != "stand-in"]
        found = self._fit(("prefill", *key, shape if own else None), own or others)
        if found is None:
            return None
        amounts = {f"weights:{k}": n for k, n in work.weights.items()}
        seconds = fitting.seconds(_with_unknown(found.costs, amounts, "weights:"), amounts)
        if seconds <= 0:
            return None
        whole = sum(amounts.values())
        unseen = sum(n for k, n in amounts.items() if k not in found.seen) / max(whole, 1.0)
        half = max(0.08, 1.5 * found.error) if own else max(0.3, 2 * found.error)
        half = min(0.7, half + _UNSEEN * unseen)
        value = 1 / seconds
        return Quantity(
            value=value,
            low=value * (1 - half),
            high=value * (1 + half),
            unit="tokens/s",
            method="fit",
            source=f"{_count(found)}: {2 * whole / seconds / 1e9:.3g} GFLOP/s",
        )

    def _fit(self, key: tuple[object, ...], among: Sequence[Measurement]) -> _Fit | None:
        if key not in self._fits:
            self._fits[key] = _fitted(among, decode=key[0] == "decode")
        return self._fits[key]


def _current(speeds: tuple[Measurement, ...], machine: Machine) -> tuple[Measurement, ...]:
    """Of each runtime the engine that was measured last, among those that are still installed as they were."""
    out: list[Measurement] = []
    for runtime in sorted({m.runtime for m in speeds}):
        there = {f"{r.provider} {r.version}" for r in machine.runtimes if r.runtime == runtime}
        own = [m for m in speeds if m.runtime == runtime and (not there or m.engine in there)]
        if own:
            latest = max(own, key=lambda m: (m.measured_at or "", m.engine)).engine
            out += [m for m in own if m.engine == latest]
    return tuple(out)


def _as_measured(same: list[Measurement], what: str, depth: int) -> Quantity | None:
    """The measured quantity nearest to the depth; what was measured on purpose comes first."""

    def far(m: Measurement) -> float:
        return abs(math.log((m.depth + 64) / (depth + 64)))

    found = [m for m in same if getattr(m, what) is not None and far(m) <= math.log(_NEAR)]
    if not found:
        return None
    best = min(found, key=lambda m: (m.origin != "bench", far(m)))
    seen: Quantity = getattr(best, what)
    by = "the receipt of advisor up" if best.origin == "up" else "advisor bench"
    threads = f"{best.threads} threads, " if best.threads is not None and "cpu" in best.devices else ""
    at = f"depth {best.depth}" if what == "decode" else f"a prompt of {best.depth} tokens"
    return msgspec.structs.replace(
        seen, method="measured", source=f"{by} on this machine: {best.engine}, {threads}{at}, runs: {best.runs}"
    )


def _beyond(costs: dict[str, float], alike: Sequence[Measurement]) -> float:
    """What the fit leaves of the very format's own measurements, stand-ins among them: seconds measured by fitted."""
    left = []
    for m in alike:
        amounts = _amounts(m.work)
        fitted = fitting.seconds(_with_unknown(costs, amounts, "read:"), amounts)
        if m.decode is not None and m.decode.value > 0 and fitted > 0:
            left.append(1 / float(m.decode.value) / fitted)
    return statistics.median(left) if left else 1.0


def _amounts(work: Work) -> dict[str, float]:
    return {"layers": float(work.layers), "cache": work.cache_bytes} | {
        f"read:{k}": n for k, n in work.read_bytes.items()
    }


def _with_unknown(costs: dict[str, float], amounts: dict[str, float], kind: str) -> dict[str, float]:
    """The costs with those of q8_0 for types that are neither usual nor measured."""
    usual = costs[f"{kind}q8_0"]
    return costs | {k: usual for k in amounts if k.startswith(kind) and k not in costs}


def _samples(among: Sequence[Measurement], *, decode: bool) -> list[Sample]:
    out = []
    for m in among:
        seen = m.decode if decode else m.prefill
        if seen is None or seen.value <= 0 or (not decode and m.depth < 128):
            continue
        amounts = _amounts(m.work) if decode else {f"weights:{k}": n for k, n in m.work.weights.items()}
        if any(n > 0 for n in amounts.values()):
            out.append(Sample(amounts, 1 / float(seen.value), _WEIGHTS[m.origin]))
    return out


def _priors(samples: Sequence[Sample], *, decode: bool) -> dict[str, Prior]:
    """Usual proportions, scaled to the samples by their median."""
    kinds = {k for s in samples for k in s.amounts}
    if decode:
        kinds |= {f"read:{t}" for t in PROPORTIONS}
        usual = {k: PROPORTIONS.get(k.removeprefix("read:"), 1.0) for k in kinds if k != "layers"}
        share = 1 - _FIXED_SHARE
    else:
        kinds |= {f"weights:{t}" for t in PROPORTIONS}
        usual = {k: _ARITHMETIC.get(k.removeprefix("weights:"), 1.0) for k in kinds}
        share = 1.0
    scale = statistics.median(share * s.seconds / max(fitting.seconds(usual, s.amounts), 1e-9) for s in samples)
    priors = {k: Prior(scale * n, 1.0 if k == "cache" else _SPREAD) for k, n in usual.items()}
    if decode:
        a_layer = statistics.median(s.seconds / max(s.amounts["layers"], 1.0) for s in samples)
        priors["layers"] = Prior(_FIXED_SHARE * a_layer, 1.0)
    return priors


def _fitted(among: Sequence[Measurement], *, decode: bool) -> _Fit | None:
    samples = _samples(among, decode=decode)
    if not samples:
        return None
    priors = _priors(samples, decode=decode)
    costs = fitting.fit(samples, priors)
    for _ in range(2):  # the proportions are what is usual, not the scale
        moved = [costs[k] / p.cost for k, p in priors.items() if k not in ("layers", "cache") and _seen(k, samples)]
        scale = statistics.median(moved) if moved else 1.0
        priors = {k: p if k == "layers" else Prior(p.cost * scale, p.spread) for k, p in priors.items()}
        costs = fitting.fit(samples, priors)
    error = fitting.left_out(samples, priors)
    spread = statistics.median(
        (float(q.high) - float(q.low)) / 2 / float(q.value)
        for m in among
        if (q := m.decode if decode else m.prefill) is not None and q.value > 0
    )
    return _Fit(
        costs=costs,
        error=max(_ONE_SAMPLE if error is None else error, spread),
        seen=frozenset(k for k in priors if _seen(k, samples)),
        samples=len(samples),
        most=max(sum(n for k, n in s.amounts.items() if k != "layers") for s in samples),
        engine=among[0].engine,
    )


def _seen(kind: str, samples: Sequence[Sample]) -> bool:
    return any(s.amounts.get(kind) for s in samples)


def _count(found: _Fit) -> str:
    many = "1 measurement" if found.samples == 1 else f"{found.samples} measurements"
    return f"fitted to {many} of advisor bench on this machine ({found.engine})"
