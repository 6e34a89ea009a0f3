"""The one exception table: what each exception means to the user and which exit code it gives."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Final

import click

from advisor._version import __version__
from advisor.errors import AdvisorError

from . import redact

_DISK: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
_ACCESS: Final = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


def translate(exception: BaseException) -> AdvisorError:
    """Put any exception into the terms of the catalogue; the unknown ones become ``bug`` with a log."""
    if isinstance(exception, AdvisorError):
        return exception
    if isinstance(exception, KeyboardInterrupt | EOFError | click.Abort):
        return AdvisorError("interrupted", "Stopped; what was finished is kept.")
    if isinstance(exception, click.ClickException):
        return _usage(exception)
    if isinstance(exception, OSError) and exception.errno in _DISK:
        return AdvisorError("disk-full", _os_message(exception), hint="advisor paths")
    if isinstance(exception, OSError) and exception.errno in _ACCESS:
        return AdvisorError("not-writable", _os_message(exception), hint="advisor paths")
    if isinstance(exception, MemoryError):
        return AdvisorError("out-of-memory", "There was not enough memory for advisor itself.")
    return _bug(exception)


def command_of(exception: BaseException) -> str | None:
    """The command whose words were wrong, where the exception knows it."""
    ctx = exception.ctx if isinstance(exception, click.UsageError) else None
    return command_name(ctx) if ctx is not None else None


def command_name(ctx: click.Context) -> str | None:
    """``advisor rules list`` is ``rules-list``; ``None`` for the bare program or a group of commands."""
    if isinstance(ctx.command, click.Group):
        return None
    return "-".join(ctx.command_path.split()[1:]) or None


def _usage(exception: click.ClickException) -> AdvisorError:
    message = exception.format_message().strip()
    if not message.endswith((".", "?", "!")):
        message += "."
    wrong = isinstance(exception, click.BadParameter | click.NoSuchOption)
    code = "bad-option" if wrong and not isinstance(exception, click.MissingParameter) else "usage"
    ctx = exception.ctx if isinstance(exception, click.UsageError) else None
    path = ctx.command_path if ctx is not None else "advisor"
    return AdvisorError(code, message, hint=f"{path} --help")


def _os_message(exception: OSError) -> str:
    about = f": {exception.filename}" if exception.filename else ""
    return f"{exception.strerror or exception}{about}."


def _bug(exception: BaseException) -> AdvisorError:
    log = _write_log(exception)
    what = str(exception).strip().split("\n")[0][:200]
    told = f"{type(exception).__name__}: {what}" if what else type(exception).__name__
    where = f"; log: {log}" if log else "; the log could not be written"
    data = {"exception": type(exception).__name__, "log": str(log) if log else None}
    return AdvisorError("bug", f"advisor met a case it does not know ({told}){where}", data=data)


def _write_log(exception: BaseException) -> Path | None:
    """Write the traceback to a file that only the user can read; return its path."""
    import traceback

    body = (
        f"advisor {__version__}\npython {sys.version}\nplatform {sys.platform}\narguments {sys.argv[1:]!r}\n\n"
        + "".join(traceback.format_exception(exception))
    )
    return _private_file(redact.text(body).encode("utf-8", "backslashreplace"))


def _private_file(raw: bytes) -> Path | None:
    import os
    import tempfile

    folders: list[Path | None] = []
    try:
        from advisor.settings import find_paths

        folders.append(find_paths().logs)
    except (AdvisorError, OSError, ValueError):
        pass
    folders.append(None)  # the system's folder for temporary files
    for folder in folders:
        try:
            if folder is not None:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix="bug-", suffix=".log", dir=folder)  # mode 0600
            with os.fdopen(handle, "wb") as f:
                f.write(raw)
            return Path(name)
        except (OSError, ValueError):
            continue
    return None


def show_traceback(exception: BaseException) -> None:
    """Write the traceback of a bug to standard error, for ``--verbose``."""
    import traceback

    sys.stderr.write(redact.text("".join(traceback.format_exception(exception))))
