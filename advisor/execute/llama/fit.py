"""Asks ``llama-fit-params`` what loading a model would take on each device, without reading its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from advisor.backends.llama import commands
from advisor.backends.llama.binary import Binary
from advisor.backends.llama.commands import DeviceNeed
from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.execute.proc import run
from advisor.facts.plan import Settings

TOOL: Final = "llama-fit-params"
_DEADLINE_S: Final = 120.0


def ask(
    binary: Binary, model: Path, settings: Settings, *, log: Path, cancel: Cancel | None = None
) -> tuple[DeviceNeed, ...] | None:
    """What each device would be given; ``None`` where the build has no such tool, or the tool does not answer.

    Raises:
        AdvisorError: ``interrupted``.
    """
    if TOOL not in binary.tools:
        return None
    lines: list[str] = []
    try:
        run(
            commands.fit(binary.tools[TOOL], model, settings),
            log=log,
            step="dry load",
            env=commands.ENVIRONMENT,
            cancel=cancel,
            timeout_s=_DEADLINE_S,
            on_line=lines.append,
        )
    except AdvisorError as e:
        if e.code == "interrupted":
            raise
        return None
    return commands.read_fit("\n".join(lines)) or None


def words(needs: tuple[DeviceNeed, ...]) -> str:
    """The answer in a sentence's length."""
    return "; ".join(f"{n.name}: model {n.model_mib}, cache {n.context_mib} MiB" for n in needs)
