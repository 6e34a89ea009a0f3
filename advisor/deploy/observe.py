"""What is really there: a deployment's state from its files, its processes and its endpoint, believing none alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from advisor.deploy import health, history, keys, ports, statefile, watch
from advisor.deploy.identity import Identity, Look, age_s, look, members
from advisor.deploy.process_table import SERVER_MARK, SHIM_MARK, boot_id
from advisor.deploy.spec import (
    FINAL_PHASES,
    READY_FILE,
    RUN_FILE,
    SERVER_LOG,
    SPEC_FILE,
    STATUS_FILE,
    LaunchSpec,
    ReadyFile,
    RunFile,
    StatusFile,
    now,
)
from advisor.errors import AdvisorError
from advisor.facts.recovery import MemoryWatch
from advisor.facts.results import Deployment
from advisor.facts.words import DeploymentState
from advisor.probes import group_memory

ACTIVE: frozenset[DeploymentState] = frozenset({"starting", "loading", "ready", "unhealthy", "stopping"})
ReadyOf = Callable[[str], health.Ready]


class Seen(NamedTuple):
    """One look at a deployment. ``shim`` and ``server`` are set where those are alive and certainly ours."""

    spec: LaunchSpec
    status: StatusFile | None
    state: DeploymentState
    reason: str | None
    shim: Identity | None
    server: Identity | None
    trouble: str | None = None

    @property
    def active(self) -> bool:
        """Whether processes of it run or are about to."""
        return self.state in ACTIVE


def shim_identity(status: StatusFile) -> Identity:
    """The supervisor as the status file names it."""
    return Identity(status.boot_id, status.shim_pid, status.shim_start, SHIM_MARK, status.uuid)


def server_identity(status: StatusFile) -> Identity | None:
    """The server as the status file names it."""
    if status.pid is None or status.pid_start is None:
        return None
    return Identity(status.boot_id, status.pid, status.pid_start, SERVER_MARK, status.uuid)


def read_status(folder: Path) -> StatusFile | None:
    """The status file, if it belongs to the launch that ``run.json`` names; ``None`` where there is none yet.

    Raises:
        statefile.Untrusted: one of both cannot be trusted.
    """
    try:
        status = statefile.read(folder / STATUS_FILE, StatusFile)
    except FileNotFoundError:
        return None
    if status.version != 1:
        raise statefile.Untrusted(f"{STATUS_FILE} has version {status.version}, not 1")
    try:
        run = statefile.read(folder / RUN_FILE, RunFile)
    except FileNotFoundError:
        raise statefile.Untrusted(f"{RUN_FILE} is missing") from None
    if run.uuid != status.uuid:
        raise statefile.Untrusted(f"{STATUS_FILE} is of another launch than {RUN_FILE}")
    return status


def read_spec(folder: Path) -> LaunchSpec:
    """The specification in a state folder.

    Raises:
        statefile.Untrusted: the folder or the file cannot be trusted.
        FileNotFoundError: there is none.
    """
    statefile.check_folder(folder)
    spec = statefile.read(folder / SPEC_FILE, LaunchSpec)
    if spec.name != folder.name:
        raise statefile.Untrusted(f"{SPEC_FILE} is of deployment {spec.name!r}, not {folder.name!r}")
    return spec


def read_ready(folder: Path, server: Identity) -> ReadyFile | None:
    """The mark that this very server process was ready before."""
    try:
        found = statefile.read(folder / READY_FILE, ReadyFile)
    except (FileNotFoundError, statefile.Untrusted):
        return None
    return found if (found.pid, found.pid_start) == (server.pid, server.start) else None


def mark_ready(folder: Path, server: Identity, seconds: float | None) -> None:
    """Note that this server process is ready, once."""
    if read_ready(folder, server) is None:
        mark = ReadyFile(pid=server.pid, pid_start=server.start, seconds=seconds, ready_at=now())
        statefile.write(folder / READY_FILE, mark.dumps())


def ask(spec: LaunchSpec, server: Identity, ready: health.Ready) -> health.Health:
    """Ask the endpoint, and make sure that it is this server which answers."""
    try:
        key = keys.for_spec(spec)
    except AdvisorError as e:
        return health.Health(False, e.message)
    address = ports.url(spec.host, spec.port) + spec.health_path
    answer = health.check(address, ready, timeout_s=spec.health_timeout_s, api_key=key)
    if answer.ready and ports.listens(members(server.uuid, server.boot_id, server), spec.port) is False:
        return health.Health(False, f"another process answers on port {spec.port}")
    return answer


def _age_s(status: StatusFile, server: Identity) -> float:
    """Seconds since the server was started; by the time of day only where there is no steady clock to ask."""
    age = age_s(server)
    if age is not None:
        return age
    try:
        started = datetime.fromisoformat(status.started_at or "")
        return max(0.0, (datetime.now(UTC) - started).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _gone(status: StatusFile, shim: Look, server: Look | None) -> str:
    if status.boot_id != boot_id():
        return "it ran on another machine or before this machine was started anew"
    if "other" in (shim, server):
        return "its process id belongs to another process now, which is left alone"
    if "unknown" in (shim, server):
        return "its process cannot be identified and is left alone"
    return "its supervisor and its server are gone without a record"


def observe(folder: Path, spec: LaunchSpec, *, ready_of: ReadyOf, launching: Callable[[], bool]) -> Seen:
    """Look at one deployment. ``launching`` says whether an advisor holds its lock now."""
    try:
        status = read_status(folder)
    except statefile.Untrusted as e:
        return Seen(spec, None, "lost", f"its state cannot be trusted: {e}", None, None, str(e))
    if status is None:
        if launching():
            return Seen(spec, None, "starting", None, None, None)
        return Seen(spec, None, "failed", "it was interrupted before its supervisor started", None, None)
    if status.state in FINAL_PHASES:
        final: DeploymentState = "stopped" if status.state == "stopped" else "failed"
        return Seen(spec, status, final, status.reason, None, None)
    shim = shim_identity(status)
    shim_look = look(shim)
    server = server_identity(status)
    server_look = look(server) if server is not None else None
    live_shim = shim if shim_look == "same" else None
    if server is None or server_look != "same":
        if live_shim is None:
            return Seen(spec, status, "lost", _gone(status, shim_look, server_look), None, None)
        state: DeploymentState = "stopping" if status.state == "stopping" else "starting"
        return Seen(spec, status, state, status.reason, live_shim, None)
    orphan = None if live_shim else "its supervisor is gone: the server runs on, but is not started again if it ends"
    if status.state == "stopping" and live_shim:
        return Seen(spec, status, "stopping", None, live_shim, server)
    answer = ask(spec, server, ready_of(spec.runtime))
    if answer.ready:
        return Seen(spec, status, "ready", orphan, live_shim, server)
    was_ready = read_ready(folder, server) is not None
    if not was_ready and _age_s(status, server) < spec.ready_timeout_s:
        return Seen(spec, status, "loading", orphan, live_shim, server)
    why = answer.detail if was_ready else f"not ready after {spec.ready_timeout_s:g} s: {answer.detail}"
    return Seen(spec, status, "unhealthy", f"{why}; {orphan}" if orphan else why, live_shim, server)


def is_running(folder: Path, *, launching: Callable[[], bool]) -> bool:
    """Whether the deployment has processes or is about to, without asking its endpoint."""
    try:
        status = read_status(folder)
    except statefile.Untrusted:
        return False
    if status is None:
        return launching()
    if status.state in FINAL_PHASES:
        return False
    server = server_identity(status)
    return look(shim_identity(status)) == "same" or (server is not None and look(server) == "same")


def deployment(folder: Path, seen: Seen) -> Deployment:
    """The public shape of a look."""
    url = ports.url(seen.spec.host, seen.spec.port)
    return Deployment(
        name=seen.spec.name,
        state=seen.state,
        url=url,
        openai_base_url=f"{url}/v1",
        model=seen.spec.model,
        pid=seen.server.pid if seen.server else None,
        port=seen.spec.port,
        runtime=seen.spec.runtime,
        artifact=seen.spec.artifact,
        plan_id=seen.spec.plan_id,
        started_at=seen.status.started_at if seen.status else None,
        restarts=seen.status.restarts if seen.status else 0,
        reason=seen.reason,
        log=str(folder / SERVER_LOG),
        api_key_file=seen.spec.api_key_file,
        provider=seen.spec.provider,
        recovered=history.steps_to(folder, seen.spec.plan_id),
        memory=memory_of(seen),
    )


def memory_of(seen: Seen) -> MemoryWatch | None:
    """What the supervisor found nearly full; else the memory of which the largest share is used now."""
    if seen.server is None:
        return None
    if seen.status is not None and seen.status.memory is not None and seen.shim is not None:
        return seen.status.memory
    level = group_memory.nearest(seen.server.pid)
    if level is None:
        return None
    return MemoryWatch(**watch.seen(level, near=level.share >= watch.NEAR))
