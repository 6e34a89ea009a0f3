"""Takes single files out of archives from outside: no links, no way out of the folder, no more bytes than declared."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Final

from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.execute.disk import disk_errors
from advisor.facts.text import clean

_MAX_MEMBERS: Final = 200_000
_MAX_PART_BYTES: Final = 512 << 20
_BLOCK: Final = 1 << 20
# Names that some system or other does not take for what they are.
_BAD_PART: Final = re.compile(r'[\x00-\x1f:*?"<>|\\]|[ .]$|^(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)', re.IGNORECASE)


def safe_path(name: str) -> PurePosixPath:
    """The relative path of an archive member.

    Raises:
        AdvisorError: ``untrusted-model-path``: absolute, with ``..``, or a name that is special on some system.
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or len(name) > 1024 or any(p == ".." or _BAD_PART.search(p) for p in path.parts):
        raise AdvisorError("untrusted-model-path", f"An archive holds a file of the unsafe name {clean(name)!r}.")
    return path


def tar_members(
    archive: Path, dest: Path, *, members: tuple[str, ...], strip: str, cancel: Cancel | None = None
) -> int:
    """Unpack the regular files of a ``.tar.gz`` whose path under its one top folder starts with one of ``members``.

    ``strip`` is taken off the front of their paths. Returns the number of files.

    Raises:
        AdvisorError: ``untrusted-model-path`` (unsafe names, links among the wanted files), ``integrity`` (damaged, too
            big, or a wanted part is missing), ``disk-full``, ``interrupted``.
    """
    import tarfile
    import zlib

    count, size = 0, 0
    missing = set(members)
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for number, member in enumerate(tar):
                if number > _MAX_MEMBERS:
                    raise AdvisorError("integrity", f"{archive.name} has more than {_MAX_MEMBERS} members.")
                if cancel is not None and number % 64 == 0:
                    cancel.check()
                inner = member.name.partition("/")[2]
                wanted = next((m for m in members if inner == m or inner.startswith(m.rstrip("/") + "/")), None)
                if wanted is None or member.isdir():
                    continue
                if not member.isfile():
                    raise AdvisorError("untrusted-model-path", f"{clean(member.name)} in {archive.name} is a link.")
                size += member.size
                if size > _MAX_PART_BYTES:
                    raise AdvisorError("integrity", f"The wanted part of {archive.name} is bigger than it may be.")
                missing.discard(wanted)
                path = safe_path(inner.removeprefix(strip).lstrip("/"))
                source = tar.extractfile(member)
                assert source is not None
                copy(source, dest / path, member.size, cancel)
                count += 1
    except (tarfile.TarError, EOFError, zlib.error) as e:
        raise AdvisorError("integrity", f"{archive.name} is damaged: {e}.") from e
    if missing:
        raise AdvisorError("integrity", f"{archive.name} lacks {', '.join(sorted(missing))}.")
    return count


def copy(
    source: IO[bytes], target: Path, size: int, cancel: Cancel | None = None, tell: Callable[[int], None] | None = None
) -> None:
    """Write exactly ``size`` bytes of ``source`` to the new file ``target``; ``tell`` hears of each block's bytes.

    Raises:
        AdvisorError: ``integrity`` if there are more or fewer, ``disk-full``, ``not-writable``, ``interrupted``.
    """
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            left = size
            while left:
                block = source.read(min(_BLOCK, left))
                if not block:
                    raise AdvisorError("integrity", f"{target.name} ends {left} bytes early.")
                out.write(block)
                left -= len(block)
                if tell is not None:
                    tell(len(block))
                if cancel is not None:
                    cancel.check()
            if source.read(1):
                raise AdvisorError("integrity", f"{target.name} has more bytes than declared.")


def enough_space(folder: Path, needed: int) -> None:
    """Check that ``needed`` bytes fit where ``folder`` is.

    Raises:
        AdvisorError: ``disk-full``.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise AdvisorError(
            "disk-full",
            f"{folder} has {free:,} bytes left; {needed:,} are needed.",
            hint="advisor paths",
            data={"path": str(folder), "needed_bytes": needed, "free_bytes": free},
        )
