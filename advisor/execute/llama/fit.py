"""Asks ``llama-fit-params`` what loading a model would take on each device, without reading its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
# The oldest build (version or number) whose server was seen to reserve one row of logits a slot; the tool reserves a
# whole batch of them.
_SPARING: Final = ((0, 5), 10434)


def ask(
    binary: Binary,
    model: Path,
    settings: Settings,
    *,
    log: Path,
    cancel: Cancel | None = None,
    variables: Mapping[str, str] | None = None,
) -> tuple[DeviceNeed, ...] | None:
    """What each device would be given; ``None`` where the build has no such tool, or the tool does not answer.

    Args:
        binary: the build.
        model: the file.
        settings: how it would be served.
        log: what the tool says.
        cancel: ends it.
        variables: environment variables that the server would have, such as which devices it sees.

    Raises:
        AdvisorError: ``interrupted``.
    """
    if TOOL not in binary.tools:
        return None
    argv = commands.fit(binary.tools[TOOL], model, settings)
    lines, failed = say(argv, step="dry load", log=log, cancel=cancel, variables=variables)
    return None if failed is not None else commands.read_fit("\n".join(lines)) or None


def say(
    argv: Sequence[str],
    *,
    step: str,
    log: Path,
    cancel: Cancel | None = None,
    variables: Mapping[str, str] | None = None,
) -> tuple[list[str], AdvisorError | None]:
    """What the tool says when it is run, and how it failed if it did.

    Raises:
        AdvisorError: ``interrupted``.
    """
    lines: list[str] = []
    try:
        run(
            argv,
            log=log,
            step=step,
            env={**commands.ENVIRONMENT, **(variables or {})},
            cancel=cancel,
            timeout_s=_DEADLINE_S,
            on_line=lines.append,
        )
    except AdvisorError as e:
        if e.code == "interrupted":
            raise
        return lines, e
    return lines, None


def spared_bytes(binary: Binary, settings: Settings, vocab: int) -> int:
    """Bytes of logits that the tool reserves and the server of the same build does not; 0 for builds not known to."""
    version = re.match(r"(\d+)\.(\d+)", binary.version or "")
    known = version is not None and (int(version[1]), int(version[2])) >= _SPARING[0]
    if not known and (binary.number or 0) < _SPARING[1]:
        return 0
    rows = min(settings.ubatch, settings.batch, settings.context)
    return 4 * vocab * max(0, rows - max(settings.parallel, 1))
