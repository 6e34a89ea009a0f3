"""Checked access to a model's configuration: every value has a type and a range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from advisor.errors import AdvisorError
from advisor.facts.text import clean

CODE: Final = "untrusted-model-config"
MAX_LAYERS: Final = 2_048
MAX_WIDTH: Final = 1 << 20
MAX_HEADS: Final = 8_192
MAX_EXPERTS: Final = 65_536
MAX_VOCAB: Final = 1 << 24
MAX_CONTEXT: Final = 1 << 31


class Fields:
    """Checked access to a configuration object; error messages name the field and the value seen."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self.raw = raw
        self.where = where

    def fail(self, name: str, why: str) -> AdvisorError:
        """The error to raise for a field."""
        return AdvisorError(CODE, f"{self.where}: {name} {why}.", data={"field": name})

    def _whole(self, name: str, value: object, low: int, high: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            kind = {str: "text", float: "a fraction", bool: "a truth value"}.get(type(value), type(value).__name__)
            raise self.fail(
                name, f'is {kind} ("{clean(str(value), 40)}"), but must be a whole number from {low} to {high}'
            )
        if not low <= value <= high:
            raise self.fail(name, f"is {clean(str(value), 40)}, but must be from {low} to {high}")
        return value

    def whole(self, *names: str, low: int = 1, high: int) -> int | None:
        """The first present of ``names`` as a whole number in range; ``None`` where all are absent or null."""
        for name in names:
            value = self.raw.get(name)
            if value is not None:
                return self._whole(name, value, low, high)
        return None

    def need(self, *names: str, high: int) -> int:
        """As ``whole``, but absence is an error too."""
        value = self.whole(*names, high=high)
        if value is None:
            raise self.fail(names[0], f"is missing, but must be a whole number from 1 to {high}")
        return value

    def each(self, name: str, length: int, *, low: int = 0, high: int) -> tuple[int, ...] | None:
        """One whole number a layer; a single number stands for all. ``None`` where absent or null."""
        value = self.raw.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            return (self._whole(name, value, low, high),) * length
        if len(value) != length:
            raise self.fail(name, f"lists {len(value)} values, but there are {length} layers")
        return tuple(self._whole(name, v, low, high) for v in value)

    def words(self, name: str, length: int) -> tuple[str, ...] | None:
        """One word a layer, as ``layer_types`` has them; ``None`` where absent or null."""
        value = self.raw.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != length:
            raise self.fail(name, f"does not list {length} layers")
        if not all(isinstance(v, str) for v in value):
            raise self.fail(name, "holds something else than words")
        return tuple(clean(v, 40) for v in value)

    def places(self, name: str, low: int, high: int) -> frozenset[int] | None:
        """Numbers of layers from ``low`` to ``high``, in any order; ``None`` where absent or null."""
        value = self.raw.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(i) is int and low <= i <= high for i in value):
            raise self.fail(name, f"does not list layers from {low} to {high}")
        return frozenset(value)

    def flag(self, name: str, default: bool) -> bool:
        """A truth value."""
        value = self.raw.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(name, f'is "{clean(str(value), 40)}", but must be true or false')
        return value

    def share(self, name: str, default: float, raw: Mapping[str, Any] | None = None) -> float:
        """A number above 0 and at most 1."""
        value = (self.raw if raw is None else raw).get(name)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
            raise self.fail(name, f'is "{clean(str(value), 40)}", but must be above 0 and at most 1')
        return float(value)

    def text(self, name: str) -> str | None:
        """A string, made safe to show."""
        value = self.raw.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.fail(name, f'is "{clean(str(value), 40)}", but must be text')
        return clean(value, 80)

    def part(self, name: str) -> Fields | None:
        """An object within the configuration, such as ``vision_config``; ``None`` where absent or null."""
        value = self.raw.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.fail(name, "is not an object")
        return Fields(value, f"{self.where}: {name}")

    def rope(self) -> Mapping[str, Any]:
        """The rotary scaling, under its old or its new name; empty where there is none."""
        found = self.raw.get("rope_scaling") or self.raw.get("rope_parameters")
        return found if isinstance(found, Mapping) else {}
