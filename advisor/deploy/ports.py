"""Choosing a port, and finding out who listens on one."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from advisor.deploy.process_table import LINUX
from advisor.errors import AdvisorError
from advisor.facts.text import clean

LOWEST: Final = 1024
USUAL: Final = 8080
HIGHEST: Final = 65535
_TRIES: Final = 100
_LISTEN: Final = "0A"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to ``host``; a name counts only as ``localhost``."""
    import ipaddress

    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        pass
    return host == "localhost"


def reachable_host(host: str) -> str:
    """The address under which this machine reaches a server bound to ``host``."""
    bare = host.strip("[]")
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(bare, bare)  # noqa: S104 - compared, not bound


def url(host: str, port: int) -> str:
    """``http://host:port`` as seen from this machine."""
    bare = reachable_host(host)
    return f"http://[{bare}]:{port}" if ":" in bare else f"http://{bare}:{port}"


def _address(host: str, port: int) -> tuple[int, tuple[object, ...]]:
    try:
        found = socket.getaddrinfo(host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as e:
        raise AdvisorError(
            "bad-option",
            f"{clean(host, 80)!r} is not an address of this machine: {e}",
            hint="advisor up --host 127.0.0.1",
        ) from e
    family, _, _, _, address = found[0]
    return family, tuple(address)


def is_taken(host: str, port: int) -> bool:
    """Whether something listens on the port, or it cannot be bound for another reason than permission.

    Raises:
        AdvisorError: ``bad-option`` where ``host`` is not an address of this machine.
    """
    family, address = _address(host, port)
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            s.bind(address)
        except OSError as e:
            if e.errno == errno.EADDRNOTAVAIL:
                raise AdvisorError(
                    "bad-option",
                    f"{clean(host, 80)!r} is not an address of this machine.",
                    hint="advisor up --host 127.0.0.1",
                ) from e
            return True
    # A wildcard listener does not hinder a bind to one address on every system: ask whether somebody answers.
    return accepts(reachable_host(host), port)


def accepts(host: str, port: int, timeout_s: float = 0.25) -> bool:
    """Whether a connection to the port is taken."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def _ephemeral(host: str) -> int:
    family, address = _address(host, 0)
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.bind(address)
        return int(s.getsockname()[1])


def choose(host: str, wanted: int, *, explicit: bool, avoid: Iterable[int] = ()) -> int:
    """Return ``wanted`` if it is free, else the next free port above it (not where the user named the port).

    ``avoid``: ports that are spoken for though nothing listens yet.

    Raises:
        AdvisorError: ``port-taken``; ``bad-option`` for a port outside 1024..65535 or a host that is not here.
    """
    if not LOWEST <= wanted <= HIGHEST:
        why = "below 1024 only root may serve, and a model server should not be root" if 0 < wanted < LOWEST else ""
        raise AdvisorError(
            "bad-option",
            f"Port {wanted} cannot be used: {why or 'ports are whole numbers'}; use {LOWEST} to {HIGHEST}.",
            hint="advisor up --port 8080",
        )
    if explicit:
        if is_taken(host, wanted):
            raise AdvisorError(
                "port-taken",
                f"Port {wanted} on {clean(host, 80)} is in use.",
                hint=f"advisor up --port {choose(host, wanted + 1 if wanted < HIGHEST else LOWEST, explicit=False)}",
                data={"port": wanted, "host": host},
            )
        return wanted
    spoken_for = set(avoid)
    for port in range(wanted, min(wanted + _TRIES, HIGHEST + 1)):
        if port not in spoken_for and not is_taken(host, port):
            return port
    return _ephemeral(host)


def _listening_inodes(port: int) -> set[str] | None:
    inodes: set[str] = set()
    readable = False
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except (OSError, UnicodeDecodeError):
            continue
        readable = True
        for line in lines:
            fields = line.split()
            if len(fields) > 9 and fields[3] == _LISTEN and int(fields[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(fields[9])
    return inodes if readable else None


def listens(pids: Iterable[int], port: int) -> bool | None:
    """Whether one of the processes listens on the port; ``None`` where the system does not tell.

    A reply on the port alone proves nothing: a stranger may have been faster to bind it.
    """
    if not LINUX:
        return None
    inodes = _listening_inodes(port)
    if inodes is None:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    if not wanted:
        return False
    hidden = False
    for pid in pids:
        try:
            names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - thousands of descriptors, called in a loop
        except FileNotFoundError:
            continue
        except OSError:
            hidden = True
            continue
        for name in names:
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{name}") in wanted:  # noqa: PTH115
                    return True
    return None if hidden else False
