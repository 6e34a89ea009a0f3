"""What ``up`` does after the server is ready: stay with it, or see to it that it comes back after a reboot."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from advisor.errors import AdvisorError

if TYPE_CHECKING:
    from advisor.facts.results import UpResult

    from .run import Run


def check(foreground: bool, restart: str, *, dry_run: bool) -> None:
    """Refuse before any work what could not be done after it.

    Raises:
        AdvisorError: ``contradictory-options``, ``unsupported-system``.
    """
    if foreground and (dry_run or restart == "always"):
        other = "--dry-run" if dry_run else "--restart always"
        raise AdvisorError(
            "contradictory-options",
            f"--foreground stays with the server until it is stopped; {other} excludes it.",
            hint="advisor up --foreground",
        )
    if restart == "always" and not dry_run:
        from advisor import api

        api.check_boot()


def attempt(run: Run, what: str | None, recover: str | None, options: dict[str, Any], *, foreground: bool) -> UpResult:
    """``up``; where it is broken off in the foreground after the server ``--name`` was ready, that one is stopped.

    Raises:
        AdvisorError: what ``recovering`` raises.
    """
    from .recovery import recovering

    try:
        return recovering(run, what, recover, options)
    except AdvisorError as e:
        name = options.get("name")
        if foreground and e.code == "interrupted" and name is not None:
            from advisor import api

            with contextlib.suppress(AdvisorError):  # it may not have come that far
                api.down(name, settings=run.settings)
        raise


def stay(run: Run, name: str, *, foreground: bool, restart: str) -> None:
    """Make the unit for after a reboot, or stay until the server ends or is told to.

    Raises:
        AdvisorError: ``server-failed`` where it ended by itself; what writing the unit raises.
    """
    from advisor import api

    if restart == "always":
        made = api.at_boot(name, settings=run.settings)
        path = made.files[0].name
        if "yes" in run.flags:
            left = api.install_at_boot(made)
            run.sink.note(f"After a reboot it is started again: {path}")
        else:
            run.sink.note(f"For after a reboot, write this unit (or repeat with --yes): {path}")
            for line in made.text.splitlines():
                run.sink.note(f"  {line}")
            left = made.steps
        for word in (*(f"$ {step}" for step in left), *made.notes):
            run.sink.note(word)
    if foreground and run.interrupted:  # while it came up: what was measured meanwhile is kept, the server is not
        api.down(name, settings=run.settings)
    elif foreground:
        with run.working() as work:
            api.attend(name, settings=run.settings, cancel=work.cancel, line=run.sink.note)
