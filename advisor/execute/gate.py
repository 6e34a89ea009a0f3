"""The quality gate: measured against bands, with a diagnosis. Pure; what is measured comes from ``verify``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from advisor.errors import AdvisorError
from advisor.facts.results import Band, Finding, Gate, PromptPair, Verification
from advisor.facts.words import GGUF_FORMATS, Verdict

GUIDE_FAILURES: Final = "guide 002, section 27.8.3"
GUIDE_CHECKS: Final = "guide 002, section 27.8.2"
# Of measures that are not in this set, less is better.
_MORE_IS_BETTER: Final = frozenset({"top1_agreement", "recovery"})
_NAMES: Final = {
    "kld": "mean KL divergence",
    "perplexity_ratio": "perplexity ratio",
    "top1_agreement": "agreement of the likeliest token",
    "perplexity": "perplexity",
}
_ORDER: Final[tuple[Verdict, ...]] = ("pass", "warn", "fail")
# Findings of these codes fail the gate whatever the numbers say.
FATAL: Final = frozenset({"non-finite", "garbled-output", "memory-not-lower", "wrong-types"})


class Measured(NamedTuple):
    """Both models on one text; ``None``: not measured. ``non_finite`` counts logits that are NaN or infinite."""

    perplexity: float | None
    perplexity_reference: float | None
    kld: float | None
    top1_agreement: float | None
    positions: int
    non_finite: int

    def values(self) -> dict[str, float | None]:
        """By the names that bands have."""
        ratio = None
        if self.perplexity is not None and self.perplexity_reference:
            ratio = self.perplexity / self.perplexity_reference
        return {
            "kld": self.kld,
            "perplexity_ratio": ratio,
            "top1_agreement": self.top1_agreement,
            "perplexity": self.perplexity,
        }


def level(name: str, value: float, band: Band) -> Verdict:
    """Where ``value`` lies in its band. NaN fails."""
    sign = -1.0 if name in _MORE_IS_BETTER else 1.0
    if sign * value <= sign * band.warn:
        return "pass"
    return "warn" if sign * value <= sign * band.fail else "fail"


def bands_without_original(vocabulary: int | None) -> dict[str, Band]:
    """What a file without an original is held against: it must know more than nothing.

    A model that knows nothing gives every token the same chance; its perplexity is the size of the vocabulary, and that
    fails. Half of that in nats (the square root) is the limit of a warning: working models of any size stay far below
    on prose, damaged ones do not.

    Args:
        vocabulary: tokens; ``None`` where the file does not say.
    """
    if vocabulary is None or vocabulary < 4:
        return {}
    source = f"a model that knows nothing has the perplexity of its vocabulary, {vocabulary:,} tokens"
    return {"perplexity": Band(warn=math.sqrt(vocabulary), fail=float(vocabulary), unit="ratio", source=source)}


def judge(measured: Measured, bands: Mapping[str, Band], findings: Sequence[Finding]) -> Gate:
    """The verdict: the worst of all measures, and ``fail`` for a fatal finding.

    A measure that has a band but could not be had is worth a warning, so a gate never passes on nothing.
    """
    verdict: Verdict = "pass"
    because: list[str] = []

    def add(to: Verdict, why: str) -> None:
        nonlocal verdict
        verdict = max(verdict, to, key=_ORDER.index)
        because.append(why)

    for finding in findings:
        fatal = finding.code in FATAL
        add("fail" if fatal else "warn", f"{finding.code}: {finding.message}")
    values = measured.values()
    for name, band in bands.items():
        value = values.get(name)
        words = _NAMES.get(name, name)
        if value is None:
            if measured.non_finite == 0:
                add("warn", f"The {words} was not measured.")
            continue
        where = level(name, value, band)
        limit = "at least" if name in _MORE_IS_BETTER else "at most"
        add(
            where,
            f"{words[0].upper()}{words[1:]} {value:.4g}: {limit} {band.warn:.4g} passes, {limit} {band.fail:.4g} is "
            f"let through with a warning.",
        )
    if not bands and not findings:
        add("warn", "There are no limits to hold it against: no original, or no figures for this format.")
    return Gate(verdict=verdict, bands=dict(bands), because=tuple(because))


def next_format(fmt: str) -> str | None:
    """The next GGUF format that is nearer to the original, or ``None`` where there is none.

    The rungs are the guide's own: mixed K types before the older uniform ones (002 section 27.5.2).
    """
    order = ("q3_k_m", "q4_k_m", "q5_k_m", "q6_k", "q8_0", "f16")
    if fmt not in GGUF_FORMATS or fmt in ("f16", "bf16"):
        return None
    better = [f for f in order if GGUF_FORMATS.index(f) > GGUF_FORMATS.index(fmt)]
    return better[0] if better else None


def find_problems(
    measured: Measured,
    prompts: Sequence[PromptPair],
    bands: Mapping[str, Band],
    *,
    fmt: str,
    imatrix: bool,
    types: Finding | None = None,
    artifact_bytes: int | None = None,
    reference_bytes: int | None = None,
) -> tuple[Finding, ...]:
    """The diagnoses, worst first: the failure modes that are known after quantizing.

    Args:
        prompts: fixed prompts with both answers.
        types: what the comparison of tensor types found, see ``verify.check_types``.
        artifact_bytes: weights of the artifact.
        reference_bytes: weights of the unquantized model; ``None`` if there is none to compare with.
    """
    out: list[Finding] = []
    if measured.non_finite:
        out.append(
            Finding(
                code="non-finite",
                message=f"{measured.non_finite:,} of the model's outputs are NaN or infinite.",
                remedy="Make the artifact anew; if it happens again use bf16 or q8_0: weights overflow in this format.",
                sources=(GUIDE_CHECKS,),
            )
        )
    garbled = [p for p in prompts if not p.coherent]
    if prompts and 2 * len(garbled) >= len(prompts):
        out.append(
            Finding(
                code="garbled-output",
                message=f"{len(garbled)} of {len(prompts)} prompts get no coherent answer; the original gives one.",
                remedy=more_quality(fmt, imatrix),
                sources=(GUIDE_FAILURES,),
            )
        )
    if types is not None:
        out.append(types)
    if (
        artifact_bytes is not None
        and reference_bytes is not None
        and fmt not in ("f16", "bf16")
        and artifact_bytes > 0.97 * reference_bytes
    ):
        out.append(
            Finding(
                code="memory-not-lower",
                message=f"The artifact has {artifact_bytes:,} bytes of weights, the original {reference_bytes:,}.",
                remedy="The weights were kept or loaded in another type than asked for, or the result was not saved: "
                "look at the types in the file, then quantize again from the original.",
                sources=(GUIDE_FAILURES,),
            )
        )
    failing = [
        n for n, v in measured.values().items() if v is not None and n in bands and level(n, v, bands[n]) == "fail"
    ]
    if failing and not any(f.code == "garbled-output" for f in out):
        out.append(
            Finding(
                code="quality-loss",
                message=f"The artifact is too far from the original: {', '.join(_NAMES.get(n, n) for n in failing)}.",
                remedy=more_quality(fmt, imatrix),
                sources=(GUIDE_FAILURES,),
            )
        )
    return tuple(out)


def more_quality(fmt: str, imatrix: bool) -> str:
    """What to do against too much loss: more bits, or a broader calibration."""
    better = next_format(fmt)
    parts = [f"use more bits: --format {better}"] if better else ["use the unquantized model: --method none"]
    if imatrix:
        parts.append("or calibrate on a broader text, nearer to the use: --calibration FILE")
    elif fmt in GGUF_FORMATS and fmt not in ("q8_0", "q6_k", "f16", "bf16"):
        parts.append("or measure an importance matrix on a broad text first")
    return ("; ".join(parts) + ".").capitalize()


def no_speed_up(tokens_per_s: float, unquantized_tokens_per_s: float, *, runtime: str) -> Finding | None:
    """A finding if the artifact does not decode faster than the original on the same machine, both measured."""
    if tokens_per_s > 1.03 * unquantized_tokens_per_s:
        return None
    return Finding(
        code="no-speed-up",
        message=f"It decodes {tokens_per_s:.1f} tokens/s; the unquantized model {unquantized_tokens_per_s:.1f}.",
        remedy=f"This hardware has no fast kernels for the format, or {runtime} uses another backend than meant: "
        "look at the backend in its log, or take a format that the hardware supports.",
        sources=(GUIDE_FAILURES,),
    )


def gate_error(verification: Verification, artifact: Path, *, fmt: str, model: str) -> AdvisorError:
    """``quality-gate-failed`` for a failed gate, with the diagnosis and the command that makes the next better one."""
    better = next_format(fmt)
    hint = f"advisor up {model} --format {better}" if better else f"advisor up {model} --method none"
    remedies = [f"{f.code}: {f.remedy}" for f in verification.findings]
    return AdvisorError(
        "quality-gate-failed",
        f"{artifact.name} is too far from the original to be served.",
        context=(*verification.gate.because, *remedies),
        hint=hint,
        data={"verification": verification.to_json(), "artifact": str(artifact), "next_format": better},
    )
