"""Numbers for pictures: the memory of several choices over contexts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from advisor.api import targeting
from advisor.api.context import load_settings, resolve_model, rule_pack
from advisor.api.options import MACHINE_KEYS, MachineOptions, checked, named_settings
from advisor.facts.machine import Machine

if TYPE_CHECKING:
    from advisor.planner.curves import Choice, Curves
    from advisor.settings import Settings


def memory_by_context(
    model: str,
    choices: Sequence[Choice],
    *,
    machine: Machine | Path | None = None,
    context: int | None = None,
    parallel: int = 1,
    kv_type: str = "f16",
    gpu_layers: int | None = None,
    threads: int | None = None,
    batch: int = 2048,
    ubatch: int = 512,
    settings: Settings | None = None,
    **options: Unpack[MachineOptions],
) -> Curves:
    """What each of ``choices`` takes at contexts from 1024 tokens to what the model was trained for.

    Args:
        choices: method, format and runtime of each; what is no combination is left out, but for the first.
        context: tokens of all slots together that are asked for; all other arguments as ``estimate``.

    Raises:
        AdvisorError: as ``estimate``.
    """
    s = load_settings(settings)
    checked("memory_by_context", options, MACHINE_KEYS)
    target, _, _ = targeting.target_machine(s, machine=machine, options=options)
    facts = resolve_model(model, s)
    from advisor.model.tensors import tensors
    from advisor.planner.curves import curves
    from advisor.planner.request import checked_settings

    wanted = named_settings(
        facts,
        context=context,
        parallel=parallel,
        kv_type=kv_type,
        gpu_layers=gpu_layers,
        threads=threads,
        batch=batch,
        ubatch=ubatch,
    )
    # As ``estimate`` takes them, so that the picture tells of the same settings.
    wanted, _ = checked_settings(wanted, target, runtime=choices[0].runtime, layers=gpu_layers)
    return curves(facts, tensors(facts), target, choices, wanted, rule_pack(s))
