"""The key of a server that others can reach: in a 0600 file, never in an argument vector, environment or log."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from advisor.deploy import statefile
from advisor.deploy.ports import is_loopback
from advisor.deploy.spec import LaunchSpec
from advisor.errors import AdvisorError
from advisor.facts.text import clean

_LIMIT: Final = 4096


def make(path: Path) -> Path:
    """Keep the key that lies at ``path``, or make a new random one there.

    Raises:
        AdvisorError: ``state-unreadable`` where the file is another user's or open to others; ``not-writable``.
    """
    import secrets

    try:
        if read(path):
            return path
    except FileNotFoundError:
        pass
    statefile.write(path, f"sk-{secrets.token_urlsafe(32)}\n".encode())
    return path


def read(path: Path) -> str:
    """The key in a file of this user's that nobody else can read; empty where the file is empty.

    Raises:
        AdvisorError: ``state-unreadable``.
        FileNotFoundError: there is no such file.
    """
    try:
        raw = statefile.read_bytes(path, _LIMIT)
        if path.stat().st_mode & 0o077:
            raise statefile.Untrusted(f"{path.name} can be read by others")
        return raw.decode("ascii").strip()
    except (statefile.Untrusted, UnicodeDecodeError) as e:
        raise AdvisorError(
            "state-unreadable",
            f"The key file {clean(str(path), None)} is not used: {e}.",
            hint=f"chmod 600 -- '{clean(str(path), None)}'",
        ) from e


def for_spec(spec: LaunchSpec) -> str | None:
    """The key that a client of this server needs, or ``None``.

    Raises:
        AdvisorError: ``exposed-without-key`` where others can reach the server and there is no key;
            ``state-unreadable``; ``file-not-found``.
    """
    key = None
    if spec.api_key_file is not None:
        try:
            key = read(Path(spec.api_key_file))
        except FileNotFoundError as e:
            raise AdvisorError(
                "file-not-found",
                f"The key file {clean(spec.api_key_file, None)} does not exist.",
                hint="advisor status",
            ) from e
    if not key and not is_loopback(spec.host):
        raise AdvisorError(
            "exposed-without-key",
            f"Deployment {spec.name} would serve on {clean(spec.host, 80)}, where others can reach it, without a key.",
            hint=f"advisor up --name {spec.name} --host 127.0.0.1",
            data={"host": spec.host},
        )
    if key and any(key in text for text in (*spec.argv, *spec.env.values())):
        raise AdvisorError(
            "exposed-without-key",
            f"Deployment {spec.name} would show its key to every user of this machine, in its command line or "
            "environment. A key is passed as a file.",
            hint=f"advisor up --name {spec.name} --host 127.0.0.1",
        )
    return key or None
