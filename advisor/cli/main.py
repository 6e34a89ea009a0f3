"""The entry point: parses, calls, and turns whatever happens into one answer and one exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from advisor.errors import AdvisorError
from advisor.facts.words import EXIT_OK

from . import app, encoding, failure, redact
from .run import Run
from .sink import Sink

PROGRAM: Final = "advisor"
_COMPLETE: Final = "_ADVISOR_COMPLETE"


def run() -> None:
    """Run the command line of this process and exit."""
    # Whatever the umask says, others never write here: what is kept holds programs (environments) and their input.
    os.umask(os.umask(0o022) | 0o022)
    sys.exit(main())


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; nothing is raised.

    Args:
        args: the words after the program's name; ``None`` takes the process's own.
    """
    words = list(sys.argv[1:] if args is None else args)
    sys.stdout, sys.stderr = encoding.prepare(sys.stdout), encoding.prepare(sys.stderr)
    # Until the words are understood, this guess decides how their errors are written.
    asked = words[: words.index("--")] if "--" in words else words
    state = Run(Sink("json" if "--json" in asked else "human", verbose="--verbose" in asked or "-v" in asked))
    try:
        code = _invoke(words, state)
        sys.stdout.flush()
    except BrokenPipeError:
        encoding.hang_up()
        return EXIT_OK
    except BaseException as e:  # noqa: BLE001 - the table decides; nothing may leave as a traceback
        return _fail(e, state)
    return code


def _invoke(words: list[str], state: Run) -> int:
    if sys.platform == "win32":
        # Supervision, locks and the process table are those of POSIX; inside WSL 2 everything is there.
        raise AdvisorError(
            "unsupported-system",
            "advisor runs on Linux and macOS; on Windows, run it inside WSL 2, where it sees the GPU as well.",
            hint="wsl --install",
        )
    group = app.build()
    instruction = os.environ.get(_COMPLETE)
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(group, {}, PROGRAM, _COMPLETE, instruction)
    if not words:
        words = ["--help"]
    try:
        with group.make_context(PROGRAM, words, obj=state) as ctx:
            code = group.invoke(ctx)
    except click.exceptions.Exit as e:
        return e.exit_code
    return code if isinstance(code, int) else EXIT_OK


def _fail(exception: BaseException, state: Run) -> int:
    """Write the failure; a failure while failing still gives the exit code of the first one."""
    error = failure.translate(exception)
    try:
        from advisor.facts.results import ErrorBody

        body = ErrorBody(
            code=error.code,
            message=redact.text(error.message),
            context=tuple(redact.text(c) for c in error.context),
            hint=redact.text(error.hint) if error.hint else None,
            docs=error.docs,
            data=redact.anything(error.data),
        )
        state.sink.failure(failure.command_of(exception) or state.command, body)
        if state.sink.verbose and error.code == "bug" and state.sink.mode != "json":
            failure.show_traceback(exception)
    except BrokenPipeError:
        encoding.hang_up()
    return error.exit_code
