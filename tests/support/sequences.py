"""Random sequences of launching, ending, restarting, looking and killing, and what must be true after each."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from advisor.deploy import ports
from advisor.deploy.process_table import SERVER_MARK, SHIM_MARK, marked
from advisor.errors import AdvisorError
from advisor.events import Cancel
from tests.unit.deploy.rig import Rig, wait_for

NAMES: Final = ("one", "two")
LENGTH: Final = 8
# Codes that an operation on a deployment in any state may end with; anything else is a fault.
EXPECTED: Final = frozenset(
    {"deployment-not-found", "server-failed", "server-timeout", "busy", "name-taken", "interrupted", "port-taken",
     "not-running"}
)  # fmt: skip


class Sequence:
    """One run of random operations over deployments of the fake server. ``log`` says what was done."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig, self.rng, self.log = rig, random.Random(seed), [f"seed {seed}"]
        self.uuids: set[str] = set()
        self.ports: set[int] = set()
        self.wanted = {name: rig.port() for name in NAMES}

    def run(self, length: int = LENGTH) -> None:
        """Do it, end everything, and check.

        Raises:
            AssertionError: something was left, a state was wrong, or an operation ended in another way than it may.
        """
        steps: tuple[Callable[[str], None], ...] = (
            *(self.up,) * 3, self.down, self.restart, self.kill_server, self.kill_shim, self.look, self.two_at_once,
            self.cancelled,
        )  # fmt: skip
        for _ in range(length):
            name = self.rng.choice(NAMES)
            step = self.rng.choice(steps)
            self.log.append(f"{step.__name__} {name}")
            with self.allowed():
                step(name)
            self._remember()
        for name in NAMES:
            self.log.append(f"down {name}")
            with self.allowed():
                self.rig.deployments.stop(name)
        self.check()

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """An operation may succeed or end in a known way."""
        try:
            yield
        except AdvisorError as e:
            assert e.code in EXPECTED, (self.log, e.code, e.message)
            self.log[-1] += f" ({e.code})"

    def check(self) -> None:
        """Nothing runs, listens or is half there."""
        for uuid in self.uuids:
            for mark in (SHIM_MARK, SERVER_MARK):
                wait_for(lambda m=mark, u=uuid: not marked(m, u), f"the end of all processes after {self.log}")
        assert [p for p in self.ports if ports.is_taken("127.0.0.1", p)] == [], self.log
        assert [str(p) for p in self.rig.root.rglob(".*.*") if p.is_file() and ".lock" not in p.name] == [], self.log
        for d in self.rig.deployments.list():
            assert d.state in ("stopped", "failed", "lost"), (self.log, d)

    def _remember(self) -> None:
        import msgspec

        for run in self.rig.root.glob("*/run.json"):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                self.uuids.add(msgspec.json.decode(run.read_bytes())["uuid"])
        self.ports |= {d.port for d in self.rig.deployments.list()}

    # -- operations --------------------------------------------------------------------------------------------------

    def up(self, name: str) -> None:
        """Launch; sometimes a server that takes a moment, never gets ready, or dies at once."""
        options = self.rng.choice(((), (), (), ("--ready-after", "0.2"), ("--exit", "3"), ("--hang-on-term",)))
        spec = self.rig.spec(*options, name=name, port=self.wanted[name], stop_grace_s=0.2, ready_timeout_s=10.0)
        self.rig.deployments.launch(spec)
        assert self.rig.deployments.get(name).state == "ready", self.log

    def down(self, name: str) -> None:
        """End it; afterwards it does not run."""
        assert self.rig.deployments.stop(name).state in ("stopped", "failed", "lost"), self.log

    def restart(self, name: str) -> None:
        """End it and start it again."""
        self.rig.deployments.restart(name)

    def kill_server(self, name: str) -> None:
        """Kill the server at a random moment."""
        self._kill(name, "pid")

    def kill_shim(self, name: str) -> None:
        """Kill the supervisor."""
        self._kill(name, "shim_pid")

    def look(self, name: str) -> None:
        """Observing never fails and never changes anything."""
        self.rig.deployments.survey()

    def two_at_once(self, name: str) -> None:
        """Launch and end the same deployment from two threads: who is faster is open, what it ends with is not."""
        ended: list[BaseException] = []

        def end() -> None:
            try:
                with self.allowed():
                    self.rig.deployments.stop(name)
            except BaseException as e:
                ended.append(e)

        other = threading.Thread(target=end)
        other.start()
        try:
            with self.allowed():
                self.rig.deployments.launch(self.rig.spec(name=name, port=self.wanted[name], stop_grace_s=0.2))
        finally:
            other.join()
        assert ended == [], (self.log, ended)

    def cancelled(self, name: str) -> None:
        """Launch, and cancel while it starts."""
        cancel = Cancel()
        timer = threading.Timer(self.rng.random() * 0.3, cancel.set)
        timer.start()
        try:
            spec = self.rig.spec("--ready-after", "0.3", name=name, port=self.wanted[name], stop_grace_s=0.2)
            self.rig.deployments.launch(spec, cancel=cancel)
        finally:
            timer.join()

    def _kill(self, name: str, which: str) -> None:
        status = Path(self.rig.folder(name), "status.json")
        if not status.is_file():
            return
        time.sleep(self.rng.random() * 0.05)
        pid = getattr(self.rig.status(name), which)
        alive = {p.pid for uuid in self.uuids for mark in (SHIM_MARK, SERVER_MARK) for p in marked(mark, uuid)}
        if pid in alive:  # nobody else's
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
