"""``up`` when it is interrupted or its plan fails: what keeps running, and whether the next plan is taken."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from advisor.errors import AdvisorError
from advisor.facts.text import shell_word

if TYPE_CHECKING:
    from advisor.facts.results import UpResult

    from .run import Run, Work

# Options that belong to the deployment and stay the same for another plan; the others chose the plan that failed.
_KEPT: Final = ("name", "host", "port", "dry_run", "text", "provider")
# The launch step ends when the server answers as ready.
_READY: Final = "launch"


def recovering(run: Run, what: str | None, recover: str | None, options: dict[str, Any]) -> UpResult:
    """Carry out ``what``; where its plan fails and another one is named, take that one if the user wants it.

    Args:
        run: the command line.
        what: a model or the id of a plan.
        recover: ``ask``, ``auto``, ``never``, or ``None`` for the setting.
        options: the keywords of ``api.up``.

    Raises:
        AdvisorError: what ``api.up`` raises; with the next plan as hint where it was not taken.
    """
    way = recover or str(run.settings.get("recover"))
    tried: set[str] = set()
    while True:
        try:
            return attempt(run, what, {**options, "recover": way})
        except AdvisorError as e:
            following = e.data.get("next_plan")
            if not isinstance(following, str) or following in tried:
                raise
            if not _wanted(run, way, following, e):
                if way != "never" and "ladder" not in e.data:
                    name = options.get("name")
                    e.hint = f"advisor up {following}" + (f" --name {shell_word(name)}" if name else "")
                raise
            if e.message not in run.sink.warned:
                run.sink.warn(e.message)
            tried.add(following)
            what, options = following, {name: options[name] for name in _KEPT if name in options}


def attempt(run: Run, what: str | None, options: dict[str, Any]) -> UpResult:
    """Carry out one plan with progress and Ctrl-C.

    Raises:
        AdvisorError: ``interrupted`` tells when the server was ready already and therefore keeps running.
    """
    from advisor import api

    with run.working() as work:
        try:
            return api.up(what, settings=run.settings, reporter=work.reporter, cancel=work.cancel, **options)
        except (AdvisorError, KeyboardInterrupt) as e:
            left = _left_running(e, work, options.get("name"))
            if left is None:
                raise
            raise left from e


def _left_running(stopped: BaseException, work: Work, name: str | None) -> AdvisorError | None:
    interrupted = isinstance(stopped, KeyboardInterrupt) or getattr(stopped, "code", "") == "interrupted"
    if not interrupted or _READY not in work.finished:
        return None
    hint = f"advisor down {name}" if name else "advisor status"
    return AdvisorError("interrupted", "Stopped; the server was ready before and keeps running.", hint=hint)


def _wanted(run: Run, way: str, following: str, error: AdvisorError) -> bool:
    if way == "never":
        return False
    if way == "auto" or "yes" in run.flags:
        return True
    if "json" in run.flags or not sys.stdin or not sys.stdin.isatty():
        return False
    run.sink.warn(error.message)
    for line in error.context:
        run.sink.note(line)
    ladder = error.data.get("ladder")
    if isinstance(ladder, list) and ladder:
        return run.ask(f"Take the next step: {ladder[0]['change']} (given up: {ladder[0]['given_up']})?")
    return run.ask(f"Take the next plan, {following}?")
