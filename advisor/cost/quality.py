"""What quantization costs in quality, and where a measured artifact stops being acceptable.

The prediction is a table of published losses at 8 billion weights, carried to other sizes by a weak power law: smaller
models lose more. Its range covers models that lose less for their size (older, less trained ones).
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import Final

from advisor.datafiles import profiles_dir
from advisor.errors import AdvisorError, did_you_mean
from advisor.facts.base import Shape, loads
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Quality
from advisor.facts.quantity import Quantity
from advisor.facts.results import Band
from advisor.facts.words import GROUPED_FORMAT

# A band warns above 1.25 times and fails above 3 times what a model of that size loses at most (twice the prediction).
# Sound artifacts stay below the first; a layer of zeros or a wrong scale costs several times as much.
WARN_FACTOR: Final = 1.25
FAIL_FACTOR: Final = 3.0
_WARN_FLOOR, _FAIL_FLOOR = 0.005, 0.03  # nats; below, a short text measures its own noise
# Nats. Above .3 (perplexity up by a third) text is visibly worse, whatever the format promises: a sound artifact of a
# small model in a coarse format is let through with a warning, not passed. Above 1.5 little is left of a model.
_WARN_CEILING, _FAIL_CEILING = 0.3, 1.5
_NOISE: Final = 0.02  # of the perplexity ratio and of the agreement, for texts of some thousand tokens


class Anchor(Shape, frozen=True, kw_only=True):
    """Loss at the reference size, without and with an importance matrix."""

    kld: float
    kld_imatrix: float
    source: str


class Exponent(Shape, frozen=True, kw_only=True):
    """Power of the model's size relative to the reference."""

    value: float
    low: float
    high: float
    source: str


class Spread(Shape, frozen=True, kw_only=True):
    """Factors on a prediction that enclose what is published."""

    low: float
    high: float
    source: str


class Disagreement(Shape, frozen=True, kw_only=True):
    """Share of positions whose likeliest token changes = scale * kld ** power."""

    scale: float
    power: float
    source: str


class Losses(Shape, frozen=True, kw_only=True):
    """profiles/quality/losses.json."""

    about: str
    reference_params: int
    size_exponent: Exponent
    spread: Spread
    group: dict[str, float]
    kv: dict[str, float]
    kv_source: str
    recovery_per_nat: float
    recovery_source: str
    disagreement: Disagreement
    anchors: dict[str, dict[str, Anchor]]


class Point(Shape, frozen=True, kw_only=True):
    """One published measurement."""

    model: str
    params: int
    method: str
    format: str
    imatrix: bool = False
    kld: float | None = None
    perplexity_ratio: float | None = None
    top1_agreement: float | None = None
    recovery: float | None = None
    source: str


class Evidence(Shape, frozen=True, kw_only=True):
    """profiles/quality/evidence.json."""

    about: str
    points: tuple[Point, ...]


@cache
def losses() -> Losses:
    """The table of losses.

    Raises:
        msgspec.ValidationError: the file is damaged.
        OSError: it cannot be read.
    """
    return loads(Losses, (profiles_dir("quality") / "losses.json").read_bytes())


def evidence() -> tuple[Point, ...]:
    """The published measurements that the table rests on."""
    return loads(Evidence, (profiles_dir("quality") / "evidence.json").read_bytes()).points


def _anchor(method: str, fmt: str) -> tuple[Anchor, float]:
    table = losses()
    known = table.anchors.get(method)
    if known is None:
        raise AdvisorError("bad-option", f'No quality figures for method "{method}".')
    grouped = GROUPED_FORMAT.match(fmt)
    factor = 1.0
    if fmt in ("bf16", "f16") and method != "gguf":
        known = table.anchors["none"]
    if grouped:
        found = known.get(grouped["bits"] or grouped["hbits"] or "", known.get("*"))
        group = grouped["group"] or grouped["hgroup"]
        factor = table.group.get(group, 1.0 if int(group) <= 128 else 1.2)
    else:
        found = known.get(fmt, known.get("*"))
    if found is None:
        raise AdvisorError(
            "bad-option",
            f'No quality figures for format "{fmt}" of method "{method}".{did_you_mean(fmt, list(known))}',
        )
    return found, factor


@lru_cache(maxsize=512)
def _kld(params: int, method: str, fmt: str, imatrix: bool) -> Quantity:
    table = losses()
    anchor, factor = _anchor(method, fmt)
    size = max(params, 1) / table.reference_params
    e = table.size_exponent
    ends = (size**e.low, size**e.high)
    value = factor * (anchor.kld_imatrix if imatrix else anchor.kld) * size**e.value
    base = value / size**e.value
    return Quantity(
        value=value,
        low=min(base * min(ends), value) * table.spread.low,
        high=max(value, min(base * max(ends), value * 1.5)) * table.spread.high,
        unit="nats",
        method="fit",
        source=f"{anchor.source}; size: {e.source}",
    )


def predict(model: ModelFacts, method: str, fmt: str, imatrix: bool) -> Quantity:
    """Mean KL divergence of the quantized model from its 16-bit original, in nats.

    Raises:
        AdvisorError: ``bad-option`` where there are no figures for the method or format.
    """
    return _kld(model.params, method, fmt, imatrix)


def quality(model: ModelFacts, method: str, fmt: str, imatrix: bool, kv_type: str = "f16") -> Quality:
    """All three measures of quality, the loss by a quantized cache included.

    Perplexity ratio is ``exp(kld)``: on Llama-3-8B log ratio and divergence agree within a tenth from Q4_0 to Q2_K.
    Recovery falls by .42 of the score a nat.

    Raises:
        AdvisorError: ``bad-option`` where there are no figures for the method or format.
    """
    table = losses()
    kld = predict(model, method, fmt, imatrix)
    extra = table.kv.get(kv_type, 0.0)
    source = kld.source
    if extra:
        kld = Quantity(
            value=kld.value + extra,
            low=kld.low + extra / 4,
            high=kld.high + extra * 3,
            unit="nats",
            method="fit",
            source=f"{source}; cache: {table.kv_source}",
        )
    loss = table.recovery_per_nat
    return Quality(
        kld=kld,
        perplexity_ratio=Quantity(
            value=math.exp(kld.value),
            low=math.exp(0.3 * kld.low),  # perplexity hides part of the divergence
            high=math.exp(kld.high),
            unit="ratio",
            method="fit",
            source="exp of the KL divergence; " + source,
        ),
        recovery=Quantity(
            value=max(0.0, 1 - loss * kld.value),
            low=max(0.0, 1 - 1.5 * loss * kld.high),
            high=1.0,
            unit="ratio",
            method="fit",
            source=table.recovery_source,
        ),
    )


def bands(params: int, method: str, fmt: str, *, imatrix: bool) -> dict[str, Band]:
    """Limits for a measured artifact of a model of ``params`` weights.

    Keys ``kld`` (nats), ``perplexity_ratio`` and ``top1_agreement`` (share; less is worse). The limits are upper bounds
    of the format: an artifact whose narrow rows fell back to larger types passes more easily.

    Raises:
        AdvisorError: ``bad-option`` where there are no figures for the method or format.
    """
    table = losses()
    upper = float(_kld(params, method, fmt, imatrix).value) * table.spread.high
    warn = min(max(WARN_FACTOR * upper, _WARN_FLOOR), _WARN_CEILING)
    fail = min(max(FAIL_FACTOR * upper, _FAIL_FLOOR), _FAIL_CEILING)
    source = (
        f"{WARN_FACTOR:g} and {FAIL_FACTOR:g} times the most that is lost ({upper:.3g} nats) for {fmt} at this size: "
        f"{_anchor(method, fmt)[0].source}"
    )

    def agreement(kld: float) -> float:
        d = table.disagreement
        return max(0.0, 1 - 1.5 * d.scale * float(kld**d.power) - _NOISE)

    return {
        "kld": Band(warn=warn, fail=fail, unit="nats", source=source),
        "perplexity_ratio": Band(
            warn=math.exp(warn) + _NOISE, fail=math.exp(fail) + _NOISE, unit="ratio", source=source
        ),
        "top1_agreement": Band(
            warn=agreement(warn), fail=agreement(fail), unit="ratio", source=table.disagreement.source
        ),
    }
