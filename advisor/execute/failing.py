"""The error of a command that did not end well: how it ended, what it said, what the kernel counted, what it met."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from advisor.errors import CATALOGUE, AdvisorError
from advisor.facts.text import clean

if TYPE_CHECKING:
    from advisor.execute.proc import Completed
    from advisor.facts.recovery import Diagnosis

_CANNOT_START: Final = 127
_FULL: Final = ("No space left on device", "Disk quota exceeded", "File too large", "os error 28)", "os error 122)")
# Codes that say no more than that it failed; what it said may tell the cause.
_VAGUE: Final = frozenset({"step-failed", "quantizer-failed", "artifact-invalid", "out-of-memory", "bug", "env-failed"})
_KILLED_CHILD: Final = "ended by SIGKILL"


def failure(done: Completed, program: str, *, step: str, code: str = "step-failed") -> AdvisorError:
    """The error of a command that ended by itself or was ended: how, in words, with the tail of its log.

    ``code`` is that of a failure without a known cause; lack of memory and limits of the system have their own.
    """
    name = clean(Path(program).name)
    if done.returncode == _CANNOT_START:
        return AdvisorError("tool-missing", f"{step}: {name} cannot be started.", context=done.tail, data=data(done))
    if any(word in line for line in done.lines for word in _FULL):
        return _full(done, step, context=done.tail)
    found = diagnosed(done, name)
    if found is not None:
        return _explained(done, found, step, context=done.tail)
    how = f"ended with exit status {done.returncode}"
    if done.returncode > 128:
        how = _signal_words(done.returncode - 128)
        if code == "artifact-invalid" and done.returncode - 128 in (signal.SIGKILL, signal.SIGTERM):
            code = "step-failed"  # who ends a program says nothing about what it was reading
    return AdvisorError(code, f"{step}: {name} {how}.", context=(*done.tail, f"log: {done.log}"), data=data(done))


def reported(done: Completed, said: Mapping[str, Any], program: str, *, step: str, code: str) -> AdvisorError:
    """The error that a runner told of itself; where its code says little, the cause that its words show."""
    known = str(said.get("code")) if said.get("code") in CATALOGUE else code
    message = clean(str(said.get("message")), 1000)
    context = tuple(clean(str(c), 500) for c in said.get("context", ()) or ())
    if known in _VAGUE and any(word in line for line in (message, *context) for word in _FULL):
        return _full(done, step, context=(message, *context))
    found = diagnosed(done, program, message, *context) if known in _VAGUE else None
    if found is not None:
        return _explained(done, found, step, context=(message, *context))
    if known == "out-of-memory" and _KILLED_CHILD in message:
        known = code  # anybody may kill a process: the kernel counted no kill for memory
    return AdvisorError(known, message, context=(*context, f"log: {done.log}"), data=data(done))


def diagnosed(done: Completed, name: str, *said: str) -> Diagnosis | None:
    """Why a command ended, where memory or a limit of the system lacked; ``said``: what it told itself."""
    from advisor.backends import causes
    from advisor.backends.limits import SYSTEM
    from advisor.probes import group_memory, process_limits

    number = done.returncode - 128 if done.returncode > 128 else None
    if done.oom_kills and any(_KILLED_CHILD in line for line in said):
        number = int(signal.SIGKILL)
    group = group_memory.tightest_group()
    ended = causes.Ended(
        None if number is not None else done.returncode,
        number,
        done.oom_kills,
        group.limit if group is not None else None,
        done.peak_bytes,
        process_limits.addresses_in_the_way(),
    )
    lines = (*done.lines, *(line for line in said if line not in done.lines))
    return causes.diagnose(SYSTEM, lines, ended, devices=("gpu0", causes.HOST), when="making", who=name)


def refused(why: OSError) -> AdvisorError:
    """The error of a program that the system did not start because there are too many."""
    from advisor.probes import process_limits

    met = process_limits.met("thread-limit")
    return AdvisorError(
        "process-limit",
        f"A program cannot be started: {why.strerror}.",
        context=[f"limit: {b.words}" for b in met],
        hint=next((b.lift for b in met), "advisor doctor"),
    )


def _full(done: Completed, step: str, *, context: tuple[str, ...]) -> AdvisorError:
    """A disk that was full: that of the store or of the system's temporary files, as the lines say."""
    from advisor.execute.disk import free_bytes

    free = free_bytes(done.log.parent)
    left = "" if free is None else f" ({free:,} bytes are free where the log lies)"
    return AdvisorError(
        "disk-full",
        f"{step}: the disk is full{left}.",
        context=(*context, f"log: {done.log}"),
        hint="advisor cache gc",
        data={**data(done), "free_bytes": free},
    )


def _explained(done: Completed, found: Diagnosis, step: str, *, context: tuple[str, ...]) -> AdvisorError:
    lines = [f"evidence: {line}" for line in found.evidence]
    if found.had_bytes is not None:
        lines.append(f"it had {found.had_bytes / 2**20:.0f} MiB resident at most, mapped files included")
    if found.wanted_bytes is not None:
        lines.append(f"it asked for {found.wanted_bytes / 2**20:.0f} MiB more")
    hint = "advisor doctor"
    if found.cause == "process-limit":
        from advisor.probes import process_limits

        met = process_limits.met(found.code)
        lines += [f"limit: {b.words}" for b in met]
        hint = next((b.lift for b in met), hint)
    code = "process-limit" if found.cause == "process-limit" else "out-of-memory"
    return AdvisorError(
        code,
        f"{step}: {found.message}",
        context=tuple(dict.fromkeys((*lines, *context, f"log: {done.log}"))),
        hint=hint,
        data={**data(done), "diagnosis": found.to_json()},
    )


def _signal_words(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"was killed by signal {number}"
    meaning = {
        "SIGKILL": "; if nobody killed it by hand, memory ran out",
        "SIGSEGV": ": it made a wrong memory access, which is a bug in it or a damaged model file",
        "SIGABRT": ": it gave up by itself, its last lines say why",
        "SIGILL": ": it was built for a newer processor",
        "SIGBUS": ": a file it had mapped was cut short, or the disk is full",
    }.get(name, "")
    return f"was killed by {name}{meaning}"


def data(done: Completed) -> dict[str, Any]:
    """What of a command's end goes into ``error.data``."""
    return {"backend_exit": done.returncode, "log": str(done.log), "oom_killed": done.oom_killed}
