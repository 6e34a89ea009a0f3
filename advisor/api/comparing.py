"""``advisor compare``: one row a method, predicted, and with ``measure`` made, proven, served and measured here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Unpack, cast

import msgspec

from advisor.api import planning
from advisor.api.context import DEFAULT_MODEL, load_settings
from advisor.api.options import MACHINE_KEYS, RECIPE_KEYS, PlanOptions, checked
from advisor.errors import AdvisorError
from advisor.events import Cancel, Event, Reporter, safely
from advisor.execute import qualities
from advisor.facts.base import dumps_any, loads
from advisor.facts.comparison import Comparison, Figures, Row
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Plan
from advisor.facts.quantity import Quantity, exact
from advisor.facts.text import shell_word

if TYPE_CHECKING:
    from advisor.facts.results import StepRecord, UpResult, Verification
    from advisor.settings import Settings

# The rows of the guide's own table (000 section 6, 002 section 27.7.2), and what has come since.
CHOICES: Final[tuple[tuple[str, str | None], ...]] = (
    ("none", None),
    ("gptq", None),
    ("awq", None),
    ("w8a8", None),
    ("fp8", None),
    ("nf4", None),
    ("int8", None),
    ("hqq", None),
    ("rtn", None),
    ("gguf", "q4_k_m"),
    ("gguf", "q5_k_m"),
    ("gguf", "q8_0"),
)
# Steps that make the artifact; what they share with other rows (fetching, environments) is not counted.
_MAKING: Final = frozenset(("restore", "convert", "imatrix", "quantize"))
# A run that one of these ends is no property of the row: the next run measures it again.
_PASSING: Final = frozenset(
    ("interrupted", "network", "offline", "disk-full", "not-enough-memory", "port-taken", "name-taken")
)


def compare(
    model: str | None = None,
    *,
    measure: bool = False,
    again: bool = False,
    settings: Settings | None = None,
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
    **options: Unpack[PlanOptions],
) -> Comparison:
    """The methods of the guide side by side for ``model`` on a machine.

    Args:
        measure: make, prove, serve and measure each on this machine. What was measured is kept, so a run that was
            stopped goes on where it was; a row that fails says so and the others follow.
        again: measure again what was measured before.
        options: as ``recommend``; ``method``, ``format`` and ``runtime`` leave the rows that have them.

    Raises:
        AdvisorError: as ``recommend``; ``interrupted``.
    """
    checked("compare", options)
    s = load_settings(settings)
    ref = model or DEFAULT_MODEL
    if measure and any(options.get(name) for name in MACHINE_KEYS):
        raise AdvisorError(
            "contradictory-options",
            "What is measured is measured on this machine as it is; another one can be predicted only.",
            hint=f"advisor compare {shell_word(ref)} --measure",
        )
    rows: list[Row] = []
    plans: list[Plan | None] = []
    facts = None

    def add(method: str, fmt: str | None) -> ModelFacts | None:
        """One row, where the options leave it; the model, which planning has read."""
        wanted = options.get("method"), options.get("format")
        if (wanted[0] not in (None, method)) or (fmt is not None and wanted[1] not in (None, fmt)):
            return None
        asked: PlanOptions = {**_taken(options, method), "method": method, "format": fmt or wanted[1]}
        try:
            report = planning.recommend(ref, settings=s, top=1, measured=False, **asked)
        except AdvisorError as e:
            if e.code not in ("contradictory-options", "illegal-recipe"):
                raise
            return None  # a format that the method does not have
        plan = report.plans[0] if report.plans else None
        plans.append(plan)
        rows.append(_planned(plan) if plan is not None else _impossible(method, fmt, report.rejected))
        return report.model

    for method, fmt in CHOICES:
        facts = add(method, fmt) or facts
    if facts is not None:
        from advisor.planner.candidate import original_method, usual_gguf

        own = original_method(facts) if facts.weights_format != "gguf" else None
        for more in (("gguf", usual_gguf(facts)), *(((own, None),) if own is not None else ())):
            if more not in CHOICES:
                add(*more)
    if facts is None:
        raise AdvisorError(
            "contradictory-options",
            "No row of the table is left with these options.",
            hint=f"advisor compare {shell_word(ref)}",
        )
    if measure:
        say = safely(reporter)
        for i, plan in enumerate(plans):
            if plan is not None and plan.status == "ready" and plan.executable_here:
                say(Event(kind="note", step="compare", message=f"{i + 1} of {len(plans)}: {plan.method} {plan.format}"))
                rows[i] = _measured(
                    s, rows[i], plan, qualities.identity(facts), again=again, reporter=reporter, cancel=cancel
                )
            elif plan is not None:
                rows[i] = msgspec.structs.replace(rows[i], because=f"not measured: needs {'; '.join(plan.needs)}")
    return Comparison(rows=tuple(rows), model=facts)


def _taken(options: PlanOptions, method: str) -> PlanOptions:
    """The options without those that only other methods of the table take; bits and group leave rows out instead."""
    from advisor.backends.methods import CHOICES as METHODS

    choice = METHODS.get(method)
    takes = {"bits", "group_size", *(choice.options if choice is not None else ("samples",))}
    if method == "fp8" and not options.get("static_activations"):
        takes.discard("samples")
    left = {k: v for k, v in options.items() if k not in RECIPE_KEYS or k in takes}
    return cast("PlanOptions", left)


def _planned(plan: Plan) -> Row:
    return Row(
        method=plan.method,
        format=plan.format,
        runtime=plan.runtime,
        plan_id=plan.id,
        predicted=Figures(
            memory=plan.memory.total,
            decode=plan.speed.decode,
            kld=plan.quality.kld,
            perplexity=plan.quality.perplexity_ratio,
            quantize_seconds=plan.time.quantize,
            file_bytes=plan.memory.weights,
        ),
        measured=None,
    )


def _impossible(method: str, fmt: str | None, rejected: tuple[object, ...]) -> Row:
    from advisor.facts.plan import Rejected

    found = [r for r in rejected if isinstance(r, Rejected)]
    own = ("vllm", "transformers", "llama.cpp")
    # The runtimes that advisor starts itself speak first: why the others do not take it says less.
    found.sort(key=lambda r: own.index(r.runtime) if r.runtime in own else len(own))
    first = found[0] if found else None
    return Row(
        method=method,  # type: ignore[arg-type]
        format=fmt or (first.format if first is not None else method),
        runtime=first.runtime if first is not None else "vllm",
        plan_id=None,
        predicted=None,
        measured=None,
        because=f"{first.because} ({first.rule})" if first is not None else "No way to run it is known.",
    )


def _measured(
    s: Settings,
    row: Row,
    plan: Plan,
    model: object,
    *,
    again: bool,
    reporter: Reporter | None,
    cancel: Cancel | None,
) -> Row:
    """The row with what was measured, from the file of an earlier run where there is one."""
    from advisor.deploy.spec import now

    kept = _file(s, plan, model)
    known = None if again else _read(kept)
    if known is not None:
        return msgspec.structs.replace(row, measured=known.measured, verdict=known.verdict, because=known.because,
                                       measured_at=known.measured_at, reused=True)  # fmt: skip
    try:
        done = _run(s, plan, reporter, cancel)
    except AdvisorError as e:
        if e.code == "interrupted":
            raise
        verification = e.data.get("verification") if e.code == "quality-gate-failed" else None
        row = msgspec.structs.replace(
            row,
            measured=_quality(verification) if isinstance(verification, dict) else None,
            verdict="fail" if verification is not None else None,
            because=f"{e.code}: {e.message}",
            measured_at=now(),
        )
        if e.code not in _PASSING:
            _keep(kept, row)
        return row
    row = msgspec.structs.replace(
        row,
        measured=_figures(done),
        verdict=done.verification.gate.verdict if done.verification is not None else None,
        measured_at=now(),
    )
    _keep(kept, row)
    return row


def _run(s: Settings, plan: Plan, reporter: Reporter | None, cancel: Cancel | None) -> UpResult:
    """``up`` of the plan under a name of its own, ended and forgotten again."""
    from advisor.api.serving import manager
    from advisor.api.upping import up

    name = f"compare-{plan.id.removeprefix('p-')}"
    try:
        return up(plan, name=name, settings=s, reporter=reporter, cancel=cancel)
    finally:
        m = manager(s)
        # What went wrong with the row is to be told, not what went wrong with clearing up after it.
        with suppress(AdvisorError):
            if name in m.names():
                m.stop(name)
                m.forget(name)


def _figures(done: UpResult) -> Figures:
    measured = done.receipt.measured if done.receipt is not None else None
    side = _quality(done.verification) if done.verification is not None else Figures()
    artifact = Path(done.deployment.artifact) if done.deployment is not None else None
    size = _size(artifact) if artifact is not None else None
    return msgspec.structs.replace(
        side,
        memory=measured.memory if measured is not None else None,
        decode=measured.decode if measured is not None else None,
        quantize_seconds=_seconds(done.steps, artifact),
        file_bytes=None if size is None else exact(size, "bytes", "the weight files", "measured"),
    )


def _quality(found: Verification | dict[str, object]) -> Figures:
    get: Callable[[str], object] = found.get if isinstance(found, dict) else lambda name: getattr(found, name)

    def figure(name: str, unit: str) -> Quantity | None:
        value = get(name)
        source = f"{get('positions')} positions of {get('text')}"
        return exact(value, unit, source, "measured") if isinstance(value, int | float) else None  # type: ignore[arg-type]

    absolute, original = figure("perplexity", "ratio"), get("perplexity_reference")
    ratio = None
    if absolute is not None and isinstance(original, int | float) and original > 0:
        source = f"{absolute.value:.4g} over the original's {original:.4g}, {absolute.source}"
        ratio = exact(float(absolute.value) / original, "ratio", source, "measured")
    return Figures(kld=figure("kld", "nats"), perplexity=ratio, perplexity_absolute=absolute)


def _size(artifact: Path) -> int | None:
    if artifact.is_dir():
        return sum(p.stat().st_size for p in artifact.glob("*.safetensors"))
    return artifact.stat().st_size if artifact.is_file() else None


def _seconds(steps: tuple[StepRecord, ...], artifact: Path | None) -> Quantity | None:
    """Of the steps that make the artifact; where one of them was found done, what quantizing took when it was made."""
    making = [step for step in steps if step.name in _MAKING]
    if not making:
        return exact(0.0, "s", "nothing is made: quantized while loading, or served as it is", "measured")
    if any(step.outcome == "reused" for step in making if step.name in ("quantize", "imatrix")):
        return _then(artifact)
    return exact(round(sum(step.seconds for step in making), 1), "s", "the steps that made it", "measured")


def _then(artifact: Path | None) -> Quantity | None:
    """What the artifact's own manifest says of the time that quantizing took; ``None`` without one."""
    from advisor.execute.store import Store

    if artifact is None:
        return None
    root = artifact.parent
    try:
        seconds = Store(root.parent.parent).manifest(root).get("seconds")
    except (AdvisorError, OSError, msgspec.MsgspecError):
        return None
    if not isinstance(seconds, int | float):
        return None
    return exact(float(seconds), "s", "quantizing alone, when the artifact was made", "measured")


def _file(s: Settings, plan: Plan, model: object) -> Path:
    from advisor._version import __version__

    # What decides a measurement; not what was predicted of it, which changes with what is learned.
    chosen = (plan.method, plan.format, plan.quantizer, plan.runtime, plan.source, plan.imatrix, plan.devices)
    settings = plan.settings.to_json()
    del settings["gpu_memory_utilization"]  # what is free at the moment moves it, as for the plan's id
    body = [__version__, model, chosen, settings, plan.parameters, plan.artifact]
    key = hashlib.sha256(dumps_any(body)).hexdigest()[:16]
    return Path(s.paths.state) / "compare" / f"{plan.method}-{plan.format}-{key}.json"


def _read(path: Path) -> Row | None:
    try:
        return loads(Row, path.read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _keep(path: Path, row: Row) -> None:
    from advisor.execute.disk import make_folders, write_atomic

    make_folders(path.parent)
    write_atomic(path, row.dumps())
