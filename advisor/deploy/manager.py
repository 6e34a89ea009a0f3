"""The deployments of this user: launching, listing, stopping, measuring.

An interrupt or a cancel before the server is ready ends what was started; afterwards the server runs on without us.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from advisor.deploy import health, keys, logs, ports, spawn, statefile, stopping
from advisor.deploy.observe import (
    Seen,
    deployment,
    mark_ready,
    observe,
)
from advisor.deploy.process_table import SHIM_MARK
from advisor.deploy.registry import Registry
from advisor.deploy.spec import (
    KEY_FILE,
    READY_FILE,
    RUN_FILE,
    SHIM_LOG,
    SPEC_FILE,
    STATUS_FILE,
    STOP_FILE,
    LaunchSpec,
    RunFile,
    check,
    now,
    valid_name,
)
from advisor.errors import AdvisorError
from advisor.events import Cancel, Event, Reporter, safely
from advisor.facts.results import Deployment
from advisor.facts.text import clean

_SHIM_START_S: Final = 30.0
_LOCK_EXTRA_S: Final = 60.0
_LOG_TAIL: Final = 40
_PORT_TROUBLE: Final = re.compile(
    r"address already in use|EADDRINUSE|couldn't bind|could not bind|failed to bind", re.I
)


class Deployments(Registry):
    """The deployments below ``root``: launching, ending and everything a ``Registry`` can look at."""

    def key_file(self, name: str) -> Path:
        """The file with the deployment's key, made with a new random key where there is none.

        Raises:
            AdvisorError: ``bad-option``, ``not-writable``, ``state-unreadable``.
        """
        if not valid_name(name):
            raise AdvisorError("bad-option", f"{clean(name, 80)!r} cannot name a deployment.", hint="advisor status")
        self._own_folder(name)
        return keys.make(self.folder(name) / KEY_FILE)

    def spoken_for(self) -> set[int]:
        """Ports of deployments that run or are about to."""
        return {d.port for d in self.list() if d.state not in ("stopped", "failed", "lost")}

    def check_name(self, name: str, plan_id: str) -> None:
        """Refuse where the deployment ``name`` runs another plan: found here before long work, not after it.

        Raises:
            AdvisorError: ``name-taken``; ``state-unreadable``.
        """
        try:
            old = self._spec(name)
        except AdvisorError as e:
            if e.code == "deployment-not-found":
                return
            raise
        if old.plan_id != plan_id and self._look(old).active:
            raise _taken(old)

    # -- launching ---------------------------------------------------------------------------------------------------

    def _own_folder(self, name: str) -> Path:
        folder = self.folder(name)
        statefile.make_folder(folder)
        try:
            statefile.check_folder(folder)
        except statefile.Untrusted as e:
            raise AdvisorError(
                "state-unreadable", f"The folder {folder} is not used: {e}.", hint="advisor paths"
            ) from e
        return folder

    def launch(
        self,
        spec: LaunchSpec,
        *,
        ready: health.Ready | None = None,
        reporter: Reporter | None = None,
        cancel: Cancel | None = None,
        at_port: Callable[[int], LaunchSpec] | None = None,
        provider: str | None = None,
    ) -> Deployment:
        """Start a server under its supervisor and wait until it is ready; a ready one of the same plan is reused.

        ``provider``: the only one that will do, as the user asked; what runs by another one is in the way.
        ``at_port`` builds the specification anew for another port: used once where the port was lost to somebody
        else between choosing and binding, and the user did not name it.

        Raises:
            AdvisorError: ``bad-option``, ``exposed-without-key``, ``name-taken``, ``port-taken``, ``busy``,
                ``server-failed``, ``server-timeout``, ``state-unreadable``, ``interrupted``.
        """
        check(spec)
        report, cancel = safely(reporter), cancel or Cancel()
        ready = ready or self._ready_of(spec.runtime)
        keys.for_spec(spec)
        busy = f"Another advisor has been launching {spec.name} for long and has not finished."
        with self._lock(spec.name).held(spec.ready_timeout_s + _LOCK_EXTRA_S, cancel, busy):
            folder = self._own_folder(spec.name)
            (folder / STOP_FILE).unlink(missing_ok=True)
            reused = self._reuse(spec, ready, report, cancel, provider)
            if reused is not None:
                return reused
            return self._launch(spec, ready, report, cancel, at_port)

    def _reuse(
        self, spec: LaunchSpec, ready: health.Ready, report: Reporter, cancel: Cancel, provider: str | None
    ) -> Deployment | None:
        """What runs already under the name: the same plan is taken over, another one is in the way."""
        folder = self.folder(spec.name)
        if not (folder / SPEC_FILE).is_symlink() and not (folder / SPEC_FILE).exists():
            return None
        old = self._spec(spec.name)
        seen = self._look(old, launching=False, ready=ready)
        if seen.trouble is not None:
            raise AdvisorError(
                "state-unreadable",
                f"Deployment {spec.name} may still run, but {seen.trouble}; nothing is started over it.",
                context=(f"folder: {folder}",),
                hint=f"advisor up --name {spec.name}-2",
            )
        if not seen.active:
            stopping.stop(folder, seen)  # what a lost or failed one may have left behind
            return None
        if (old.plan_id, old.artifact, old.runtime) != (spec.plan_id, spec.artifact, spec.runtime):
            raise _taken(old)
        if provider is not None and old.provider != provider:
            raise AdvisorError(
                "name-taken",
                f"Deployment {spec.name} runs this plan with "
                f"{f'the provider {clean(old.provider, 40)}' if old.provider else 'a provider that was not recorded'}, "
                f"not with {provider}.",
                hint=f"advisor down {spec.name}",
                data={"name": spec.name, "plan_id": old.plan_id, "provider": old.provider},
            )
        if seen.state == "ready":
            report(Event(kind="step-reused", step="launch", message=f"{spec.name} runs already"))
            return deployment(folder, seen)
        if seen.state in ("starting", "loading"):  # its launcher was killed: wait in its place
            try:
                return self._await(old, ready, report, cancel, time.monotonic())
            except BaseException:
                self._end_quietly(old)
                raise
        stopping.stop(folder, seen)
        return None

    def _launch(
        self,
        spec: LaunchSpec,
        ready: health.Ready,
        report: Reporter,
        cancel: Cancel,
        at_port: Callable[[int], LaunchSpec] | None,
    ) -> Deployment:
        try:
            return self._start(spec, ready, report, cancel)
        except AdvisorError as e:
            if e.code not in ("server-failed", "port-taken") or spec.port_explicit or at_port is None:
                raise
            lost_port = e.code == "port-taken" or any(_PORT_TROUBLE.search(line) for line in e.context)
            if not lost_port and not ports.is_taken(spec.host, spec.port):
                raise
        avoid = self.spoken_for() | {spec.port}
        port = ports.choose(spec.host, min(spec.port + 1, ports.HIGHEST), explicit=False, avoid=avoid)
        report(Event(kind="warning", step="launch", message=f"port {spec.port} was taken meanwhile; using {port}"))
        moved = at_port(port)
        check(moved)
        keys.for_spec(moved)
        return self._start(moved, ready, report, cancel)

    def _start(self, spec: LaunchSpec, ready: health.Ready, report: Reporter, cancel: Cancel) -> Deployment:
        cancel.check()
        if ports.is_taken(spec.host, spec.port):
            raise AdvisorError(
                "port-taken",
                f"Port {spec.port} on {clean(spec.host, 80)} is in use.",
                hint=f"advisor up {spec.plan_id} --name {spec.name} "
                f"--port {ports.choose(spec.host, ports.USUAL, explicit=False, avoid=self.spoken_for())}",
                data={"port": spec.port, "host": spec.host},
            )
        folder = self._own_folder(spec.name)
        for old in (STATUS_FILE, READY_FILE, SHIM_LOG):
            (folder / old).unlink(missing_ok=True)
        run = RunFile(uuid=secrets.token_hex(16), launched_at=now())
        statefile.write(folder / RUN_FILE, run.dumps())
        statefile.write(folder / SPEC_FILE, spec.dumps())
        begun = time.monotonic()
        report(Event(kind="step-started", step="launch", message=f"starting {spec.name} on port {spec.port}"))
        try:
            spawn.start_shim(folder, {**spec.env, SHIM_MARK: run.uuid})
            return self._await(spec, ready, report, cancel, begun)
        except BaseException as e:  # an interrupt, too, ends what was started
            self._end_quietly(spec)
            if isinstance(e, (OSError, RuntimeError)):
                why = clean(str(e))
                raise AdvisorError("server-failed", f"The supervisor of {spec.name} cannot be run: {why}") from e
            raise

    def _await(
        self, spec: LaunchSpec, ready: health.Ready, report: Reporter, cancel: Cancel, begun: float
    ) -> Deployment:
        """Wait until the server is ready."""
        folder = self.folder(spec.name)
        while True:
            seen = self._observe(spec, ready)
            spent = time.monotonic() - begun
            if seen.state == "ready" and seen.server is not None:
                mark_ready(folder, seen.server, spent)
                # A server that ended between answer and mark is not started again: look once more.
                seen = self._observe(spec, ready)
                if seen.state == "ready":
                    report(Event(kind="step-finished", step="launch", message=f"{spec.name} is ready", seconds=spent))
                    return deployment(folder, seen)
            self._fail_if_over(spec, seen, spent)
            if (folder / STOP_FILE).exists():
                raise AdvisorError("interrupted", f"{spec.name} was stopped by another advisor while it started.")
            report(Event(kind="progress", step="launch", message=seen.state, done=spent, unit="s", seconds=spent))
            cancel.wait(spec.poll_s)
            cancel.check()

    def _observe(self, spec: LaunchSpec, ready: health.Ready) -> Seen:
        return observe(self.folder(spec.name), spec, ready_of=lambda _: ready, launching=lambda: True)

    def _fail_if_over(self, spec: LaunchSpec, seen: Seen, spent: float) -> None:
        """Raise what ended the wait, with the tail of the log."""
        hint = f"advisor logs {spec.name} -n 200"
        data: dict[str, object] = {"name": spec.name}
        if seen.state in ("failed", "lost", "stopped"):
            code, why = "server-failed", f"did not become ready: {clean(seen.reason or seen.state, 500)}"
            if seen.status is not None:
                data["backend_exit"] = seen.status.exit_code
                data["signal"] = seen.status.exit_signal
                data["likely_oom"] = seen.status.likely_oom
        elif seen.status is None and spent > _SHIM_START_S:
            code, why = "server-failed", f"has a supervisor that did not start within {_SHIM_START_S:g} s"
        elif spent > spec.ready_timeout_s:
            code, why = "server-timeout", f"was not ready within {spec.ready_timeout_s:g} s and was stopped"
            data["seconds"] = spec.ready_timeout_s
        else:
            return
        context = logs.tail(self.folder(spec.name), _LOG_TAIL, this_run=True) or logs.shim_errors(
            self.folder(spec.name), 10
        )
        raise AdvisorError(code, f"Deployment {spec.name} {why}.", context=context, hint=hint, data=data)

    def _end_quietly(self, spec: LaunchSpec) -> None:
        """End what a failed launch started; the launch's own error is the one to show."""
        with contextlib.suppress(AdvisorError):
            stopping.stop(self.folder(spec.name), self._look(spec, launching=True))

    # -- ending ------------------------------------------------------------------------------------------------------

    def stop(self, name: str, *, cancel: Cancel | None = None) -> Deployment:
        """End a deployment, also while another advisor launches it; does nothing where it does not run.

        Raises:
            AdvisorError: ``deployment-not-found``, ``state-unreadable``, ``busy``; ``server-failed`` where processes
                do not die.
        """
        spec = self._spec(name)
        with self._stop_lock(spec, cancel or Cancel()):
            return self._stop(name)

    @contextlib.contextmanager
    def _stop_lock(self, spec: LaunchSpec, cancel: Cancel) -> Iterator[None]:
        """Take the name's lock; whoever launches under it is asked to give up."""
        lock = self._lock(spec.name)
        until = time.monotonic() + spec.stop_grace_s + _LOCK_EXTRA_S
        while not lock.try_acquire():
            cancel.check()
            if time.monotonic() >= until:
                raise AdvisorError(
                    "busy",
                    f"Another advisor works on {spec.name} and does not let go.",
                    hint=f"advisor status {spec.name}",
                )
            with contextlib.suppress(OSError):
                (self.folder(spec.name) / STOP_FILE).touch(mode=0o600)
            cancel.wait(0.05)
        try:
            yield
        finally:
            lock.release()

    def _stop(self, name: str) -> Deployment:
        spec = self._spec(name)
        folder = self.folder(name)
        remark = stopping.stop(folder, self._look(spec, launching=False))
        (folder / STOP_FILE).unlink(missing_ok=True)
        now_is = deployment(folder, self._look(spec, launching=False))
        if remark is None:
            return now_is
        return msgspec.structs.replace(now_is, reason=remark)

    def restart(
        self,
        name: str,
        *,
        ready: health.Ready | None = None,
        reporter: Reporter | None = None,
        cancel: Cancel | None = None,
    ) -> Deployment:
        """End a deployment if it runs, and start it again from what it was started from.

        Raises:
            AdvisorError: as ``stop`` and ``launch``.
        """
        cancel = cancel or Cancel()
        spec = self._spec(name)
        keys.for_spec(spec)
        with self._stop_lock(spec, cancel):
            self._stop(name)
            spec = self._spec(name)
            return self._start(spec, ready or self._ready_of(spec.runtime), safely(reporter), cancel)

    def forget(self, name: str) -> None:
        """Remove the folder of a deployment that does not run, its logs included.

        Raises:
            AdvisorError: ``deployment-not-found``, ``state-unreadable``; ``busy`` where it runs.
        """
        spec = self._spec(name)
        with self._lock(name).held(5.0, Cancel(), f"Another advisor works on {name}."):
            seen = self._look(spec, launching=False)
            if seen.active:
                raise AdvisorError("busy", f"Deployment {name} is {seen.state}.", hint=f"advisor down {name}")
            stopping.stop(self.folder(name), seen)
            try:
                shutil.rmtree(self.folder(name))
            except OSError as e:
                raise statefile.unwritable(self.folder(name), e) from e


def _taken(old: LaunchSpec) -> AdvisorError:
    """Another plan is in the way under the name."""
    return AdvisorError(
        "name-taken",
        f"Deployment {old.name} runs another plan ({clean(old.plan_id, 40)}, which serves {clean(old.model, 80)}).",
        context=(f"to run beside it, give this one a name of its own: --name {old.name}-2",),
        hint=f"advisor down {old.name}",
        data={"name": old.name, "plan_id": old.plan_id},
    )
