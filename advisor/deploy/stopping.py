"""Ending a deployment: by its supervisor where there is one, else by the identity of each process."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

import msgspec

from advisor.deploy import ports, statefile
from advisor.deploy.identity import identify, look, members, send
from advisor.deploy.observe import Seen, read_status, server_identity, shim_identity
from advisor.deploy.process_table import SERVER_MARK, SHIM_MARK, boot_id, marked
from advisor.deploy.spec import FINAL_PHASES, RUN_FILE, STATUS_FILE, LaunchSpec, RunFile, StatusFile, now
from advisor.errors import AdvisorError

_POLL_S = 0.05
_SHIM_EXTRA_S = 15.0
_KILL_WAIT_S = 10.0


def _living(status: StatusFile) -> list[int]:
    return members(status.uuid, status.boot_id, server_identity(status))


def _signal_all(status: StatusFile, number: int) -> None:
    for pid in _living(status):
        who = identify(pid, SERVER_MARK, status.uuid, status.boot_id)
        if who is not None:
            send(who, number)
    # Of the group without the mark: only under a leader that is certainly ours.
    leader = server_identity(status)
    if leader is not None:
        send(leader, number)


def _end_by_identity(status: StatusFile, grace_s: float) -> None:
    """TERM, then KILL, for each process that is certainly the deployment's."""
    _signal_all(status, signal.SIGTERM)
    until = time.monotonic() + grace_s
    while _living(status) and time.monotonic() < until:
        time.sleep(_POLL_S)
    until = time.monotonic() + _KILL_WAIT_S
    while _living(status) and time.monotonic() < until:
        _signal_all(status, signal.SIGKILL)
        time.sleep(_POLL_S)


def stop(folder: Path, seen: Seen) -> str | None:
    """End all processes of a deployment and verify that they are gone; idempotent.

    Returns a remark worth showing (a stranger on the port), or ``None``.

    Raises:
        AdvisorError: ``state-unreadable``: the state cannot be trusted, nothing was signalled;
            ``server-failed``: processes that do not even die when killed, with their pids.
    """
    if seen.trouble is not None:
        raise AdvisorError(
            "state-unreadable",
            f"Deployment {seen.spec.name} is not touched: {seen.trouble}.",
            hint=f"advisor status {seen.spec.name}",
            data={"folder": str(folder)},
        )
    status = seen.status or _unborn(folder, seen.spec)
    if status is None:
        return None
    shim = shim_identity(status)
    if status.state not in FINAL_PHASES and look(shim) == "same":
        send(shim, signal.SIGTERM)
        until = time.monotonic() + seen.spec.stop_grace_s + _SHIM_EXTRA_S
        while look(shim) == "same" and time.monotonic() < until:
            time.sleep(_POLL_S)
        if look(shim) == "same":
            send(shim, signal.SIGKILL)
        with contextlib.suppress(statefile.Untrusted):  # what was trusted a moment ago names the right processes, too
            status = read_status(folder) or status
    if _living(status):
        _end_by_identity(status, seen.spec.stop_grace_s)
    left = _living(status)
    if left:
        raise AdvisorError(
            "server-failed",
            f"Deployment {seen.spec.name}: {len(left)} of its processes do not die, not even when killed: "
            f"{', '.join(map(str, left))}. A driver or a network disk holds them; so their memory is not free.",
            hint=f"ps -o pid,state,wchan:32,args -p {','.join(map(str, left))}",
            data={"pids": left},
        )
    _record(folder, seen, status)
    return _port_remark(seen.spec, seen)


def _unborn(folder: Path, spec: LaunchSpec) -> StatusFile | None:
    """Stop a supervisor that has not written its status yet, found by its mark; its status, if it wrote one."""
    try:
        run = statefile.read(folder / RUN_FILE, RunFile)
    except (FileNotFoundError, statefile.Untrusted):
        return None
    until = time.monotonic() + spec.stop_grace_s + _SHIM_EXTRA_S
    while (found := marked(SHIM_MARK, run.uuid)) and time.monotonic() < until:
        for p in found:
            who = identify(p.pid, SHIM_MARK, run.uuid, boot_id())
            if who is not None:
                send(who, signal.SIGTERM)
        time.sleep(_POLL_S)
    try:
        return read_status(folder)
    except statefile.Untrusted:
        return None


def _record(folder: Path, seen: Seen, status: StatusFile) -> None:
    """Write the end where the supervisor could not. What may run elsewhere, or cannot be identified, stays lost."""
    if status.state in FINAL_PHASES:
        return
    reason = "stopped as asked"
    if seen.shim is None and seen.server is None:
        if not _over(status):
            return
        reason = "it had ended without a record before it was stopped"
    moment = now()
    ended = msgspec.structs.replace(status, state="stopped", reason=reason, stopped_at=moment, updated_at=moment)
    statefile.write(folder / STATUS_FILE, ended.dumps())


def _over(status: StatusFile) -> bool:
    """Whether supervisor and server certainly ended in this boot of this machine."""
    there = (shim_identity(status), server_identity(status))
    return status.boot_id == boot_id() and all(who is None or look(who) in ("gone", "other") for who in there)


def _port_remark(spec: LaunchSpec, seen: Seen) -> str | None:
    if seen.server is None:
        return None
    host = ports.reachable_host(spec.host)
    until = time.monotonic() + 0.5
    while ports.accepts(host, spec.port):
        if time.monotonic() >= until:
            return f"its processes are gone, but somebody else answers on port {spec.port}"
        time.sleep(_POLL_S)
    return None
