"""Names of files that a model lists: only plain names inside the model's own folder are followed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NoReturn

from advisor.errors import AdvisorError
from advisor.facts.text import clean

MAX_FILES: Final = 10_000
MAX_NAME: Final = 255
_PLAIN: Final = re.compile(r"[^\x00-\x1f\x7f<>:\"|?*\\/]+")
_RESERVED: Final = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


def _refuse(name: str, why: str) -> NoReturn:
    raise AdvisorError(
        "untrusted-model-path",
        f'The model lists a file "{clean(name, 120)}", which is refused: {why}.',
        data={"file": clean(name, 255)},
    )


def check_name(name: str) -> None:
    """Refuse a listed file name that could mean anything outside the folder, on any system.

    Raises:
        AdvisorError: ``untrusted-model-path``.
    """
    if name.startswith(("/", "\\", "~")) or re.match(r"[A-Za-z]:[\\/]", name):
        _refuse(name, "it is an absolute path")
    parts = name.split("/")
    if ".." in re.split(r"[\\/]", name):
        _refuse(name, "it leads out of the folder")
    for part in parts:
        if not part or part == ".":
            _refuse(name, "it has an empty path component")
        if len(part.encode("utf-8", "surrogatepass")) > MAX_NAME:
            _refuse(name, f"it is longer than {MAX_NAME} bytes")
        if not _PLAIN.fullmatch(part) or clean(part, None) != part:
            _refuse(name, "it has characters that file names may not have everywhere")
        if _RESERVED.fullmatch(part):
            _refuse(name, "it is a device name on some systems")
        if part.endswith((".", " ")):
            _refuse(name, "it ends with a dot or a space")


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """Check all names and that no two differ in case only; return them sorted.

    Raises:
        AdvisorError: ``untrusted-model-path``.
    """
    out = sorted(set(names))
    if len(out) > MAX_FILES:
        raise AdvisorError("untrusted-model-path", f"The model lists {len(out)} files; at most {MAX_FILES} are read.")
    folded: dict[str, str] = {}
    for name in out:
        check_name(name)
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            _refuse(name, f'it differs only in case from "{clean(other, 120)}"')
    return tuple(out)


def snapshot_revision(folder: Path) -> str | None:
    """The revision of a folder that lies in a hub cache (``models--*/snapshots/REVISION``), else ``None``."""
    here = folder.absolute()
    if here.parent.name == "snapshots" and here.parent.parent.name.startswith("models--"):
        return here.name
    return None


def inside(folder: Path, name: str) -> Path:
    """The path of a checked name; links may only lead to the folder itself or to the blobs of its own hub cache entry.

    Raises:
        AdvisorError: ``untrusted-model-path`` where a link leads elsewhere.
    """
    path = folder / name
    roots = [folder.resolve()]
    if snapshot_revision(folder):
        roots.append((folder.absolute().parent.parent / "blobs").resolve())
    try:
        real = path.resolve()
    except (OSError, RuntimeError):
        _refuse(name, "it is a link that leads nowhere")
    if not any(real.is_relative_to(root) for root in roots):
        _refuse(name, "it is a link out of the folder")
    return path
