"""The quality gate: measured against bands, with a diagnosis. Pure; what is measured comes from ``verify``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from advisor.errors import AdvisorError
from advisor.execute.remedies import Choice, more_quality, next_choice
from advisor.execute.texts import Text
from advisor.facts.results import Band, Finding, Gate, PromptPair, Verification
from advisor.facts.words import Verdict

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
FATAL: Final = frozenset({"non-finite", "garbled-output", "memory-not-lower", "wrong-types", "zeroed-layer"})


# Sound blocks put out what the original's do within a third, of any method here; a tenth of one bit's worth is none.
_DEAD: Final = 0.02
_SCALE: Final = 2.0


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


def verification(
    measured: Measured, bands: Mapping[str, Band], *, findings: Sequence[Finding], text: Text, **more: Any
) -> Verification:
    """What was measured on ``text``, with the gate's verdict; ``more``: the other fields of a ``Verification``."""
    return Verification(
        perplexity=measured.perplexity,
        perplexity_reference=measured.perplexity_reference,
        kld=measured.kld,
        top1_agreement=measured.top1_agreement,
        positions=measured.positions,
        text=text.name,
        text_sha256=text.sha256,
        findings=tuple(findings),
        gate=judge(measured, bands, findings),
        **more,
    )


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


def find_problems(
    measured: Measured,
    prompts: Sequence[PromptPair],
    bands: Mapping[str, Band],
    *,
    fmt: str,
    imatrix: bool,
    method: str = "gguf",
    types: Finding | None = None,
    artifact_bytes: int | None = None,
    reference_bytes: int | None = None,
) -> tuple[Finding, ...]:
    """The diagnoses, worst first: the failure modes that are known after quantizing.

    Args:
        prompts: fixed prompts with both answers.
        method: decides what is advised against a loss.
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
                remedy=more_quality(fmt, imatrix, method=method),
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
                remedy=more_quality(fmt, imatrix, method=method),
                sources=(GUIDE_FAILURES,),
            )
        )
    return tuple(out)


def find_layers(
    reference: Mapping[str, float], artifact: Mapping[str, float], *, method: str, fmt: str
) -> list[Finding]:
    """Layers whose blocks (attention, feed-forward) put out nothing, or far more or less than the original's.

    Args:
        reference: the root of the mean square of what each block puts out on one text, by the block's name.
        artifact: the same of the artifact.
    """
    ratios = {n: artifact[n] / v for n, v in reference.items() if n in artifact and v > 0}
    again = Choice(method, fmt).command("MODEL")
    dead = [n for n, r in ratios.items() if r < _DEAD]
    if dead:
        return [
            Finding(
                code="zeroed-layer",
                message=f"Nothing comes out of {', '.join(dead[:3])}: weights or scales there are zero.",
                remedy=f"The file is damaged or was not written whole; make it again: {again}",
                sources=(GUIDE_FAILURES,),
            )
        ]
    # What follows a wrong layer is wrong too: the first one is named.
    odd = [n for n, r in ratios.items() if not 1 / _SCALE < r < _SCALE]
    missing = [n for n in reference if n not in artifact]
    if not odd and not missing:
        return []
    first = (odd or missing)[0]
    size = f"is {ratios[first]:.3g} times the original's" if odd else "is not finite"
    return [
        Finding(
            code="bad-scales",
            message=f"What {first} puts out {size}: scales or zero points there are wrong.",
            remedy=f"Damaged, or written for another layout than it is read in; make it again: {again}",
            sources=(GUIDE_FAILURES,),
        )
    ]


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


def gate_error(
    verification: Verification, artifact: Path, *, fmt: str, model: str, method: str = "gguf"
) -> AdvisorError:
    """``quality-gate-failed`` for a failed gate, with the diagnosis and the command that makes the next better one."""
    better = next_choice(method, fmt)
    remedies = [f"{f.code}: {f.remedy}" for f in verification.findings]
    return AdvisorError(
        "quality-gate-failed",
        f"{artifact.name} is too far from the original to be served.",
        context=(*verification.gate.because, *remedies),
        hint=better.command(model) if better else f"advisor up {model} --method none",
        data={
            "verification": verification.to_json(),
            "artifact": str(artifact),
            "next_format": better.format if better else None,
            "next_method": better.method if better else None,
        },
    )
