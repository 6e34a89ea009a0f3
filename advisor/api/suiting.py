"""Which hardware suits a model, and which models suit a machine: one quick estimate each, for the lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from advisor import datafiles
from advisor.api.context import resolve_model, rule_pack, this_machine
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts
from advisor.facts.plan import PlanRequest
from advisor.facts.plan import Settings as RunSettings
from advisor.facts.reports import Runs

if TYPE_CHECKING:
    from advisor.guide.schema import RulePack
    from advisor.settings import Settings

# The guide's default, by which hardware and models are held against each other.
FORMAT: Final = "q4_k_m"


def on_each(model: str, names: tuple[str, ...], settings: Settings) -> dict[str, Runs]:
    """How ``model`` runs on each named piece of hardware.

    Raises:
        AdvisorError: as ``describe``; ``bad-profile``.
    """
    from advisor.probes.catalog import machine_from

    facts = resolve_model(model, settings)
    base, _ = this_machine(settings)
    overlay = datafiles.overlay_dir(settings.paths.config, "profiles/hardware")
    pack = rule_pack(settings)
    return {name: runs(facts, machine_from((name,), base=base, overlay=overlay), pack) for name in names}


def each_on(refs: dict[str, str], hardware: str, settings: Settings) -> dict[str, Runs]:
    """How each model runs on ``hardware`` (``rtx-3090:2``, ``cpu``, ``this``).

    Args:
        refs: the models by id, with the name of their shape: what has the same shape is worked out once.

    Raises:
        AdvisorError: ``hardware-not-found``, ``bad-option``.
    """
    from advisor.probes.catalog import machine_from

    base, _ = this_machine(settings)
    overlay = datafiles.overlay_dir(settings.paths.config, "profiles/hardware")
    machine = base if hardware == "this" else machine_from((hardware,), base=base, overlay=overlay)
    pack = rule_pack(settings)
    known: dict[str, Runs] = {}
    found = {}
    for ref, shape in refs.items():
        if shape not in known:
            known[shape] = runs(resolve_model(ref, settings), machine, pack)
        found[ref] = known[shape]
    return found


def runs(model: ModelFacts, machine: Machine, pack: RulePack) -> Runs:
    """How ``model`` runs on ``machine``, whole on its devices, with the usual goal's context and the settings that the
    rules of ``pack`` choose."""
    from advisor.model.tensors import tensors
    from advisor.planner import goals
    from advisor.planner.estimate import estimate
    from advisor.planner.targets import usable_devices

    usual = goals.get(PlanRequest().goal).context
    one = estimate(
        model,
        tensors(model),
        machine,
        method="gguf",
        fmt=FORMAT,
        runtime="llama.cpp",
        settings=RunSettings(
            context=min(usual, model.context_max or usual),
            gpu_layers=model.blocks + 1 if usable_devices(machine) else 0,
        ),
        pack=pack,
    )
    return Runs(
        format=FORMAT,
        context=one.settings.context,
        fits=one.fits,
        memory=one.memory.total,
        decode=one.speed.decode,
    )
