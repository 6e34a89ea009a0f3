"""Making and proving checkpoints: AWQ, GPTQ, W8A8, FP8, NF4 and the others, from 16-bit weights to what is served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from advisor.api import hubbing, making, making_failed, proving, qualities, variants
from advisor.api.making import Made
from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts
from advisor.facts.recipe import Recipe, RecipeOptions
from advisor.facts.results import Verification
from advisor.facts.text import shell_word

if TYPE_CHECKING:
    from advisor.execute.envs import Env
    from advisor.execute.steps import Steps
    from advisor.facts.plan import Plan
    from advisor.settings import Settings

Parameters = Mapping[str, str | bool | int | float]


class Original(NamedTuple):
    """The 16-bit checkpoint: its folder, its identity, and what a person should know of it."""

    folder: Path
    identity: str
    notes: tuple[str, ...]


def recipe_of(
    model: ModelFacts,
    *,
    method: str,
    fmt: str,
    quantizer: str | None,
    runtime: str | None,
    parameters: Parameters,
    options: RecipeOptions | None = None,
    at_load: bool = False,
) -> Recipe:
    """The recipe of a plan or of ``advisor quantize``, checked against method, library, model and runtime.

    Raises:
        AdvisorError: ``illegal-recipe`` with the nearest legal choice; ``backend-not-found``.
    """
    import msgspec

    from advisor.backends import recipes
    from advisor.model.tensors import tensors

    known = tensors(model)
    made = recipes.recipe(
        method, fmt, quantizer, options or RecipeOptions(), parameters, tensors=known, runtime=runtime
    )
    made = msgspec.structs.replace(made, at_load=at_load, samples=0 if at_load else made.samples)
    recipes.check(made, known, runtime)
    return made


def original(settings: Settings, steps: Steps, model: ModelFacts) -> Original:
    """The 16-bit checkpoint of a local model: its own folder, or restored from a GGUF file as a step.

    Raises:
        AdvisorError: ``contradictory-options`` for weights that another method has quantized already; as the step.
    """
    from advisor.execute import make as steps_of
    from advisor.execute.gguf_files import FLOATS
    from advisor.execute.steps import Outcome, Step

    source = making.local_model(settings, steps, model)
    assert source.path is not None
    path = Path(source.path)
    if source.weights_format != "gguf":
        packed_as = next((n for n in source.notes if n.startswith("already quantized")), None)
        if packed_as is not None:
            raise AdvisorError(
                "contradictory-options",
                f"{model.name} is {packed_as}; quantizing it again adds both errors.",
                hint=f"advisor recommend {shell_word(model.ref)}",
            )
        return Original(path, steps_of.identity(path), ())
    maker = making.making_of(settings, steps, making.granted_threads(settings))

    def run() -> Outcome[steps_of.Made]:
        made = steps_of.restore_checkpoint(maker, path, dtype="bfloat16")
        return Outcome(made, made.reused, "16-bit checkpoint")

    made = steps.do(Step("restore", run))
    packed = sorted(set(source.source_types) - FLOATS)
    notes: tuple[str, ...] = ()
    if packed:
        notes = (
            f"The source was quantized already ({', '.join(packed)}); it was restored to a 16-bit checkpoint, which is "
            "the original here: what the source had lost before stays lost.",
        )
    return Original(made.path, made.key, notes)


def make(
    settings: Settings,
    steps: Steps,
    model: ModelFacts,
    recipe: Recipe,
    *,
    calibration: Path | None = None,
    held_out: Path | None = None,
    threads: int | None = None,
    devices: Sequence[str] = (),
) -> Made:
    """Make the checkpoint that ``recipe`` says, with everything that leads there as steps.

    ``devices``: of the plan; one of them does the work where the library can use it.

    Raises:
        AdvisorError: as ``original``; ``bad-option`` for an unusable text; ``quantizer-failed``, ``artifact-invalid``,
            ``out-of-memory``, ``disk-full``, ``env-failed``.
    """
    from advisor.backends.registry import quantizers
    from advisor.execute import texts
    from advisor.execute.checkpoint import quantize_checkpoint
    from advisor.execute.steps import Outcome, Step

    base = original(settings, steps, model)
    if recipe.method == "none" or recipe.at_load:
        return Made(base.folder, base.folder, False, {}, None, base.notes, recipe)
    prepared = None
    if recipe.samples:
        from advisor.execute.calibration import prepare

        prepared = prepare(
            calibration,
            settings.paths.logs / "calibration",
            method=recipe.method,
            samples=recipe.samples,
            sequence_length=recipe.sequence_length,
            held_out=texts.verification_text(held_out),
        )
    caps = quantizers()[recipe.quantizer].capabilities()
    env = variants.environment_of(settings, steps, caps.env or recipe.quantizer)
    maker = making.maker(settings, steps, env, threads, variables=variants.selection_of(settings, devices[:1]))

    def run() -> Outcome[Made]:
        made = quantize_checkpoint(
            maker,
            base.folder,
            recipe,
            name=model.name.rsplit("/", 1)[-1],
            calibration=prepared.path if prepared is not None else None,
            identity_of=base.identity,
        )
        notes = (*base.notes, *(prepared.notes if prepared else ()), *made.manifest.get("notes", ()))
        told = f"{making.weights_bytes(made.path):,} bytes of weights"
        if prepared is not None:
            told += f", {made.manifest.get('samples', prepared.pieces)} samples of {prepared.name}"
        return Outcome(Made(made.path, base.folder, False, {}, recipe.quantizer, notes, recipe), made.reused, told)

    return steps.do(Step("quantize", run))


def prove(
    settings: Settings,
    steps: Steps,
    model: ModelFacts,
    made: Made,
    *,
    runtime: str,
    text: Path | None = None,
    task: Path | None = None,
    chunks: int | None = None,
    context: int | None = None,
    threads: int | None = None,
    devices: Sequence[str] = (),
) -> Verification:
    """Hold the checkpoint against the 16-bit original through the runtime that serves it, as a step.

    ``devices``: those it will be served on; ``("host",)``: the CPU, whatever devices there are.

    Raises:
        AdvisorError: ``artifact-invalid``, ``bad-option`` (an unusable text), ``out-of-memory``.
    """
    from advisor.backends.registry import runtimes
    from advisor.execute import texts
    from advisor.execute.steps import Outcome, Step
    from advisor.execute.store import Store
    from advisor.execute.verify import CHUNKS, CONTEXT
    from advisor.execute.verify_checkpoint import verify_checkpoint

    recipe = made.recipe
    assert recipe is not None
    name = runtimes()[runtime].capabilities().env or runtime
    variant = variants.variant_of(settings, name, on_cpu=tuple(devices) == ("host",))
    env = making.environment(settings, steps, name, variant=variant)
    seen = variants.selection_of(settings, devices[:1])
    store = Store(settings.paths.store, reporter=steps.reporter)

    def run() -> Outcome[Verification]:
        with proving.withdrawn_if_broken(store, made):
            found = verify_checkpoint(
                made.artifact,
                made.reference,
                env=env,
                runtime=runtime,  # type: ignore[arg-type]
                recipe=recipe,
                model=model,
                method=recipe.method,
                fmt=recipe.format,
                log=settings.paths.logs / "steps" / "verify.log",
                store=store,
                text=texts.verification_text(text),
                tasks=task,
                chunks=chunks or CHUNKS,
                context=context or CONTEXT,
                threads=threads,
                variables=seen,
                device="cpu" if variant in (None, "cpu") else "cuda",  # torch's name of ROCm's devices, too
                reporter=steps.reporter,
                cancel=steps.cancel,
            )
        return Outcome(found, detail=proving.told(found))

    return steps.do(Step("verify", run))


def make_and_verify(
    settings: Settings, steps: Steps, model: ModelFacts, *, plan: Plan, text: Path | None, following: Plan | None
) -> tuple[Made, Verification | None, Env]:
    """What ``up`` does between deciding and launching, for a plan of checkpoints.

    Raises:
        AdvisorError: ``quality-gate-failed`` with the diagnosis; what the steps raise.
    """
    from advisor.backends.registry import runtimes
    from advisor.execute import gate
    from advisor.planner import asked

    threads = plan.settings.threads
    if plan.source == "prequantized":
        made = ready(settings, steps, model, plan)
    else:
        recipe = recipe_of(
            model,
            method=plan.method,
            fmt=plan.format,
            quantizer=plan.quantizer,
            runtime=plan.runtime,
            parameters=plan.parameters,
            at_load=plan.source == "load-time",
        )
        calibration = hubbing.text(asked.calibration(plan.parameters), settings, steps, use="calibration")
        made = make(
            settings,
            steps,
            model,
            recipe,
            calibration=calibration,
            held_out=text,
            threads=threads,
            devices=plan.devices,
        )
    made, pieces = making_failed.proof(made, plan)
    verification = prove(
        settings, steps, model, made, runtime=plan.runtime, text=text, threads=threads, devices=plan.devices, **pieces
    )
    qualities.keep(
        settings, model, method=plan.method, fmt=plan.format, imatrix=plan.imatrix, verification=verification
    )
    if verification.gate.verdict == "fail":
        error = gate.gate_error(verification, made.artifact, fmt=plan.format, model=model.ref, method=plan.method)
        if following is not None:
            error.context = (*error.context, f"next plan: {following.id}: {following.format} in {following.runtime}")
            error.data["next_plan"] = following.id
        raise error
    name = runtimes()[plan.runtime].capabilities().env or plan.runtime
    env = variants.environment_of(settings, steps, name, on_cpu=plan.devices == ("host",))
    return made, verification, env


def ready(settings: Settings, steps: Steps, model: ModelFacts, plan: Plan) -> Made:
    """The checkpoint of a ``prequantized`` plan: the model's own folder, or an artifact of the hub, fetched as a step.

    Raises:
        AdvisorError: ``integrity`` where it is not what the plan says; what fetching raises.
    """
    from advisor.api import ready_made
    from advisor.execute.checkpoint import kept_recipe, recipe_of_facts

    if plan.artifact is not None:
        return ready_made.fetch(plan, model, settings, steps)
    source = making.local_model(settings, steps, model)
    assert source.path is not None
    folder = Path(source.path)
    recipe = kept_recipe(folder) or recipe_of_facts(source)
    if recipe is None:
        raise AdvisorError(
            "bad-option",
            f"{folder.name} is of no format that can be judged: {source.weights_dtype}.",
            hint=f"advisor recommend {shell_word(model.ref)}",
        )
    note = "The weights were quantized already; there is no original to hold them against."
    return Made(folder, None, False, {}, None, (note,), recipe)


def runtime_for(method: str, fmt: str) -> str:
    """The runtime that a checkpoint is proven and served with where none is named: vLLM where it takes the format.

    What vLLM takes through a plugin alone is transformers' own.
    """
    from advisor.backends.registry import runtimes

    own = method in ("nf4", "int8", "hqq")
    order = ("transformers", "vllm") if own else ("vllm", "transformers")
    return next((r for r in order if runtimes()[r].capabilities().loads(method, fmt)), order[0])


def verify(
    settings: Settings,
    steps: Steps,
    facts: ModelFacts,
    folder: Path,
    *,
    against: str | None,
    text: Path | None,
    task: Path | None,
    chunks: int | None,
) -> Verification:
    """Prove a checkpoint folder, against the model it was made of where that is named; else only by itself.

    Raises:
        AdvisorError: ``bad-option`` for a checkpoint of no format that can be judged; as ``prove``.
    """
    from advisor.execute.checkpoint import kept_recipe, recipe_of_facts

    recipe = kept_recipe(folder) or recipe_of_facts(facts)
    if recipe is None:
        raise AdvisorError(
            "bad-option",
            f"{folder.name} is of no format that can be judged: {facts.weights_dtype}.",
            hint="advisor verify --help",
        )
    named = making.facts_or_fetch(against, settings, steps) if against is not None else None
    reference = original(settings, steps, named).folder if named is not None else None
    made = Made(folder, reference, False, {}, recipe.quantizer, (), recipe)
    found = prove(
        settings,
        steps,
        facts,
        made,
        runtime=runtime_for(recipe.method, recipe.format),
        text=text,
        task=task,
        chunks=chunks,
        threads=making.granted_threads(settings),
    )
    qualities.keep_sound(settings, named, method=recipe.method, fmt=recipe.format, imatrix=False, verification=found)
    return found
