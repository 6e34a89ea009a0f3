"""The one base class of every shape that crosses a file, CLI or network boundary."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

T = TypeVar("T", bound="Shape")


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Frozen, keyword-only, unknown keys refused. Names on the wire are the attribute names."""

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists, numbers and strings, in declaration order."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built

    def dumps(self) -> bytes:
        """Return canonical UTF-8 JSON (keys sorted), fit for hashing and for writing to a file."""
        return msgspec.json.encode(self, order="sorted")


def from_json(kind: type[T], data: object) -> T:
    """Build ``kind`` from decoded JSON or YAML.

    Raises:
        msgspec.ValidationError: with the path of the offending key.
    """
    return msgspec.convert(data, kind)


def loads(kind: type[T], raw: bytes | str) -> T:
    """Build ``kind`` from JSON text.

    Raises:
        msgspec.ValidationError: wrong type, missing or unknown key.
        msgspec.DecodeError: not JSON.
    """
    return msgspec.json.decode(raw, type=kind)


def dumps_any(value: object) -> bytes:
    """Canonical JSON of any value made of shapes and builtins; the input of every content hash."""
    return msgspec.json.encode(value, order="sorted")
