"""Texts to calibrate on and to measure with. Without a file of the user's own: the language reference that comes with
every Python, as prose. It needs no download, its licence is Python's, and it differs a little between versions, so its
hash goes into every result.

The two uses never share a topic: what a model was calibrated on says nothing about how well it works elsewhere.
"""

from __future__ import annotations

import hashlib
import platform
import re
from functools import cache
from pathlib import Path
from typing import Final, Literal

from advisor.errors import AdvisorError
from advisor.facts.base import Shape

Use = Literal["calibration", "verification"]
MIN_CHARACTERS: Final = 4000
_MAX_BYTES: Final = 256 << 20
# An importance matrix takes more text than a measurement.
_SHARE: Final[dict[Use, float]] = {"calibration": 0.6, "verification": 0.4}
_RULER: Final = re.compile(r"[*=\-~^\"'+#]{3,}")
# Shorter paragraphs ("See also:", a line of code) recur everywhere and do not make two topics one.
_TELLING: Final = 60


class Text(Shape, frozen=True, kw_only=True):
    """A text, what it is called in results, and the SHA-256 of its UTF-8 bytes."""

    name: str
    text: str
    sha256: str


def calibration_text(path: Path | None = None) -> Text:
    """The text to calibrate on: the user's file, or the bundled one.

    Raises:
        AdvisorError: ``file-not-found`` or ``bad-option``; see ``read_text``.
    """
    return read_text(path) if path is not None else _bundled("calibration")


def verification_text(path: Path | None = None) -> Text:
    """The text to measure with; shares nothing with ``calibration_text()``. Errors as there."""
    return read_text(path) if path is not None else _bundled("verification")


def read_text(path: Path) -> Text:
    """Read a user's text file.

    Raises:
        AdvisorError: ``file-not-found``; ``bad-option`` if it is not UTF-8, has zero bytes, is shorter than
            ``MIN_CHARACTERS`` or bigger than 256 MiB.
    """
    try:
        if not path.is_file():
            raise AdvisorError("file-not-found", f"There is no file {path}.")
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise AdvisorError("bad-option", f"{path} has {size:,} bytes; a text may have {_MAX_BYTES:,}.")
        raw = path.read_bytes()
    except OSError as e:
        raise AdvisorError("file-not-found", f"{path} cannot be read: {e.strerror}.") from e
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise AdvisorError("bad-option", f"{path} is not UTF-8 text: byte {e.start} is {raw[e.start]:#04x}.") from e
    text = text.replace("\r\n", "\n")
    if "\0" in text:
        raise AdvisorError("bad-option", f"{path} is not a text file: it holds zero bytes.")
    return text_of(path.name, text, str(path))


def text_of(name: str, text: str, where: str | None = None) -> Text:
    """A text under a name, if it is long enough to say anything; ``where`` is what messages call it.

    Raises:
        AdvisorError: ``bad-option`` if it is shorter than ``MIN_CHARACTERS``.
    """
    if len(text.strip()) < MIN_CHARACTERS:
        raise AdvisorError(
            "bad-option",
            f"{where or name} has {len(text.strip()):,} characters; below {MIN_CHARACTERS:,} a measurement says "
            "nothing.",
        )
    return Text(name=name, text=text, sha256=_sha256(text))


@cache
def _bundled(use: Use) -> Text:
    text = "\n\n".join(_split()[use])
    name = f"Python {platform.python_version()} language reference, {use} part"
    return Text(name=name, text=text, sha256=_sha256(text))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _split() -> dict[Use, list[str]]:
    """All paragraphs by use. Topics that repeat each other's paragraphs stay together, whichever use they go to."""
    try:
        from pydoc_data.topics import topics
    except ImportError as e:
        raise AdvisorError(
            "file-not-found", "This Python comes without its documentation topics; name a text file: --text FILE."
        ) from e
    paragraphs = {name: _paragraphs(body) for name, body in sorted(topics.items())}
    leader = {name: name for name in paragraphs}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    first: dict[str, str] = {}
    for name, parts in paragraphs.items():
        for part in parts:
            if len(part) >= _TELLING:
                a, b = find(first.setdefault(part, name)), find(name)
                leader[max(a, b)] = min(a, b)
    groups: dict[str, list[str]] = {}
    for name in paragraphs:
        groups.setdefault(find(name), []).append(name)
    sizes = {g: len({p for n in names for p in paragraphs[n]}) for g, names in groups.items()}
    # Biggest first, each to the use that is furthest below its share; equal ones in the order of their hashes.
    filled: dict[Use, float] = dict.fromkeys(_SHARE, 0.0)
    use_of: dict[str, Use] = {}
    for group in sorted(groups, key=lambda g: (-sizes[g], _sha256(g))):
        use = min(_SHARE, key=lambda u: filled[u] / _SHARE[u])
        filled[use] += sizes[group]
        use_of.update(dict.fromkeys(groups[group], use))
    out: dict[Use, list[str]] = {"calibration": [], "verification": []}
    seen: set[str] = set()
    # In the order of their hashes the start of the text, which short runs use, is not all about words with "a".
    for name in sorted(paragraphs, key=_sha256):
        out[use_of[name]] += [p for p in paragraphs[name] if p not in seen]
        seen.update(p for p in paragraphs[name] if len(p) >= _TELLING)
    return out


def _paragraphs(body: str) -> list[str]:
    """Paragraphs without rulers; lines of prose are joined, indented ones (code, grammar) keep their shape."""
    out = []
    for raw in re.split(r"\n\s*\n", body):
        lines = [line.rstrip() for line in raw.splitlines() if not _RULER.fullmatch(line.strip())]
        if not any(lines):
            continue
        prose = not any(line.startswith((" ", "\t")) for line in lines)
        out.append(" ".join(lines) if prose else "\n".join(lines))
    return out
