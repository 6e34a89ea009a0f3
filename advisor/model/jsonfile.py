"""JSON from outside: size, nesting, number of containers, duplicate keys and NaN are bounded before use."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from advisor.errors import AdvisorError
from advisor.facts.text import clean
from advisor.model.gguf import open_regular

MAX_CONFIG_BYTES: Final = 4 << 20
MAX_DEPTH: Final = 64
MAX_CONTAINERS: Final = 200_000

# A string (closed or running to the end, so that the scan stays linear) or a bracket.
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\(?:.|\Z))*+(?:"|\Z)|[\[{]|[\]}]', re.DOTALL)


class _RefusedError(ValueError):
    """A value that JSON from outside may not have."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RefusedError(f'the key "{clean(key, 80)}" appears a second time')
            seen.add(key)
    return out


def _constant(word: str) -> Any:
    raise _RefusedError(f"{word} is not a number that JSON has")


def parse(raw: bytes, *, code: str, what: str, max_depth: int = MAX_DEPTH, max_containers: int = MAX_CONTAINERS) -> Any:
    """Decode UTF-8 JSON.

    Args:
        raw: the text, already bounded in size.
        code: error code to raise.
        what: the file, for messages.
        max_depth: brackets inside brackets.
        max_containers: lists and objects in all.

    Raises:
        AdvisorError: ``code``; not UTF-8, not JSON, too deep, too many containers, a duplicate key, NaN or Infinity.
    """

    def fail(why: str) -> AdvisorError:
        return AdvisorError(code, f"{what} cannot be used: {why}.")

    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as e:
        raise fail(f"it is not UTF-8 text (byte {e.start})") from e
    depth = containers = 0
    for token in _TOKEN.finditer(text):
        first = text[token.start()]
        if first in "[{":
            depth += 1
            containers += 1
            if depth > max_depth:
                raise fail(f"it nests deeper than {max_depth} levels at character {token.start()}")
            if containers > max_containers:
                raise fail(f"it has more than {max_containers} lists and objects")
        elif first in "]}":
            depth -= 1
    try:
        return json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant)
    except json.JSONDecodeError as e:
        raise fail(f"it is not JSON: {e.msg} at line {e.lineno}, column {e.colno}") from e
    except (ValueError, RecursionError) as e:
        raise fail(clean(str(e))) from e


def read_bounded(path: Path, limit: int, code: str) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes.

    Raises:
        AdvisorError: ``code`` where it is larger; ``file-not-found`` or ``file-unreadable``.
    """
    file, size = open_regular(path)
    with file:
        if size > limit:
            raise AdvisorError(code, f"{clean(path.name)} has {size} bytes; at most {limit} are read.")
        try:
            return file.read(limit)
        except OSError as e:
            raise AdvisorError("file-unreadable", f"{clean(path.name)} cannot be read: {clean(str(e))}.") from e


def read_object(path: Path, *, code: str = "untrusted-model-config", limit: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """A JSON file that must hold one object.

    Raises:
        AdvisorError: as ``parse`` and ``read_bounded``; ``code`` where it holds something else.
    """
    what = clean(path.name)
    found = parse(read_bounded(path, limit, code), code=code, what=what)
    if not isinstance(found, dict):
        raise AdvisorError(code, f"{what} holds {type(found).__name__}, not an object.")
    return found
