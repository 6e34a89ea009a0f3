"""One file, from the byte where a former run stopped to the last one, hashed as it comes.

The downloader of ``huggingface_hub`` (2.4) is not used for weights: it writes to a temporary file of its own process,
so that a killed transfer begins at the first byte; it compares sizes and no hashes; a trickle of bytes never times
out; and it cannot be cancelled.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final, NamedTuple

from advisor.errors import AdvisorError
from advisor.events import Event
from advisor.execute.disk import disk_errors, make_folders
from advisor.execute.hub.client import STEP, EntryMissing, Hub
from advisor.execute.hub.digest import Digest
from advisor.execute.hub.exchange import Trouble
from advisor.execute.hub.record import Record, RemoteFile
from advisor.facts.text import clean

_BLOCK: Final = 4 << 20
# Fewer new bytes than these do not count as progress, or a trickle could go on for ever.
_PROGRESS: Final = 256 << 10

Tell = Callable[[int], None]


class Fetched(NamedTuple):
    """A file that is here: where, its SHA-256, and whether it was compared with what the hub announced."""

    path: Path
    sha256: str
    checked: bool


def fetch_file(hub: Hub, record: Record, file: RemoteFile, part: Path, *, quarantine: Path, tell: Tell) -> Fetched:
    """Complete ``part``, the perhaps partial copy of ``file``, and compare it with the hub's hash.

    What is there already is hashed first and kept. Bytes that turn out wrong go to the ``quarantine`` folder, and the
    file is fetched once more from its beginning.

    Args:
        tell: hears of every change in the number of bytes that are here, downwards too.

    Raises:
        AdvisorError: ``integrity`` where the bytes are wrong twice, ``network``, ``missing-part``, ``gated``,
            ``disk-full``, ``not-writable``, ``interrupted``.
    """
    for last in (False, True):
        fetched = _complete(hub, record, file, part, tell)
        if fetched.right is not False:
            return Fetched(part, fetched.sha256, fetched.right is True)
        make_folders(quarantine)
        tell(-part.stat().st_size)
        with disk_errors(part):
            os.replace(part, quarantine / f"{part.name}.{secrets.token_hex(4)}")  # noqa: PTH105
        wrong = fetched.wrong(record.repo)
        if last:
            raise wrong
        again = f"{wrong.message} It was set aside and is fetched once more."
        hub.say(Event(kind="warning", step=STEP, message=again))
    raise AssertionError("unreachable")


def _complete(hub: Hub, record: Record, file: RemoteFile, part: Path, tell: Tell) -> Digest:
    make_folders(part.parent)
    with disk_errors(part), part.open("a+b") as out:
        digest = _hashed(hub, file, out, tell)
        failures, best = 0, out.tell()
        while file.bytes is None or out.tell() < file.bytes:
            try:
                _stream(hub, record, file, out, digest, tell)
                break
            except Trouble as e:
                failures = 0 if out.tell() >= best + _PROGRESS else failures
                best = max(best, out.tell())
                failures += 1
                hub.wait(e, failures, file.path)
            except EntryMissing as e:
                raise AdvisorError(
                    "missing-part",
                    f"{record.repo} lists {clean(file.path, 120)}, but the hub does not have it.",
                    data={"missing": [clean(file.path)]},
                ) from e
        out.flush()
        os.fsync(out.fileno())
        return digest


def _hashed(hub: Hub, file: RemoteFile, out: IO[bytes], tell: Tell) -> Digest:
    """The hash of what is there; more than the file can have is dropped."""
    digest = Digest(file)
    out.seek(0, os.SEEK_END)
    if file.bytes is None or out.tell() > file.bytes:
        # Of a file of unknown size nothing can be continued: whether it had ended would not be known.
        out.seek(0)
        out.truncate()
    out.seek(0)
    while block := out.read(_BLOCK):
        digest.update(block)
        tell(len(block))
        hub.cancel.check()
    return digest


def _stream(hub: Hub, record: Record, file: RemoteFile, out: IO[bytes], digest: Digest, tell: Tell) -> None:
    """Append what is missing. A server that begins at the first byte instead is taken at its word.

    Raises:
        Trouble: the connection failed; what came before it is in ``out`` and in the digest.
    """
    here = out.tell()
    body = hub.open(record.repo, record.commit, file.path, here)
    try:
        if body.total is not None and file.bytes is not None and body.total != file.bytes:
            raise Trouble(f"offers {body.total:,} bytes of {file.path}, which has {file.bytes:,}")
        if body.start != here:
            out.seek(0)
            out.truncate()
            tell(-here)
            digest.reset()
        for chunk in body.exchange.body():
            if file.bytes is not None and out.tell() + len(chunk) > file.bytes:
                raise Trouble(f"sends more than the {file.bytes:,} bytes of {file.path}")
            out.write(chunk)
            digest.update(chunk)
            tell(len(chunk))
    finally:
        body.exchange.leave()
        out.flush()
    if file.bytes is not None and out.tell() < file.bytes:
        raise Trouble(f"ends {file.path} at byte {out.tell():,} of {file.bytes:,}")
