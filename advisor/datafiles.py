"""Finds rules/ and profiles/: inside the wheel, or beside the package in a checkout; and the user's overlays."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from advisor.errors import AdvisorError, did_you_mean
from advisor.facts.text import clean

_HERE = Path(__file__).resolve().parent
# How the decoder names a key: one that there is not, or the path of a value.
_UNKNOWN: Final = re.compile(r"unknown field `([^`]+)`")
_AT: Final = re.compile(r"at `(?:key in )?\$\.?([^`\[.]*)")
_MOST_LINES: Final = 10_000


@cache
def root() -> Path:
    """The folder that holds ``rules`` and ``profiles``.

    Raises:
        FileNotFoundError: neither a wheel's nor a checkout's data is there.
    """
    for candidate in (_HERE / "_data", _HERE.parent):
        if (candidate / "rules").is_dir() and (candidate / "profiles").is_dir():
            return candidate
    raise FileNotFoundError(f"rules/ and profiles/ are neither in {_HERE / '_data'} nor in {_HERE.parent}")


def rules_dir() -> Path:
    """The bundled selection guide."""
    return root() / "rules"


def profiles_dir(kind: str) -> Path:
    """The bundled profiles of one kind: ``hardware``, ``models``, ``goals``, ``backends``, ``quality`` ..."""
    return root() / "profiles" / kind


def overlay_dir(config: str | Path, kind: str) -> Path | None:
    """The user's own ``rules`` or ``profiles/KIND`` folder under the configuration folder, where it exists."""
    path = Path(config) / kind
    return path if path.is_dir() else None


def data_files(*dirs: Path) -> list[Path]:
    """All ``.yaml`` files of the folders, in one stable order (by folder, then by name)."""
    return [p for d in dirs if d.is_dir() for p in sorted(d.rglob("*.yaml"))]


def content_hash(files: list[Path]) -> str:
    """SHA-256 over the names and contents of ``files``, independent of where they lie."""
    h = hashlib.sha256()
    for name, raw in sorted((p.name, p.read_bytes()) for p in files):
        h.update(f"{name}\0{len(raw)}\0".encode())
        h.update(raw)
    return h.hexdigest()


def read_yaml(path: Path) -> Any:
    """Plain data of a bundled YAML file, by the parser in C where there is one: it is many times faster.

    Raises:
        OSError, UnicodeDecodeError, yaml.YAMLError: it cannot be read.
    """
    import yaml

    return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506


def bad_profile(path: Path, error: BaseException | str, known: Sequence[str] = ()) -> AdvisorError:
    """``bad-profile`` with the file, the line of what is wrong, and near misses of a key that there is not.

    Args:
        path: the file.
        error: what its reader said.
        known: the keys that there are.
    """
    text = clean(str(error), 300).rstrip(".")
    mark = getattr(error, "problem_mark", None)
    unknown, at = _UNKNOWN.search(text), _AT.search(text)
    key = unknown[1] if unknown else at[1] if at else ""
    line = mark.line + 1 if mark is not None else _line_of(path, key)
    near = did_you_mean(key, list(known)) if unknown else ""
    return AdvisorError("bad-profile", f"{clean(str(path), 400)}:{line}: {text}.{near}", hint="advisor paths")


def _line_of(path: Path, key: str) -> int:
    """The first line that begins with ``key``, counted from 1; the first line of the file where there is none."""
    if key:
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[:_MOST_LINES]
        except OSError:
            return 1
        return next((n for n, text in enumerate(lines, 1) if text.lstrip().startswith(f"{key}:")), 1)
    return 1
