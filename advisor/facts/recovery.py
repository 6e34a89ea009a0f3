"""What went wrong with a server, what could be given up so that it serves, and what was: the shapes of recovery."""

from __future__ import annotations

from typing import Literal

from advisor.facts.base import Shape
from advisor.facts.plan import Plan
from advisor.facts.words import MethodName, RuntimeName

Cause = Literal["out-of-memory", "unsupported-kernel", "process-limit"]
When = Literal["making", "before-launch", "load", "traffic"]
StepKind = Literal[
    "batch", "kv-type", "parallel", "context", "layers", "format", "runtime", "several", "making", "proof"
]
Outcome = Literal["proposed", "taken", "served"]


class Diagnosis(Shape, frozen=True, kw_only=True):
    """Why a server ended or could not be started, or why a step that makes or proves its artifact ended.

    ``code``: the finding of the runtime's own table of failures, or of the system (``oom-kill``, ``address-space``).
    ``process-limit``: not memory, but a limit on addresses, processes or threads was met. ``device``: the device key
    whose memory or kernels lack; ``host`` for the machine's own memory. ``evidence``: lines of the log and sentences
    on exit and kernel counters, safe to show. All figures are bytes, ``None`` where nothing says them:
    ``wanted_bytes`` the request that was refused, ``had_bytes`` what was held until then, ``available_bytes`` what
    the runtime itself said was there, ``limit_bytes`` the tightest memory limit of the program's control group when
    it ended. ``oom_kills``: processes that the kernel killed for memory while it ran, in its group or, where no group
    counts, on the machine.
    """

    cause: Cause
    code: str
    when: When
    device: str
    message: str
    evidence: tuple[str, ...] = ()
    wanted_bytes: int | None = None
    had_bytes: int | None = None
    available_bytes: int | None = None
    limit_bytes: int | None = None
    oom_kills: int = 0
    exit_code: int | None = None
    exit_signal: int | None = None


class LadderStep(Shape, frozen=True, kw_only=True):
    """One thing moved so that a server fits, found by really planning again.

    ``change``: what is moved, ``given_up``: what that costs whoever uses it, both in words. ``frees_bytes`` on
    ``device``, against the plan that failed; ``None`` where memory was not what lacked. ``loss``: how much the goal
    values what is given up, on the scale of a plan's score; steps are taken in its order.
    """

    kind: StepKind
    change: str
    given_up: str
    device: str
    frees_bytes: int | None
    loss: float
    plan: Plan


class Recovery(Shape, frozen=True, kw_only=True):
    """A line of a deployment's history: what failed, which step was next, and whether it was taken and served.

    ``missing_bytes``: how much more memory the failed plan would have had to find on ``diagnosis.device``.
    """

    at: str
    outcome: Outcome
    diagnosis: Diagnosis
    from_plan: str
    to_plan: str | None
    change: str | None
    given_up: str | None
    frees_bytes: int | None
    missing_bytes: int | None


class History(Shape, frozen=True, kw_only=True):
    """``recovery.json`` of a deployment: the latest entries, oldest first."""

    version: int = 1
    entries: tuple[Recovery, ...] = ()


class MemoryLesson(Shape, frozen=True, kw_only=True):
    """What an out-of-memory taught about one memory of this machine.

    ``ratio``: what a runtime's server needs there by what was predicted. ``ceiling_bytes``: the most that could be had
    there, less than what the system tells; it holds until the next ``boot``. One of both. ``device`` is ``host`` or the
    device's name.
    """

    runtime: RuntimeName
    device: str
    device_key: str
    plan: str
    code: str
    predicted_bytes: int
    ratio: float | None = None
    ceiling_bytes: int | None = None
    boot: str | None = None
    learned_at: str | None = None


class KernelLesson(Shape, frozen=True, kw_only=True):
    """Kernels that a runtime was seen to lack on this machine; it holds as long as that build is what would serve.

    ``engine``: the build, by provider and version. ``format`` ``None``: all of the method's (GGUF, whose types share
    one set of kernels). ``devices``: by name, the host as ``cpu``; where accelerators are among them, also any set of
    devices that has these in it. ``code`` and ``evidence``: the finding, and the line of the log that shows it.
    """

    runtime: RuntimeName
    engine: str
    method: MethodName
    format: str | None
    devices: tuple[str, ...]
    plan: str
    code: str
    evidence: str
    learned_at: str | None = None


class MemoryWatch(Shape, frozen=True, kw_only=True):
    """How near a deployment is to a memory's end: ``bytes`` used of ``limit_bytes`` at ``where`` (a control group, the
    host, or a device). ``near``: at or above nine tenths of it."""

    where: str
    bytes: int
    limit_bytes: int
    near: bool
    seen_at: str
