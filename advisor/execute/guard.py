"""Runs one command so that it cannot outlive advisor. Stands alone: started by path, standard library only.

``python -I -S guard.py LIFELINE RESULT PEAK -- ARGV...``: LIFELINE is the reading end of a pipe whose writing end only
advisor holds. When it ends, because advisor closed it or died, however it died, the command's whole process group is
killed. TERM to the guard is passed on to the group. RESULT is the descriptor that the command gets as descriptor 3, or
-1. PEAK is the writing end of a pipe: the most bytes that one process of the command had resident, once it has ended.
The command's exit status is passed on; 128 + N for signal N.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1
CANNOT_START = 127


def _die_with_parent() -> None:
    """Ask Linux to kill this process with its parent; other systems rely on the lifeline alone."""
    if not sys.platform.startswith("linux"):
        return
    try:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def _watch(lifeline: int, group: int) -> None:
    while True:
        try:
            if not os.read(lifeline, 1):
                break
        except InterruptedError:
            continue
        except OSError:
            break
    _signal_group(group, signal.SIGKILL)


def _child(result: int, argv: list[str]) -> None:
    try:
        os.setpgid(0, 0)
        _die_with_parent()
        if result >= 0 and result != 3:
            os.dup2(result, 3)
        elif result == 3:
            os.set_inheritable(3, True)
        os.execvp(argv[0], argv)  # noqa: S606 - an argument vector, never a shell
    except OSError as e:
        os.write(2, f"cannot start {argv[0]}: {e.strerror}\n".encode(errors="replace"))
    finally:
        os._exit(CANNOT_START)


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status."""
    lifeline, result, peak = (int(a) for a in arguments[:3])
    argv = arguments[4:]
    for fd in (lifeline, result, peak):
        if fd >= 0:
            os.set_inheritable(fd, False)
    pid = os.fork()
    if pid == 0:
        _child(result, argv)
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)  # the child does so too: whoever is first
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda n, _: _signal_group(pid, n))
    if result >= 0:
        os.close(result)
    threading.Thread(target=_watch, args=(lifeline, pid), daemon=True).start()
    _, status, used = os.wait4(pid, 0)
    # Whatever the command left running ends with it.
    _signal_group(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.write(peak, str(used.ru_maxrss << (0 if sys.platform == "darwin" else 10)).encode())
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
