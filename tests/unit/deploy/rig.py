"""A set of deployments in a folder of their own, run with the fake server, and cleaned up whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from advisor.deploy import ports
from advisor.deploy.manager import Deployments
from advisor.deploy.observe import read_status
from advisor.deploy.process_table import SERVER_MARK, SHIM_MARK, marked, process
from advisor.deploy.spec import LaunchSpec, StatusFile

FAKE = Path(__file__).resolve().parents[2] / "support" / "fake_server.py"


def alive(pid: int) -> bool:
    """Whether the process lives; a zombie does not."""
    found = process(pid)
    return found is not None and found.alive


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """Poll until the condition holds and return its value."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.02)
    return value


class Rig:
    """``spec`` builds a specification for the fake server; extra words are its options."""

    def __init__(self, root: Path, *, first_port: int | None = None) -> None:
        self.root = root
        self.deployments = Deployments(root)
        self._next = first_port if first_port is not None else 20000 + os.getpid() % 20000

    def port(self) -> int:
        chosen = ports.choose("127.0.0.1", self._next, explicit=False)
        self._next = chosen + 1
        return chosen

    def spec(self, *options: str, **fields: Any) -> LaunchSpec:
        port = fields.pop("port", None) or self.port()
        host = fields.get("host", "127.0.0.1")
        values: dict[str, Any] = {
            "name": "one",
            "plan_id": "p-1",
            "model": "fake",
            "artifact": "/models/fake.gguf",
            "runtime": "llama.cpp",
            "argv": (sys.executable, "-I", "-S", str(FAKE), "--host", host, "--port", str(port), *options),
            "env": {"PATH": os.defpath},
            "port": port,
            "ready_timeout_s": 20.0,
            "poll_s": 0.02,
            "backoff_s": 0.02,
            "backoff_max_s": 0.1,
            "stop_grace_s": 2.0,
            "health_timeout_s": 2.0,
        }
        return LaunchSpec(**{**values, **fields})

    def folder(self, name: str = "one") -> Path:
        return self.root / name

    def status(self, name: str = "one") -> StatusFile:
        found = read_status(self.folder(name))
        assert found is not None
        return found

    def edit_status(self, name: str = "one", **changes: Any) -> None:
        edited = msgspec.structs.replace(self.status(name), **changes)
        (self.folder(name) / "status.json").write_bytes(edited.dumps())

    def state(self, name: str = "one") -> str:
        return self.deployments.get(name).state

    def processes(self) -> list[int]:
        """All living supervisors and servers of this root."""
        found = []
        for run in self.root.glob("*/run.json"):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                uuid = msgspec.json.decode(run.read_bytes())["uuid"]
                found += [p.pid for mark in (SHIM_MARK, SERVER_MARK) for p in marked(mark, uuid)]
        return found

    def clean_up(self) -> None:
        for _ in range(3):
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
