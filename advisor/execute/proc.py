"""The one place of this package that starts processes: in a group of their own, logged, bounded, never outliving us.

Every command runs under ``guard.py`` in a new session. A cancel or a timeout ends its whole group (TERM, then KILL); if
advisor itself is killed, the guard's lifeline ends and the guard kills the group.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

from advisor import settings as settings_
from advisor.errors import AdvisorError
from advisor.events import Cancel, Reporter, safely
from advisor.execute import failing
from advisor.execute.disk import disk_errors, make_folders
from advisor.execute.talk import Talk
from advisor.facts.text import clean
from advisor.probes.group_memory import Kills

if TYPE_CHECKING:
    import subprocess

    from advisor.execute.envs import Env

RUNNERS: Final = Path(__file__).resolve().parent / "runners"
_GUARD: Final = Path(__file__).resolve().parent / "guard.py"
_GRACE_S: Final = 5.0
_TICK_S: Final = 0.1
_LOG_LIMIT: Final = 64 << 20
_LINE_LIMIT: Final = 16 << 20
_TAIL_LINES: Final = 20
# Lines that causes are read from: a stack of C++ calls may follow the one that counts.
_LINES: Final = 200
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Completed(NamedTuple):
    """A command that ended: its exit status (128 + N for signal N), how long it took, its last lines, its log.

    ``oom_kills``: processes that the kernel killed for memory meanwhile; ``oom_killed``: the command was one of them.
    ``peak_bytes``: the most that one of its processes had resident; ``lines``: more of its last lines, to read causes
    from.
    """

    returncode: int
    seconds: float
    tail: tuple[str, ...]
    log: Path
    oom_killed: bool
    oom_kills: int = 0
    peak_bytes: int | None = None
    lines: tuple[str, ...] = ()


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    log: Path,
    step: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float | None = None,
    cancel: Cancel | None = None,
    request: bytes = b"",
    on_line: Callable[[str], None] | None = None,
    on_message: Callable[[bytes], None] | None = None,
    threads: int | None = None,
    check: bool = True,
    code: str = "step-failed",
) -> Completed:
    """Run a command to its end, with its output (both streams) appended to ``log``.

    Args:
        argv: program and arguments; no shell is involved.
        env: variables added to the scrubbed environment of ``settings.child_environment``.
        request: what the command reads from its standard input.
        on_line: called with each line of output, cleaned.
        on_message: where given, the command has descriptor 3, and this is called with each line written to it.
        threads: worker threads that numeric libraries may use.
        check: raise if the exit status is not 0.
        code: the error code of such a failure.

    Raises:
        AdvisorError: ``interrupted``, ``tool-missing``, ``out-of-memory``, ``process-limit``, ``disk-full``,
            ``not-writable`` or ``code``.
    """
    cancel = cancel or Cancel()
    cancel.check()
    variables = settings_.child_environment()
    # Threads that spin at barriers collapse where cores are shared: the same measurement took three times the CPU.
    variables["OMP_WAIT_POLICY"] = "passive"
    if threads is not None:
        variables.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    variables.update(env or {})
    words = [os.fspath(a) for a in argv]
    kills = Kills()
    started = time.monotonic()
    make_folders(log.parent)
    with disk_errors(log):
        out = log.open("ab", buffering=0)
    with out, _spooled(request) as stdin:
        child = _Child(words, variables, cwd, stdin, out, on_line=on_line, on_message=on_message)
        try:
            child.wait(cancel, None if timeout_s is None else started + timeout_s)
        finally:
            child.end()
    killed = kills.since()
    done = Completed(
        returncode=child.returncode,
        seconds=time.monotonic() - started,
        tail=tuple(child.lines)[-_TAIL_LINES:],
        log=log,
        oom_killed=child.returncode == 128 + signal.SIGKILL and killed > 0,
        oom_kills=killed,
        peak_bytes=child.peak_bytes,
        lines=tuple(child.lines),
    )
    if child.timed_out:
        raise AdvisorError(
            code,
            f"{step} took longer than {timeout_s:g} s and was stopped.",
            context=done.tail,
            data=failing.data(done),
        )
    cancel.check()
    if check and done.returncode != 0:
        raise failing.failure(done, words[0], step=step, code=code)
    return done


def _spooled(request: bytes) -> IO[bytes]:
    """A file without a name that holds ``request``, at its start.

    Raises:
        AdvisorError: ``disk-full`` or ``not-writable``, also where no folder for temporary files is usable.
    """
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as e:
        raise AdvisorError("not-writable", f"There is no folder for temporary files: {e.strerror}.") from e
    with disk_errors(folder):
        spool: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's
        try:
            spool.write(request)
            spool.seek(0)
        except OSError:
            with suppress(OSError):  # it tries to write once more
                spool.close()
            raise
        return spool


def run_runner(
    env: Env,
    script: str,
    request: Mapping[str, Any],
    *,
    step: str,
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
    log: Path,
    timeout_s: float | None = None,
    threads: int | None = None,
    variables: Mapping[str, str] | None = None,
    code: str = "step-failed",
) -> dict[str, Any]:
    """Run a script of ``runners/`` inside ``env`` and return the data of its result.

    The request goes to its standard input as JSON; progress, result and error come back as JSON lines on descriptor 3.
    Progress is told to ``reporter`` with the seconds that are left at the rate so far.

    Raises:
        AdvisorError: what the runner reported (an unknown code becomes ``code``), or as ``run``.
    """
    import msgspec

    talk = Talk(step, safely(reporter))
    done = run(
        [env.python, "-I", "-X", "utf8", str(RUNNERS / script)],
        log=log,
        step=step,
        env=variables,
        timeout_s=timeout_s,
        cancel=cancel,
        request=msgspec.json.encode(request),
        on_message=talk.hear,
        threads=threads,
        check=False,
        code=code,
    )
    if talk.error is not None:
        raise failing.reported(done, talk.error, script, step=step, code=code)
    if done.returncode != 0:
        raise failing.failure(done, script, step=step, code=code)
    if talk.result is None:
        raise AdvisorError(
            code, f"{step}: {script} ended without a result.", context=done.tail, data=failing.data(done)
        )
    return talk.result


class _Child:
    """A running command and its pipes."""

    def __init__(
        self,
        argv: list[str],
        env: dict[str, str],
        cwd: Path | None,
        stdin: IO[bytes],
        out: IO[bytes],
        *,
        on_line: Callable[[str], None] | None,
        on_message: Callable[[bytes], None] | None,
    ) -> None:
        import subprocess

        self.lines: deque[str] = deque(maxlen=_LINES)
        self.timed_out = False
        self.peak_bytes: int | None = None
        self._out, self._on_line, self._on_message = out, on_line, on_message
        self._written = 0
        self._pending: dict[int, bytes] = {}
        guard_python = sys.executable or shutil.which("python3", path=env.get("PATH"))
        if not guard_python:
            raise AdvisorError("tool-missing", "No Python interpreter is found to watch over started programs.")
        lifeline, self._lifeline = os.pipe()
        result_read, result_write = os.pipe() if on_message is not None else (-1, -1)
        self._peak, peak = os.pipe()
        passed = [fd for fd in (lifeline, result_write, peak) if fd >= 0]
        try:
            self._popen: subprocess.Popen[bytes] = subprocess.Popen(
                [guard_python, "-I", "-S", str(_GUARD), str(lifeline), str(result_write), str(peak), "--", *argv],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                pass_fds=passed,
                start_new_session=True,
                bufsize=0,
            )
        except BaseException as e:
            os.close(self._lifeline)
            os.close(self._peak)
            if result_read >= 0:
                os.close(result_read)
            if isinstance(e, BlockingIOError):  # EAGAIN of fork(2)
                raise failing.refused(e) from e
            if isinstance(e, OSError):
                raise AdvisorError("tool-missing", f"A program cannot be started: {e.strerror}.") from e
            if isinstance(e, ValueError):
                raise AdvisorError("bad-option", f"A program cannot be started: {e}.") from e
            raise
        finally:
            for fd in passed:
                os.close(fd)
        assert self._popen.stdout is not None
        self._stdout, self._result = self._popen.stdout.fileno(), result_read
        self._selector = selectors.DefaultSelector()
        for fd in (self._stdout, self._result):
            if fd >= 0:
                os.set_blocking(fd, False)
                self._selector.register(fd, selectors.EVENT_READ)
                self._pending[fd] = b""

    @property
    def returncode(self) -> int:
        """Exit status; 128 + N for signal N."""
        status = self._popen.returncode
        return status if status >= 0 else 128 - status

    def wait(self, cancel: Cancel, deadline: float | None) -> None:
        """Copy output until the command is gone; stop it when asked to or when its time is over."""
        ended_at: float | None = None
        while self._selector.get_map():
            for key, _ in self._selector.select(_TICK_S):
                self._read(key.fd)
            if self._popen.poll() is not None:
                # What is left in the pipes is read; a stray grandchild that keeps them open is not waited for.
                ended_at = ended_at or time.monotonic()
                if time.monotonic() - ended_at > 1.0:
                    return
            elif cancel.is_set:
                return
            elif deadline is not None and time.monotonic() > deadline:
                self.timed_out = True
                return
        while self._popen.poll() is None and not cancel.wait(_TICK_S / 10):
            if deadline is not None and time.monotonic() > deadline:
                self.timed_out = True
                return

    def end(self) -> None:
        """Make sure that the whole group is gone, and close everything."""
        if self._popen.poll() is None:
            self._popen.terminate()
            self._drain_until_gone(_GRACE_S)
        # The guard kills what is left of the group when its lifeline ends.
        os.close(self._lifeline)
        if self._popen.poll() is None:
            self._drain_until_gone(_GRACE_S)
            self._popen.kill()
            self._popen.wait()
        for fd in self._pending:
            self._last_line(fd)
        self._selector.close()
        word = os.read(self._peak, 32)  # the guard, which alone held the other end, is gone
        os.close(self._peak)
        self.peak_bytes = int(word) if word.isdigit() else None
        assert self._popen.stdout is not None
        self._popen.stdout.close()
        if self._result >= 0:
            os.close(self._result)

    def _drain_until_gone(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._popen.poll() is None and time.monotonic() < until:
            if self._selector.get_map():
                for key, _ in self._selector.select(_TICK_S):
                    self._read(key.fd)
            else:
                time.sleep(_TICK_S / 10)

    def _read(self, fd: int) -> None:
        try:
            raw = os.read(fd, 1 << 16)
        except BlockingIOError:
            return
        if not raw:
            self._selector.unregister(fd)
            return
        if fd == self._stdout and self._written < _LOG_LIMIT:
            try:
                self._out.write(raw)
                self._written += len(raw)
            except OSError:
                # The log is secondary: where the disk is full, the command itself says so.
                self._written = _LOG_LIMIT
        # A bar that redraws itself ends its lines with a carriage return.
        pending = self._pending[fd] + (raw.replace(b"\r", b"\n") if fd == self._stdout else raw)
        *lines, rest = pending.split(b"\n")
        self._pending[fd] = rest if len(rest) < _LINE_LIMIT else b""
        for line in lines:
            self._line(fd, line)

    def _last_line(self, fd: int) -> None:
        if self._pending[fd]:
            self._line(fd, self._pending[fd])
            self._pending[fd] = b""

    def _line(self, fd: int, line: bytes) -> None:
        if fd == self._result:
            if self._on_message is not None and line.strip():
                self._on_message(line)
            return
        text = clean(line.decode("utf-8", errors="replace"), 500)
        if text:
            self.lines.append(text)
            if self._on_line is not None:
                self._on_line(text)
