"""Looking at deployments: which there are, how they are, what they log and how much memory they take."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from advisor.deploy import health, statefile
from advisor.deploy import logs as log_files
from advisor.deploy.identity import members
from advisor.deploy.memory import Sampler, peak, resident
from advisor.deploy.observe import (
    ReadyOf,
    Seen,
    deployment,
    is_running,
    mark_ready,
    observe,
    read_ready,
    read_spec,
    read_status,
    server_identity,
)
from advisor.deploy.spec import LaunchSpec, valid_name
from advisor.errors import AdvisorError, did_you_mean
from advisor.events import Cancel
from advisor.facts.plan import Warning_
from advisor.facts.quantity import Quantity, exact
from advisor.facts.results import Deployment
from advisor.facts.text import clean


class Survey(NamedTuple):
    """All deployments, and a warning for each folder that cannot be trusted or read."""

    deployments: tuple[Deployment, ...]
    warnings: tuple[Warning_, ...]


def nearly_full(d: Deployment) -> Warning_ | None:
    """A warning where the memory that a deployment lives in is nearly used up."""
    if d.memory is None or not d.memory.near:
        return None
    share = 100 * d.memory.bytes / max(1, d.memory.limit_bytes)
    message = (
        f"{d.name}: {d.memory.where} is nearly used up: {d.memory.bytes / 2**20:.0f} of "
        f"{d.memory.limit_bytes / 2**20:.0f} MiB ({share:.0f} %)."
    )
    return Warning_(code="memory-nearly-full", message=message)


def _any_runtime(runtime: str) -> health.Ready:
    return health.status_ok


class Registry:
    """The deployments below ``root``, one folder each, as they are now: nothing here starts or ends a process.

    ``ready_of`` gives, for a runtime's name, the function that reads its health reply; by default HTTP 200 is ready.
    """

    def __init__(self, root: Path, *, ready_of: ReadyOf | None = None) -> None:
        self.root = root.absolute()
        self._ready_of = ready_of or _any_runtime

    def folder(self, name: str) -> Path:
        """Where a deployment's files lie.

        Raises:
            AdvisorError: ``deployment-not-found`` for what cannot be a name.
        """
        if not valid_name(name):
            raise self._not_found(name)
        return self.root / name

    def _lock(self, name: str) -> statefile.Lock:
        return statefile.Lock(self.root / ".locks" / f"{name}.lock")

    def names(self) -> builtins.list[str]:
        """Names of all deployment folders, sorted."""
        try:
            return sorted(p.name for p in self.root.iterdir() if valid_name(p.name) and (p.is_dir() or p.is_symlink()))
        except FileNotFoundError:
            return []
        except OSError as e:
            raise AdvisorError("state-unreadable", f"{self.root} cannot be read: {e.strerror}.") from e

    def _not_found(self, name: str) -> AdvisorError:
        shown = clean(name, 80)
        return AdvisorError(
            "deployment-not-found",
            f"There is no deployment {shown!r}.{did_you_mean(shown, self.names())}",
            hint="advisor status",
        )

    def _spec(self, name: str) -> LaunchSpec:
        folder = self.folder(name)
        try:
            return read_spec(folder)
        except FileNotFoundError:
            raise self._not_found(name) from None
        except statefile.Untrusted as e:
            raise AdvisorError(
                "state-unreadable",
                f"Deployment {name} is not touched: {e}.",
                context=(f"folder: {folder}",),
                hint="advisor status",
                data={"folder": str(folder)},
            ) from e

    def _look(self, spec: LaunchSpec, *, launching: bool | None = None, ready: health.Ready | None = None) -> Seen:
        folder = self.folder(spec.name)

        def is_launching() -> bool:
            return not self._lock(spec.name).is_free if launching is None else launching

        seen = observe(folder, spec, ready_of=(lambda _: ready) if ready else self._ready_of, launching=is_launching)
        if seen.state == "ready" and seen.server is not None and read_ready(folder, seen.server) is None:
            mark_ready(folder, seen.server, None)
        return seen

    def get(self, name: str) -> Deployment:
        """One deployment as it is now.

        Raises:
            AdvisorError: ``deployment-not-found``; ``state-unreadable`` where not even its specification is to be had.
        """
        return deployment(self.folder(name), self._look(self._spec(name)))

    def spec(self, name: str) -> LaunchSpec:
        """What a deployment was started from.

        Raises:
            AdvisorError: ``deployment-not-found`` or ``state-unreadable``.
        """
        return self._spec(name)

    def survey(self) -> Survey:
        """All deployments as they are now, by name, with a warning for what cannot be read."""
        found: builtins.list[Deployment] = []
        warnings: builtins.list[Warning_] = []
        for name in self.names():
            try:
                found.append(self.get(name))
                if (warning := nearly_full(found[-1])) is not None:
                    warnings.append(warning)
            except AdvisorError as e:
                if e.code != "deployment-not-found":  # a folder without a specification: a key, or a launch cut short
                    warnings.append(Warning_(code=e.code, message=e.message))
        return Survey(tuple(found), tuple(warnings))

    def list(self) -> tuple[Deployment, ...]:
        """All deployments that can be read, by name."""
        return self.survey().deployments

    def find_plan(self, plan_id: str) -> Deployment | None:
        """The deployment of a plan; a ready one before others."""
        of_plan = [d for d in self.list() if d.plan_id == plan_id]
        return min(of_plan, key=lambda d: (d.state != "ready", d.name), default=None)

    def start_seconds(self, name: str) -> Quantity | None:
        """Seconds from launch to the first readiness of the server that runs now; ``None`` where nobody waited.

        Raises:
            AdvisorError: ``deployment-not-found`` or ``state-unreadable``.
        """
        seen = self._look(self._spec(name))
        mark = read_ready(self.folder(name), seen.server) if seen.server else None
        if mark is None or mark.seconds is None:
            return None
        return exact(mark.seconds, "s", "own clock, from launch to the first ready health reply", "measured")

    # -- logs and memory ---------------------------------------------------------------------------------------------

    def logs(self, name: str, n: int = 100) -> tuple[str, ...]:
        """The last ``n`` lines of the server's output, oldest first, safe to show.

        Raises:
            AdvisorError: ``deployment-not-found`` or ``state-unreadable``.
        """
        self._spec(name)
        return log_files.tail(self.folder(name), n)

    def run_log(self, name: str, n: int = 100) -> tuple[str, ...]:
        """As ``logs``, of the last launch alone.

        Raises:
            AdvisorError: ``deployment-not-found`` or ``state-unreadable``.
        """
        self._spec(name)
        return log_files.tail(self.folder(name), n, this_run=True)

    def follow(self, name: str, *, cancel: Cancel | None = None, poll_s: float = 0.25, lines: int = 0) -> Iterator[str]:
        """The last ``lines`` lines, then new ones as they come, until cancelled or until the deployment has ended and
        all is read.

        Raises:
            AdvisorError: ``deployment-not-found`` or ``state-unreadable``.
        """
        spec = self._spec(name)
        folder = self.folder(name)

        def going_on() -> bool:
            # Not the endpoint: a busy server is asked nothing for the sake of its log.
            return is_running(folder, launching=lambda: not self._lock(spec.name).is_free)

        return log_files.follow(folder, cancel or Cancel(), going_on, poll_s=poll_s, lines=lines)

    def pids(self, name: str) -> tuple[int, ...]:
        """Pids of the server and all that it started, where they certainly are; empty where none run.

        Raises:
            AdvisorError: ``deployment-not-found`` or ``state-unreadable``.
        """
        self._spec(name)
        try:
            status = read_status(self.folder(name))
        except statefile.Untrusted:
            return ()
        if status is None:
            return ()
        return tuple(members(status.uuid, status.boot_id, server_identity(status)))

    def memory(self, name: str) -> Quantity | None:
        """Bytes of host memory that the server's processes take now; ``None`` where none run or none can be read.

        Raises:
            AdvisorError: ``deployment-not-found`` or ``state-unreadable``.
        """
        return resident(self.pids(name))

    def memory_peak(self, name: str) -> Quantity | None:
        """Bytes of host memory at most since the processes began, as the system counts it: an upper bound.

        Raises:
            AdvisorError: ``deployment-not-found`` or ``state-unreadable``.
        """
        return peak(self.pids(name))

    def sample_memory(self, name: str, *, interval_s: float = 0.2) -> Sampler:
        """A context manager: ``with d.sample_memory(name) as s: ...``, then ``s.peak`` is the largest sample.

        Raises:
            AdvisorError: ``deployment-not-found`` or ``state-unreadable``.
        """
        self._spec(name)

        def sample() -> Quantity | None:
            return resident(self.pids(name))

        return Sampler(sample, interval_s)
