"""``advisor quantize`` and ``advisor verify``: one artifact made, one artifact proven."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Unpack

import msgspec

from advisor.api import hubbing, making_failed, proving, qualities
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
    weights_bytes,
)
from advisor.api.options import MAKING_KEYS, MakingOptions, checked, request_of
from advisor.errors import AdvisorError, word_not_found
from advisor.events import Cancel, Reporter
from advisor.facts.results import Artifact, Verification
from advisor.facts.text import shell_word
from advisor.facts.words import FORMAT_WORDS, GGUF_FORMATS, METHODS, is_format, mixed

if TYPE_CHECKING:
    from advisor.execute.steps import Steps
    from advisor.facts.model import ModelFacts
    from advisor.facts.plan import PlanRequest
    from advisor.settings import Settings


def quantize(
    model: str,
    *,
    method: str | None = None,
    format: str | None = None,
    quantizer: str | None = None,
    tensor_types: tuple[str, ...] = (),
    imatrix: Path | None = None,
    out: Path | None = None,
    verify: bool = True,
    adapter_only: bool = False,
    text: Path | str | None = None,
    settings: Settings | None = None,
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
    **options: Unpack[MakingOptions],
) -> Artifact:
    """Make one artifact; with ``out`` (a file or an existing folder) a copy of it goes there.

    Without ``method`` and ``format`` a GGUF file of Q4_K_M; with a method alone its usual format. ``tensor_types``: of
    a GGUF file, types of named tensors (``ffn_down=q6_k``, as ``llama-quantize`` has them). ``options``: the recipe's
    values, the file to calibrate on and the adapter to merge first, see ``MakingOptions``. ``text``: what is
    measured on. ``adapter_only``: the adapter alone, as a GGUF file that llama.cpp loads beside the unchanged model.

    Raises:
        AdvisorError: ``word-not-found``, ``bad-option``, ``contradictory-options``, ``illegal-recipe``,
            ``not-available`` for what this version only plans, what the steps raise. A failed quality gate is in the
            verification, not an error: the artifact is what was asked for.
    """
    import time

    from advisor.cost import tensor_types as named
    from advisor.execute.journal import Journal
    from advisor.execute.steps import Steps
    from advisor.model.tensors import tensors

    checked("quantize", options, MAKING_KEYS)
    s = load_settings(settings)
    _check_names(method, format, quantizer)
    own = named.read(tensor_types, model)
    started = time.monotonic()
    steps = Steps(reporter=reporter, cancel=cancel, journal=Journal(s.paths.logs / "journal.jsonl"))
    facts = facts_or_fetch(model, s, steps)
    request = request_of(options, top=1)
    if adapter_only:
        return _adapter(s, steps, facts, request, out, started)
    chosen = _choice(facts, method, format, quantizer, request)
    named.check(facts, tensors(facts), chosen.method, chosen.format, own)
    if request.adapter is not None:
        from advisor.api import adapters

        facts = adapters.merged(s, steps, facts, Path(request.adapter))
    measured_on = hubbing.text(text, s, steps)
    with making_failed.watched(s, facts, chosen, request):
        if chosen.method == "gguf":
            whole = mixed(chosen.format, own)
            made, verification = _gguf(s, steps, facts, whole, request, imatrix, measured_on, verify=verify)
        else:
            made, verification = _checkpoint(s, steps, facts, chosen, request, measured_on, verify=verify)
    path = _copy_out(made.artifact, out) if out is not None else made.artifact
    folder = made.artifact.is_dir()
    return Artifact(
        path=str(path),
        method=chosen.method,  # type: ignore[arg-type]
        format=chosen.format,
        bytes=weights_bytes(path) if folder else path.stat().st_size,
        sha256=_sha256(made.artifact),
        from_=facts.ref,
        quantizer=made.quantizer,
        seconds=round(time.monotonic() - started, 3),
        verification=verification,
        imatrix=made.imatrix,
        fallbacks=made.fallbacks,
        types=dict(verification.types) if verification else {},
        notes=made.notes,
        recipe=made.recipe,
        tensor_types=own,
    )


def _adapter(
    s: Settings, steps: Steps, facts: ModelFacts, request: PlanRequest, out: Path | None, started: float
) -> Artifact:
    """The adapter that is asked for as a GGUF file."""
    import time

    from advisor.api import adapters

    if request.adapter is None:
        raise AdvisorError(
            "contradictory-options",
            "--adapter-only says what to do with an adapter, and none is named.",
            hint=f"advisor quantize {shell_word(facts.ref)} --adapter FOLDER --adapter-only",
        )
    made = adapters.as_gguf(s, steps, facts, Path(request.adapter))
    path = _copy_out(made, out) if out is not None else made
    return Artifact(
        path=str(path),
        method="gguf",
        format="f16",
        bytes=path.stat().st_size,
        sha256=_sha256(made),
        from_=facts.ref,
        quantizer="llama.cpp",
        seconds=round(time.monotonic() - started, 3),
        notes=(f"A LoRA adapter, for llama-server --lora {path.name} beside {facts.name}.",),
    )


class _Choice(NamedTuple):
    method: str
    format: str
    quantizer: str | None


def _choice(
    model: ModelFacts, method: str | None, fmt: str | None, quantizer: str | None, request: PlanRequest
) -> _Choice:
    """Method, format and library, each from the others where it is not named.

    Raises:
        AdvisorError: ``contradictory-options``, ``illegal-recipe``, ``not-available``.
    """
    from advisor.backends.registry import quantizers
    from advisor.model.tensors import tensors
    from advisor.planner import candidate
    from advisor.planner.request import check_words

    able = {name: q.capabilities() for name, q in quantizers().items()}
    if method is None and quantizer is not None and quantizer != "llama.cpp":
        made = able[quantizer]
        method = next((m for m in made.methods if fmt is None or made.makes(m, fmt)), None)
    if method is None and fmt is not None:
        method = candidate.method_of(fmt, model)
    method = method or "gguf"
    if method == "none" and (fmt in GGUF_FORMATS or fmt is None):
        method, fmt = "gguf", fmt or "f16"
    asked = msgspec.structs.replace(request, method=method, format=fmt)
    check_words(asked)
    if fmt is None:
        found = candidate.formats(method, model, asked, tensors(model))
        # The first that divides the rows; the usual one where none does, so that it can be said what is wrong with it.
        fits = [f for f in found if candidate.group_divides(f, tensors(model)) is not False]
        fmt = next(iter((*fits, *found)), None)
        if method == "gguf" and not _narrows(request):
            fmt = "mxfp4" if candidate.original_method(model) == "mxfp4" else "q4_k_m"
    if fmt is None:
        raise AdvisorError(
            "illegal-recipe",
            f"{method} has no format of {request.recipe.bits} bits"
            + (f" in groups of {request.recipe.group_size}." if request.recipe.group_size else "."),
            hint=f"advisor quantize {shell_word(model.ref)} --method {method}",
        )
    if method != "gguf":
        from advisor.backends import recipes

        try:
            recipes.recipe(method, fmt, quantizer, request.recipe, {}, tensors=tensors(model))
        except AdvisorError as e:
            e.hint = e.hint.replace("MODEL", shell_word(model.ref)) if e.hint is not None else None
            raise
    if quantizer is None:
        quantizer = candidate.pick_quantizer(method, fmt, "quantize", None, able)
    elif not able[quantizer].makes(method, fmt):
        raise AdvisorError(
            "contradictory-options",
            f"{quantizer} does not make {fmt} of {method}.",
            hint=f"advisor quantize {shell_word(model.ref)} --method {method} --format {fmt}",
        )
    if quantizer is None or not able[quantizer].executable:
        raise AdvisorError(
            "not-available",
            f"This version makes no {fmt} of {method}; it is planned with, not made.",
            hint=f"advisor quantize {shell_word(model.ref)} --method gguf --format q4_k_m",
        )
    return _Choice(method, fmt, quantizer)


def _narrows(request: PlanRequest) -> bool:
    return request.recipe.bits is not None or request.recipe.group_size is not None


def _gguf(
    s: Settings,
    steps: Steps,
    facts: ModelFacts,
    fmt: str,
    request: PlanRequest,
    imatrix: Path | None,
    text: Path | None,
    *,
    verify: bool,
) -> tuple[Made, Verification | None]:
    from advisor.cost.tensor_types import wants_imatrix

    threads = granted_threads(s)
    made = make(
        s,
        steps,
        facts,
        fmt=fmt,
        imatrix=imatrix is not None or request.calibration is not None or wants_imatrix(fmt),
        calibration=hubbing.text(request.calibration, s, steps, use="calibration"),
        samples=request.recipe.samples,
        imatrix_file=imatrix,
        threads=threads,
    )
    if not verify:
        return made, None
    env = environment(s, steps, SERVING_ENV)
    found = proving.prove(s, steps, facts, made, env, fmt=fmt, text=text, threads=threads)
    qualities.keep(s, facts, method="gguf", fmt=fmt, imatrix=made.imatrix, verification=found)
    return made, found


def _checkpoint(
    s: Settings,
    steps: Steps,
    facts: ModelFacts,
    chosen: _Choice,
    request: PlanRequest,
    text: Path | None,
    *,
    verify: bool,
) -> tuple[Made, Verification | None]:
    from advisor.api import checkpoints

    runtime = checkpoints.runtime_for(chosen.method, chosen.format)
    recipe = checkpoints.recipe_of(
        facts,
        method=chosen.method,
        fmt=chosen.format,
        quantizer=chosen.quantizer,
        runtime=runtime,
        parameters={},
        options=request.recipe,
    )
    threads = granted_threads(s)
    calibration = hubbing.text(request.calibration, s, steps, use="calibration")
    made = checkpoints.make(s, steps, facts, recipe, calibration=calibration, held_out=text, threads=threads)
    if not verify:
        return made, None
    found = checkpoints.prove(s, steps, facts, made, runtime=runtime, text=text, threads=threads)
    qualities.keep(s, facts, method=chosen.method, fmt=chosen.format, imatrix=False, verification=found)
    return made, found


def _sha256(artifact: Path) -> str:
    """Of the file; of a folder the hash over its files' names and hashes."""
    from advisor.execute.make import identity
    from advisor.execute.verify import content_sha256

    return content_sha256(artifact) if artifact.is_file() else identity(artifact).removeprefix("sha256:")


def _check_names(method: str | None, format: str | None, quantizer: str | None) -> None:
    from advisor.backends.registry import quantizers

    if method is not None and method not in METHODS:
        raise word_not_found("method", method, METHODS)
    if format is not None and not is_format(format):
        raise word_not_found("format", format, FORMAT_WORDS)
    if quantizer is not None and quantizer not in (known := quantizers()):
        raise word_not_found("quantizer", quantizer, sorted(q for q in known if q != "none"))


def _copy_out(artifact: Path, out: Path) -> Path:
    """Copy a file or a folder to ``out``, or into it where it is a folder; it appears whole, under its name, or not.

    Raises:
        AdvisorError: ``contradictory-options`` where a folder with that name is there; ``disk-full``, ``not-writable``.
    """
    import shutil

    from advisor.execute.disk import disk_errors, make_folders, remove_tree

    target = out / artifact.name if out.is_dir() else out
    aside = target.with_name(f".{target.name}.part")
    make_folders(target.parent)
    if artifact.is_dir() and target.exists():
        raise AdvisorError(
            "contradictory-options", f"{target} is there already; a folder is not written over.", hint="advisor paths"
        )
    with disk_errors(target):
        try:
            if artifact.is_dir():
                remove_tree(aside)
                shutil.copytree(artifact, aside)
            else:
                shutil.copyfile(artifact, aside)
            aside.replace(target)
        finally:
            if artifact.is_dir():
                remove_tree(aside)
            else:
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
    """Prove a GGUF file or a checkpoint folder, against the model it was made of where that is named; else by itself.

    Args:
        task: JSON lines ``{"prompt", "expect"}`` or ``{"prompt", "choices", "answer"}``; both models answer them, and
            right answers are counted.

    Raises:
        AdvisorError: ``file-not-found``, ``bad-option``, ``artifact-invalid``, what making the 16-bit reference raises.
    """
    from advisor.execute.chain import sixteen_bit
    from advisor.execute.journal import Journal
    from advisor.execute.steps import Steps
    from advisor.planner.candidate import own_format

    s = load_settings(settings)
    path = Path(artifact)
    if not path.exists():
        raise AdvisorError(
            "file-not-found",
            f"There is no file or folder {artifact}.",
            hint=f"advisor quantize {shell_word(against)}" if against else "advisor quantize --help",
        )
    facts = resolve_model(str(path.resolve()), s)
    steps = Steps(reporter=reporter, cancel=cancel, journal=Journal(s.paths.logs / "journal.jsonl"))
    measured_on = hubbing.text(text, s, steps)
    threads = granted_threads(s)
    with making_failed.proving(artifact, against):
        reference: Path | None = None
        if facts.weights_format == "safetensors":
            from advisor.api import checkpoints

            return checkpoints.verify(
                s, steps, facts, path.resolve(), against=against, text=measured_on, task=task, chunks=chunks
            )
        named = facts_or_fetch(against, s, steps) if against is not None else None
        if named is not None:
            original = local_model(s, steps, named)
            making = making_of(s, steps, threads)
            reference = sixteen_bit(making, original, allow_requantize=True, steps=steps).made.path
        fmt = own_format(facts)
        if fmt is None:
            types = ", ".join(sorted(facts.source_types))
            raise AdvisorError("bad-option", f"The types in {path.name} are of no format that can be judged: {types}.")
        env = environment(s, steps, SERVING_ENV)
        made = Made(path.resolve(), reference, has_imatrix(path), {}, None, ())
        found = proving.prove(
            s, steps, facts, made, env, fmt=fmt, text=measured_on, task=task, chunks=chunks, threads=threads
        )
        qualities.keep_sound(s, named, method="gguf", fmt=fmt, imatrix=made.imatrix, verification=found)
        return found
