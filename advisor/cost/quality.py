"""What quantization costs in quality, and where a measured artifact stops being acceptable.

The prediction is a table of losses at 8 billion weights, fitted to published ones (benchmarks/fit_quality.py), carried
to other sizes by a weak power law: smaller models lose more. Its range is what models differ by: of four models that
were not among the published ones, it should hold the loss of three or more.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import Final, Literal

import msgspec

from advisor.datafiles import profiles_dir
from advisor.errors import AdvisorError, did_you_mean
from advisor.facts.base import Shape, loads
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Quality
from advisor.facts.quantity import Quantity
from advisor.facts.results import Band, Verification
from advisor.facts.words import GROUPED_FORMAT

# Of a normal variable, the deviations that hold 80 % of it.
Z: Final = 1.2816
_EARLY_VOCAB: Final = 32_768
_EARLY_PARAMS: Final = 5_000_000_000
# Between measures, models differ once more: perplexity over divergence, and scores over divergence.
PERPLEXITY_SPREAD: Final = 1.1
RECOVERY_SPREAD: Final = 1.25
_SCORE_NOISE: Final = 0.01  # of a task score
# A band warns above 1.25 times and fails above 3 times what a model of that size loses at most (the range's upper end).
# Sound artifacts stay below the first; a layer of zeros or a wrong scale costs several times as much.
WARN_FACTOR: Final = 1.25
FAIL_FACTOR: Final = 3.0
_WARN_FLOOR, _FAIL_FLOOR = 0.005, 0.03  # nats; below, a short text measures its own noise
# Nats. Above .3 (perplexity up by a third) text is visibly worse, whatever the format promises: a sound artifact of a
# small model in a coarse format is let through with a warning, not passed. Above 1.5 little is left of a model.
_WARN_CEILING, _FAIL_CEILING = 0.3, 1.5
_NOISE: Final = 0.02  # of the perplexity ratio and of the agreement, for texts of some thousand tokens
# Models that their makers published in a quantized format alone (model_type of transformers, method): those weights are
# the original, and there is none with 16 bits that anything could be lost of.
_PUBLISHED_AS: Final = frozenset(
    {
        ("gpt_oss", "mxfp4"),
        ("deepseek_v3", "fp8"),
        ("deepseek_v32", "fp8"),
        ("kimi_k2", "fp8"),
        ("minimax_m2", "fp8"),
        ("ministral3", "fp8"),
    }
)


class Anchor(Shape, frozen=True, kw_only=True):
    """Loss in nats at the reference size, without and with an importance matrix; ``deviation`` of its natural logarithm
    from model to model."""

    kld: float
    kld_imatrix: float
    deviation: float
    source: str


class Exponent(Shape, frozen=True, kw_only=True):
    """Power of the model's size relative to the reference, and how uncertain it is."""

    value: float
    deviation: float


class Disagreement(Shape, frozen=True, kw_only=True):
    """Share of positions whose likeliest token changes = scale * kld ** power."""

    scale: float
    power: float
    source: str


class Losses(Shape, frozen=True, kw_only=True):
    """profiles/quality/losses.json.

    ``early_factor``: losses of models of 2023, trained on few tokens a weight, over those of later ones.
    ``perplexity_per_nat``: logarithm of the perplexity ratio over the divergence. ``recovery_per_nat``: share of a task
    score that is lost a nat. ``group``: factors of group sizes over 128.
    """

    about: str
    reference_params: int
    size_exponent: Exponent
    early_factor: float
    fit_source: str
    group: dict[str, float]
    kv: dict[str, float]
    kv_source: str
    perplexity_per_nat: float
    recovery_per_nat: float
    disagreement: Disagreement
    anchors: dict[str, dict[str, Anchor]]


class Point(Shape, frozen=True, kw_only=True):
    """One published measurement; rows are compared within one ``protocol`` only."""

    model: str
    params: int
    method: str
    format: str
    imatrix: bool = False
    protocol: str
    kld: float | None = None
    median_kld: float | None = None
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
    fmt = fmt.partition(":")[0]  # of a mix the file type's, which is the most that it loses
    known = table.anchors.get("mxfp4" if (method, fmt) == ("gguf", "mxfp4") else method)
    if known is None:
        raise AdvisorError("bad-option", f'No quality figures for method "{method}".')
    grouped = GROUPED_FORMAT.match(fmt)
    factor = 1.0
    if fmt in ("bf16", "f16") and method != "gguf":
        known = table.anchors["none"]
    if grouped:
        found = known.get(grouped["bits"] or grouped["hbits"] or "", known.get("*"))
        group = grouped["group"] or grouped["hgroup"]
        factor = table.group.get(group, 1.0 if 0 < int(group) <= 128 else 1.2)  # 0: one scale a row
    else:
        found = known.get(fmt, known.get("*"))
    if found is None:
        raise AdvisorError(
            "bad-option",
            f'No quality figures for format "{fmt}" of method "{method}".{did_you_mean(fmt, list(known))}',
        )
    return found, factor


@lru_cache(maxsize=512)
def _kld(params: int, method: str, fmt: str, imatrix: bool, early: bool = False) -> Quantity:
    table = losses()
    anchor, factor = _anchor(method, fmt)
    if early:
        factor *= table.early_factor
    size = math.log(max(params, 1) / table.reference_params)
    e = table.size_exponent
    value = factor * (anchor.kld_imatrix if imatrix else anchor.kld) * math.exp(e.value * size)
    spread = math.exp(Z * math.hypot(anchor.deviation, e.deviation * size))
    return Quantity(
        value=value,
        low=value / spread,
        high=value * spread,
        unit="nats",
        method="fit",
        source=f"{anchor.source}; {table.fit_source}",
    )


def known(method: str, fmt: str) -> bool:
    """Whether there are figures for a method and format."""
    try:
        _anchor(method, fmt)
    except AdvisorError:
        return False
    return True


def is_early(model: ModelFacts) -> bool:
    """Whether a model looks like those of 2023 (LLaMA, Llama-2, Mistral-7B, Mixtral), which lose less: by its small
    vocabulary, unless it is so small itself that it was trained on many tokens a weight."""
    return model.vocab <= _EARLY_VOCAB and model.params >= _EARLY_PARAMS


def is_original(model: ModelFacts, method: str) -> bool:
    """Whether the weights are those that the model was published with, in a quantized format of ``method``."""
    return model.quantized_method == method and (model.model_type, method) in _PUBLISHED_AS


def keeps_experts(model: ModelFacts, method: str, fmt: str) -> bool:
    """Whether a GGUF file of ``model`` has its experts bit for bit as they were published, in MXFP4."""
    return (method, fmt) == ("gguf", "mxfp4") and is_original(model, "mxfp4")


def predict(model: ModelFacts, method: str, fmt: str, imatrix: bool, *, as_is: bool = False) -> Quantity:
    """Mean KL divergence of the quantized model from its original, in nats.

    The original has 16 bits a weight, or is what was published in a quantized format (``is_original``), of which
    serving it as it is loses no more than rounding. An MXFP4 file of weights that were published in it has their
    experts, and eight bits for the other matrices, which loses at most what a whole file of them does. Of a quantized
    file that was named the file itself is the original (``as_is``): what it lost before is lost however it is served.

    Raises:
        AdvisorError: ``bad-option`` where there are no figures for the method or format.
    """
    if as_is or is_original(model, method):
        whose = "the file as it is" if as_is else "the weights as they were published"
        return msgspec.structs.replace(
            _kld(model.params, "none", "bf16", False),
            source=f"{whose}, in {fmt}: nothing is lost but by rounding between kernels",
        )
    if keeps_experts(model, method, fmt):
        most = _kld(model.params, "gguf", "q8_0", False)
        return msgspec.structs.replace(
            most, low=0.0, source=f"experts as they were published, at most what Q8_0 loses of the rest: {most.source}"
        )
    return _kld(model.params, method, fmt, imatrix, is_early(model))


def measured(found: Verification, predicted: Quality, *, text: str = "") -> Quality:
    """``predicted`` with what a verification of that very artifact measured in its place.

    A divergence that was measured tells recovery better than the prediction did; perplexity counts only where the
    reference was measured on the same text. Ranges are the noise of the text: one over the root of its positions.

    Args:
        found: the verification that was recorded with the artifact.
        predicted: what stands where nothing was measured.
        text: what to call the text in the sources; empty: the verification's own name.
    """
    noise = 1 / math.sqrt(max(found.positions, 1))
    source = f"measured when the artifact was verified: {found.positions} positions of {text or found.text}"
    kld, ratio, recovery = predicted.kld, predicted.perplexity_ratio, predicted.recovery
    if found.kld is not None:
        kld = _measured(found.kld, "nats", found.kld * noise, source)
        recovery = _recovery(kld, source)
    if found.perplexity and found.perplexity_reference:
        value = found.perplexity / found.perplexity_reference
        ratio = _measured(value, "ratio", value * noise, source)
    return Quality(kld=kld, perplexity_ratio=ratio, recovery=recovery)


def _measured(value: float, unit: Literal["nats", "ratio"], noise: float, source: str) -> Quantity:
    return Quantity(
        value=value, low=max(0.0, value - noise), high=value + noise, unit=unit, method="measured", source=source
    )


def _recovery(kld: Quantity, source: str) -> Quantity:
    """Share of a task score that is kept, from a divergence; scores themselves are known to about a hundredth."""
    a = losses().recovery_per_nat
    return Quantity(
        value=max(0.0, 1 - a * kld.value),
        low=max(0.0, 1 - RECOVERY_SPREAD * a * kld.high - _SCORE_NOISE),
        high=min(1.0, 1 - a * kld.low / RECOVERY_SPREAD + _SCORE_NOISE),
        unit="ratio",
        method="fit",
        source=f"{a:.0%} of the score a nat ({losses().fit_source}); {source}",
    )


def quality(
    model: ModelFacts, method: str, fmt: str, imatrix: bool, kv_type: str = "f16", *, as_is: bool = False
) -> Quality:
    """All three measures of quality, the loss by a quantized cache included; ``as_is`` as in ``predict``.

    The logarithm of the perplexity ratio and the share of task scores that is lost are proportional to the divergence.

    Raises:
        AdvisorError: ``bad-option`` where there are no figures for the method or format.
    """
    table = losses()
    kld = predict(model, method, fmt, imatrix, as_is=as_is)
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
    per_nat = table.perplexity_per_nat
    return Quality(
        kld=kld,
        perplexity_ratio=Quantity(
            value=math.exp(per_nat * kld.value),
            low=math.exp(per_nat * kld.low / PERPLEXITY_SPREAD),  # perplexity hides part of the divergence
            high=math.exp(per_nat * kld.high * PERPLEXITY_SPREAD),
            unit="ratio",
            method="fit",
            source=f"exp of {per_nat:g} times the KL divergence; {source}",
        ),
        recovery=_recovery(kld, source),
    )


def _lossiest(params: int, method: str, fmt: str, imatrix: bool) -> str:
    """Of a mix (``q5_k_m:ffn_down=q3_k``) the file type that loses most: its own, or one of its tensors' types."""
    base, _, own = fmt.partition(":")
    types = [named.rpartition("=")[2] for named in own.split(",") if named]
    every = (base, *(t if known(method, t) else f"{t}_m" for t in types))
    return max(
        (f for f in every if known(method, f)), key=lambda f: _kld(params, method, f, imatrix).high, default=base
    )


def bands(params: int, method: str, fmt: str, *, imatrix: bool) -> dict[str, Band]:
    """Limits for a measured artifact of a model of ``params`` weights.

    Keys ``kld`` (nats), ``perplexity_ratio`` and ``top1_agreement`` (share; less is worse). The limits are upper bounds
    of the format: an artifact whose narrow rows fell back to larger types passes more easily. Of a mix of types those
    of the lossiest count.

    Raises:
        AdvisorError: ``bad-option`` where there are no figures for the method or format.
    """
    table = losses()
    fmt = _lossiest(params, method, fmt, imatrix)
    upper = float(_kld(params, method, fmt, imatrix).high)
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
