"""What a supervisor does when its server ran out of memory while it served: the next step of the ladder, as configured.

The steps were found by planning when the deployment was launched and need nothing but another command line for the
same artifact. Standard library only: the supervisor loads this file without the package.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING or __package__:
    from advisor.deploy.log_pipe import now
else:
    from log_pipe import now

HISTORY_FILE: Final = "recovery.json"
_ENTRIES: Final = 50
_TAIL: Final = 64 << 10
_ESCAPES: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[^\x20-\x7e]")


def write_json(path: Path, value: object) -> None:
    """Replace a file as a whole.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as f:
        f.write(json.dumps(value).encode())
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(path)


def add_history(folder: Path, entry: dict[str, Any]) -> None:
    """Append to the deployment's history; what cannot be read of an earlier one gives way."""
    path = folder / HISTORY_FILE
    entries: list[Any] = []
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        entries = list(json.loads(path.read_bytes())["entries"])
    with contextlib.suppress(OSError):
        write_json(path, {"version": 1, "entries": [*entries, entry][-_ENTRIES:]})


class Lowering:
    """The steps of one deployment. ``deaths``: times that memory ran out since the last step."""

    def __init__(self, folder: Path, spec: dict[str, Any]) -> None:
        self.folder, self.spec = folder, spec
        self.deaths = 0
        self.patterns = [re.compile(p, re.IGNORECASE) for p in spec.get("oom_patterns", ())]

    def evidence(self, kills: int, killed: bool) -> list[str]:
        """Why the end of the server is taken for lack of memory; empty where it is not."""
        found = []
        if kills and killed:
            found.append(f"the kernel counted {kills} kill(s) for memory while the server ran")
        for line in self._tail():
            if len(found) < 5 and any(p.search(line) for p in self.patterns):
                found.append(_ESCAPES.sub("", line)[:240])
        return found

    def _tail(self) -> list[str]:
        """Lines of the server's own output in the last 64 KiB of the log, after its last start."""
        with contextlib.suppress(OSError), (self.folder / "server.log").open("rb") as f:
            f.seek(0, os.SEEK_END)
            f.seek(max(0, f.tell() - _TAIL))
            lines = f.read().decode(errors="replace").splitlines()
            starts = [i for i, line in enumerate(lines) if line.startswith("[advisor ") and "server started" in line]
            return [x for x in lines[starts[-1] + 1 if starts else 0 :] if not x.startswith("[advisor")]
        return []

    def _missing(self, limit: int | None, peak: int | None) -> int:
        """Bytes that the server wanted beyond its limit, as far as its peak shows: the first step that frees more is
        taken, and the largest where none does."""
        return max(0, (peak or 0) - limit) if limit is not None else 0

    def next_step(self, limit: int | None, peak: int | None) -> dict[str, Any] | None:
        """The step that would be taken now."""
        steps = self.spec.get("fallbacks") or []
        missing = self._missing(limit, peak)
        enough = [s for s in steps if (s.get("frees_bytes") or 0) > missing]
        return enough[0] if enough else steps[-1] if steps else None

    def decide(
        self, evidence: list[str], status: dict[str, Any], limit: int | None, peak: int | None
    ) -> tuple[str, str | None]:
        """What to do: ``("restart", None)``, ``("lowered", words)`` or ``("stop", words)``.

        ``auto`` takes the next step at once. ``ask`` and ``never`` start the server again as it was, once; when memory
        runs out again they stop, and the words say what the next step would be.
        """
        self.deaths += 1
        mode = self.spec.get("recover") or "ask"
        step = self.next_step(limit, peak)
        if mode == "auto" and step is not None:
            self._take(step, evidence, status, limit, peak)
            self.deaths = 0
            return "lowered", f"{step['change']} (given up: {step['given_up']})"
        if self.deaths < 2:
            return "restart", None
        if step is None:
            return "stop", f"no step is left that would free memory; plan again: advisor up --name {self.spec['name']}"
        command = f"advisor up {step['plan_id']} --name {self.spec['name']}"
        if mode != "never":
            self._record("proposed", step, evidence, status, limit, peak)
        return "stop", f"next step: {step['change']} (given up: {step['given_up']}): {command}"

    def _take(
        self, step: dict[str, Any], evidence: list[str], status: dict[str, Any], limit: int | None, peak: int | None
    ) -> None:
        steps = self.spec["fallbacks"]
        later = [s for s in steps if (s.get("frees_bytes") or 0) > (step.get("frees_bytes") or 0)]
        self._record("taken", step, evidence, status, limit, peak)
        self.spec.update(argv=step["argv"], env=step["env"], plan_id=step["plan_id"], fallbacks=later)
        with contextlib.suppress(OSError):  # the running supervisor knows; what is written serves a later restart
            write_json(self.folder / "spec.json", self.spec)

    def _record(
        self, outcome: str, step: dict[str, Any], evidence: list[str], status: dict[str, Any], limit: int | None,
        peak: int | None,
    ) -> None:  # fmt: skip
        diagnosis = {
            "cause": "out-of-memory",
            "code": "oom-kill" if status.get("oom_kills") else "out-of-memory",
            "when": "traffic",
            "device": step.get("device") or "host",
            "message": "Memory ran out while the server was serving.",
            "evidence": evidence,
            "had_bytes": peak,
            "limit_bytes": limit,
            "oom_kills": status.get("oom_kills") or 0,
            "exit_code": status.get("exit_code"),
            "exit_signal": status.get("exit_signal"),
        }
        entry = {
            "at": now(),
            "outcome": outcome,
            "diagnosis": diagnosis,
            "from_plan": self.spec["plan_id"],
            "to_plan": step["plan_id"],
            "change": step["change"],
            "given_up": step["given_up"],
            "frees_bytes": step.get("frees_bytes"),
            "missing_bytes": self._missing(limit, peak) or None,
        }
        add_history(self.folder, entry)
