"""What a deployment is started from and what lies in its folder: the shapes of the state files, and names."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from typing import Final, Literal

from advisor.errors import AdvisorError
from advisor.facts.base import Shape
from advisor.facts.plan import Memory, Settings
from advisor.facts.recovery import MemoryWatch
from advisor.facts.text import clean
from advisor.facts.words import RuntimeName

SPEC_FILE: Final = "spec.json"
RUN_FILE: Final = "run.json"
STATUS_FILE: Final = "status.json"
READY_FILE: Final = "ready.json"
STOP_FILE: Final = "stop-requested"
KEY_FILE: Final = "api-key"
SHIM_LOG: Final = "shim.log"
SERVER_LOG: Final = "server.log"

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")

Recover = Literal["ask", "auto", "never"]
Phase = Literal["starting", "running", "backoff", "stopping", "stopped", "failed"]
FINAL_PHASES: Final[tuple[Phase, ...]] = ("stopped", "failed")


class Fallback(Shape, frozen=True, kw_only=True):
    """A step of the ladder that needs nothing but another command line: taken when memory runs out under traffic.

    ``frees_bytes`` on ``device``; ``env`` is the complete environment.
    """

    plan_id: str
    change: str
    given_up: str
    device: str
    frees_bytes: int | None
    argv: tuple[str, ...]
    env: dict[str, str]


class LaunchSpec(Shape, frozen=True, kw_only=True):
    """One server to run. Everything in it is data: ``argv`` goes to the system as a list, never through a shell.

    ``env`` is the complete environment of the server. ``model`` is the name under which the API serves it.
    A secret is in neither: ``api_key_file`` names the 0600 file that holds the key. ``port_explicit`` says that the
    user named the port, so that no other may be taken. Before it was ready once, a server that ends is not started
    again; afterwards up to ``max_restarts`` times within ``restart_window_s``, after ``backoff_s``, doubled each time
    up to ``backoff_max_s``. ``provider``: which llama.cpp it is; ``settings`` and ``memory``: the plan's, as measuring
    and the engine corrected them before the launch. ``recover``, ``fallbacks``: what happens when memory runs out under
    traffic; lines that match one of ``oom_patterns`` say so. ``watch_devices``: devices whose memory is watched
    (``id``, ``vendor``, ``uuid`` or ``pci``). Logs take at most ``(log_keep + 1) * log_max_bytes``.
    """

    name: str
    plan_id: str
    model: str
    artifact: str
    runtime: RuntimeName
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str | None = None
    host: str = "127.0.0.1"
    port: int
    port_explicit: bool = False
    health_path: str = "/health"
    ready_timeout_s: float = 600.0
    api_key_file: str | None = None
    max_restarts: int = 5
    restart_window_s: float = 300.0
    backoff_s: float = 1.0
    backoff_max_s: float = 30.0
    stop_grace_s: float = 10.0
    log_max_bytes: int = 10 * 1024 * 1024
    log_keep: int = 3
    poll_s: float = 0.25
    health_timeout_s: float = 2.0
    provider: str | None = None
    settings: Settings | None = None
    memory: Memory | None = None
    recover: Recover = "ask"
    fallbacks: tuple[Fallback, ...] = ()
    oom_patterns: tuple[str, ...] = ()
    watch_devices: tuple[dict[str, str], ...] = ()


class RunFile(Shape, frozen=True, kw_only=True):
    """One launch: the random mark that its processes carry in their environment."""

    uuid: str
    launched_at: str


class StatusFile(Shape, frozen=True, kw_only=True):
    """What the supervisor last wrote. ``*_start`` is the system's start time of a pid, as text, never the wall clock.

    ``state`` is the supervisor's own view: it does not know of health. ``exit_code`` and ``exit_signal`` are of the
    server's last end, as are ``out_of_memory`` (the evidence that memory ran out; empty where there is none),
    ``oom_kills``, ``peak_bytes`` and ``limit_bytes`` of its control group. ``memory``: the memory that is nearly full
    now.
    """

    version: int
    state: Phase
    uuid: str
    boot_id: str
    shim_pid: int
    shim_start: str
    pid: int | None
    pid_start: str | None
    restarts: int
    reason: str | None
    exit_code: int | None
    exit_signal: int | None
    likely_oom: bool
    out_of_memory: tuple[str, ...] = ()
    oom_kills: int = 0
    peak_bytes: int | None = None
    limit_bytes: int | None = None
    memory: MemoryWatch | None = None
    launched_at: str
    started_at: str | None
    stopped_at: str | None
    updated_at: str


class ReadyFile(Shape, frozen=True, kw_only=True):
    """Written when a server was first seen ready; it belongs to one pid and start time. ``seconds`` since launch."""

    pid: int
    pid_start: str
    seconds: float | None
    ready_at: str


def now() -> str:
    """The time of day for ``*_at`` fields, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def valid_name(name: str) -> bool:
    """Whether ``name`` can name a deployment (and its folder)."""
    return _NAME.fullmatch(name) is not None


def slug(text: str) -> str:
    """Make a deployment name of any text, a model's name for instance; never empty, at most 63 characters."""
    plain = unicodedata.normalize("NFKD", text.rsplit("/", 1)[-1]).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9._]+", "-", plain).strip("-._")[:63].rstrip("-._")
    return name or "model"


def check_name(name: str) -> None:
    """Refuse what cannot name a deployment.

    Raises:
        AdvisorError: ``bad-option`` with a name that can.
    """
    if not valid_name(name):
        raise AdvisorError(
            "bad-option",
            f"{clean(name, 80)!r} cannot name a deployment: lower-case letters, digits, dot, dash and "
            "underscore, at most 63, beginning with a letter or digit.",
            hint=f"advisor up --name {slug(name)}",
        )


def check(spec: LaunchSpec) -> None:
    """Refuse a specification that cannot be carried out.

    Raises:
        AdvisorError: ``bad-option``: the name, an empty command line, a NUL byte, or a limit out of range.
    """
    check_name(spec.name)
    if not spec.argv or not spec.argv[0]:
        raise AdvisorError("bad-option", f"Deployment {spec.name} has no command to run.")
    texts = (*spec.argv, *spec.env, *spec.env.values(), spec.cwd or "")
    if any("\0" in text for text in texts) or any("=" in key or not key for key in spec.env):
        raise AdvisorError(
            "bad-option", f"Deployment {spec.name}: an argument or variable holds what the system cannot pass on."
        )
    limits = {
        "max_restarts": spec.max_restarts >= 0,
        "restart_window_s": spec.restart_window_s > 0,
        "backoff_s": spec.backoff_s >= 0,
        "backoff_max_s": spec.backoff_max_s >= 0,
        "stop_grace_s": spec.stop_grace_s >= 0,
        "ready_timeout_s": spec.ready_timeout_s > 0,
        "log_max_bytes": spec.log_max_bytes >= 4096,
        "log_keep": 0 <= spec.log_keep <= 100,
        "poll_s": spec.poll_s > 0,
        "health_timeout_s": spec.health_timeout_s > 0,
        "health_path": spec.health_path.startswith("/"),
    }
    for field, good in limits.items():
        if not good:
            raise AdvisorError("bad-option", f"Deployment {spec.name}: {field} cannot be {getattr(spec, field)!r}.")
