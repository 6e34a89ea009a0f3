"""The keywords that planning functions share: what a person may ask for, and another machine to plan for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts
from advisor.facts.plan import PlanRequest
from advisor.facts.plan import Settings as RunSettings
from advisor.facts.recipe import RecipeOptions
from advisor.facts.words import is_hub_text

if TYPE_CHECKING:
    from advisor.planner.again import Named


class MachineOptions(TypedDict, total=False):
    """Another machine, or changes to one: names of hardware; bytes; bytes per second. ``total``: as if nothing ran on
    it."""

    hardware: tuple[str, ...]
    memory: int | None
    vram: int | None
    bandwidth: int | None
    total: bool


class MakingOptions(TypedDict, total=False):
    """How the weights are made: values of the recipe (see ``Recipe``), a file to calibrate on, a folder with an adapter
    that is merged first. ``None`` leaves it to the guide's rules and the method."""

    bits: int | None
    group_size: int | None
    desc_act: bool | None
    sym: bool | None
    damp: float | None
    samples: int | None
    smoothing: float | None
    static_activations: bool | None
    double_quant: bool | None
    layout: str | None
    calibration: str | Path | None
    adapter: str | Path | None


class PlanOptions(MachineOptions, MakingOptions, total=False):
    """All of ``recommend`` and ``up``; what is left out, or ``None``, is advisor's choice.

    ``context`` in tokens of one conversation; ``parallel`` requests at a time; ``min_tps`` in tokens per second;
    ``max_memory`` in bytes; ``min_quality`` a share of the original's, up to 1; ``within`` in seconds; ``threads`` of
    the runtime on the host, the granted cores by default.
    """

    goal: str
    context: int | None
    parallel: int | None
    method: str | None
    format: str | None
    runtime: str | None
    quantizer: str | None
    kv_type: str | None
    min_tps: float | None
    max_memory: int | None
    min_quality: float | None
    within: float | None
    no_download: bool
    threads: int | None


MACHINE_KEYS = frozenset(MachineOptions.__optional_keys__)
PLAN_KEYS = frozenset(PlanOptions.__optional_keys__)
MAKING_KEYS = frozenset(MakingOptions.__optional_keys__)
RECIPE_KEYS = MAKING_KEYS - {"calibration", "adapter"}
# Where the request says the unit and the option does not.
_RENAMED = {"max_memory": "max_memory_bytes", "within": "within_s"}


def checked(function: str, options: Mapping[str, object], known: frozenset[str] | None = None) -> None:
    """Refuse a keyword that there is not, as Python does for keywords that are written out.

    Args:
        function: its name.
        known: its keywords; those of ``PlanOptions`` by default.

    Raises:
        TypeError: there is no such keyword.
    """
    for name in options:
        if name not in (PLAN_KEYS if known is None else known):
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


def several(named: tuple[str, ...] | str) -> tuple[str, ...]:
    """One device may be named without a tuple around it."""
    return (named,) if isinstance(named, str) else tuple(named)


def machine_options(options: PlanOptions) -> MachineOptions:
    """Those that describe a machine."""
    return {
        "hardware": several(options.get("hardware", ())),
        "memory": options.get("memory"),
        "vram": options.get("vram"),
        "bandwidth": options.get("bandwidth"),
        "total": options.get("total", False),
    }


def request_of(options: PlanOptions | MakingOptions, *, top: int) -> PlanRequest:
    """What is asked for beyond model and machine.

    Raises:
        AdvisorError: ``bad-option`` or ``untrusted-model-path`` for a text of the hub that cannot be calibrated on.
    """
    recipe = RecipeOptions(**{k: v for k, v in options.items() if k in RECIPE_KEYS})  # type: ignore[arg-type]
    wanted = {_RENAMED.get(k, k): v for k, v in options.items() if k not in MACHINE_KEYS | RECIPE_KEYS}
    for name in ("goal", "no_download"):  # the request has a default of its own
        if name in wanted and wanted[name] is None:
            del wanted[name]
    for name in ("calibration", "adapter"):
        value = wanted.get(name)
        if value is None:
            continue
        if name == "calibration" and is_hub_text(str(value)):
            from advisor.execute.hub import corpora

            corpora.parse(str(value), "calibration")  # what cannot be read is refused before anything is made
        else:  # a plan is kept, and may be carried out from another folder
            wanted[name] = str(Path(str(value)).resolve())
    return PlanRequest(top=top, recipe=recipe, **wanted)  # type: ignore[arg-type] # the keys are the request's own


def named_words(
    facts: ModelFacts, machine: Machine | Path | None, model_facts: Path | None, options: MachineOptions
) -> Named:
    """How model and machine were named, for commands that ask again. A machine that was handed over as an object has
    no name; it is taken to be the own one."""
    from advisor.planner.again import Named

    return Named(
        model=("--model-facts", str(model_facts)) if model_facts is not None else (facts.ref,),
        hardware=several(options.get("hardware", ())),
        memory=options.get("memory"),
        vram=options.get("vram"),
        bandwidth=options.get("bandwidth"),
        recorded=str(machine) if isinstance(machine, Path) else None,
    )


def named_settings(
    facts: ModelFacts,
    *,
    context: int | None,
    parallel: int,
    kv_type: str,
    gpu_layers: int | None,
    threads: int | None,
    batch: int,
    ubatch: int,
) -> RunSettings:
    """What a person named, and for the rest what ``recommend`` takes, so that the two can be compared."""
    from advisor.planner import goals

    usual = goals.get(PlanRequest().goal).context
    return RunSettings(
        context=context or min(usual, facts.context_max or usual) * max(1, parallel),
        parallel=parallel,
        kv_type=kv_type,
        gpu_layers=gpu_layers if gpu_layers is not None else -1,
        threads=threads,
        batch=batch,
        ubatch=ubatch,
    )
