"""``advisor quantize`` and ``advisor verify``: one artifact made, one artifact proven."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from advisor.api import hubbing
from advisor.api.context import load_settings, resolve_model
from advisor.api.making import (
    SERVING_ENV,
    Made,
    environment,
    facts_or_fetch,
    granted_threads,
    has_imatrix,
    local_model,
    make,
    making_of,
    prove,
)
from advisor.errors import AdvisorError, word_not_found
from advisor.events import Cancel, Reporter
from advisor.facts.results import Artifact, Verification
from advisor.facts.text import shell_word
from advisor.facts.words import GGUF_FORMATS, METHODS, is_format

if TYPE_CHECKING:
    from advisor.settings import Settings


def quantize(
    model: str,
    *,
    method: str = "gguf",
    format: str = "q4_k_m",
    quantizer: str | None = None,
    imatrix: Path | None = None,
    calibration: Path | None = None,
    samples: int | None = None,
    out: Path | None = None,
    verify: bool = True,
    settings: Settings | None = None,
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
) -> Artifact:
    """Make one artifact; with ``out`` (a file or an existing folder) a copy of it goes there.

    Raises:
        AdvisorError: ``word-not-found``, ``not-available`` for what this version only plans, what the steps raise.
            A failed quality gate is in the verification, not an error: the file is what was asked for.
    """
    import time

    from advisor.cost.gguf_mix import makes_imatrix
    from advisor.execute.journal import Journal
    from advisor.execute.steps import Steps
    from advisor.execute.verify import content_sha256

    s = load_settings(settings)
    _check_names(method, format, quantizer)
    if method not in ("gguf", "none") or quantizer not in (None, "llama.cpp"):
        raise AdvisorError(
            "not-available",
            f"This version makes GGUF files only; {quantizer or method} is planned for, not made.",
            hint=f"advisor quantize {shell_word(model)} --method gguf --format q4_k_m",
        )
    if format not in GGUF_FORMATS:
        raise AdvisorError(
            "not-available",
            f"This version makes GGUF files only; {format} is planned for, not made.",
            context=[f"GGUF formats: {', '.join(GGUF_FORMATS)}"],
            hint=f"advisor quantize {shell_word(model)} --method gguf --format q4_k_m",
        )
    started = time.monotonic()
    steps = Steps(reporter=reporter, cancel=cancel, journal=Journal(s.paths.logs / "journal.jsonl"))
    facts = facts_or_fetch(model, s, steps)
    threads = granted_threads(s)
    made = make(
        s,
        steps,
        facts,
        fmt=format,
        imatrix=imatrix is not None or calibration is not None or makes_imatrix(format),
        calibration=calibration,
        samples=samples,
        imatrix_file=imatrix,
        threads=threads,
    )
    verification = None
    if verify:
        env = environment(s, steps, SERVING_ENV)
        verification = prove(s, steps, facts, made, env, fmt=format, threads=threads)
    path = _copy_out(made.artifact, out) if out is not None else made.artifact
    return Artifact(
        path=str(path),
        method="gguf",
        format=format,
        bytes=path.stat().st_size,
        sha256=content_sha256(made.artifact),
        from_=facts.ref,
        quantizer=made.quantizer,
        seconds=round(time.monotonic() - started, 3),
        verification=verification,
        imatrix=made.imatrix,
        fallbacks=made.fallbacks,
        types=dict(verification.types) if verification else {},
        notes=made.notes,
    )


def _check_names(method: str, format: str, quantizer: str | None) -> None:
    from advisor.backends.registry import quantizers

    if method not in METHODS:
        raise word_not_found("method", method, METHODS)
    if not is_format(format):
        raise word_not_found("format", format, GGUF_FORMATS)
    if quantizer is not None and quantizer not in (known := quantizers()):
        raise word_not_found("quantizer", quantizer, sorted(q for q in known if q != "none"))


def _copy_out(artifact: Path, out: Path) -> Path:
    import shutil

    from advisor.execute.disk import disk_errors, make_folders

    target = out / artifact.name if out.is_dir() else out
    aside = target.with_name(f".{target.name}.part")
    make_folders(target.parent)
    with disk_errors(target):
        try:
            shutil.copyfile(artifact, aside)
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)
    return target


def verify(
    artifact: str,
    *,
    against: str | None = None,
    text: Path | str | None = None,
    task: Path | None = None,
    chunks: int | None = None,
    settings: Settings | None = None,
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
) -> Verification:
    """Prove a GGUF file, against the model it was made of where that is named; else only by itself.

    Args:
        task: JSON lines ``{"prompt", "expect"}``; both models answer them, and right answers are counted.

    Raises:
        AdvisorError: ``file-not-found``, ``bad-option``, ``artifact-invalid``, what making the 16-bit reference raises.
    """
    from advisor.execute.chain import sixteen_bit
    from advisor.execute.journal import Journal
    from advisor.execute.steps import Steps
    from advisor.planner.candidate import own_format

    s = load_settings(settings)
    path = Path(artifact)
    if not path.is_file():
        raise AdvisorError(
            "file-not-found",
            f"There is no file {artifact}.",
            hint=f"advisor quantize {shell_word(against)}" if against else "advisor quantize --help",
        )
    facts = resolve_model(str(path.resolve()), s)
    steps = Steps(reporter=reporter, cancel=cancel, journal=Journal(s.paths.logs / "journal.jsonl"))
    measured_on = hubbing.text(text, s, steps)
    threads = granted_threads(s)
    reference: Path | None = None
    if against is not None:
        original = local_model(s, steps, facts_or_fetch(against, s, steps))
        making = making_of(s, steps, threads)
        reference = sixteen_bit(making, original, allow_requantize=True, steps=steps).made.path
    fmt = own_format(facts)
    if fmt is None:
        raise AdvisorError(
            "bad-option",
            f"The types in {path.name} are of no format that can be judged: {', '.join(sorted(facts.source_types))}.",
        )
    env = environment(s, steps, SERVING_ENV)
    made = Made(path.resolve(), reference, has_imatrix(path), {}, None, ())
    return prove(s, steps, facts, made, env, fmt=fmt, text=measured_on, task=task, chunks=chunks, threads=threads)
