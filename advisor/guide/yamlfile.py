"""Reads a small YAML file strictly, and remembers the line of every key.

Only maps, lists, strings, numbers, ``true``/``false`` and ``null`` (the core schema of YAML 1.2: ``yes`` and ``on``
are strings, ``000`` is a string). Refused: tags such as ``!!python/object``, anchors and aliases (the material of
YAML bombs), duplicate keys, tabs used as indentation, several documents, more than 2 MiB, deep nesting.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, NamedTuple

from advisor.facts.text import clean

MAX_BYTES: Final = 2 * 1024 * 1024
MAX_NODES: Final = 200_000
MAX_DEPTH: Final = 32

_INT: Final = re.compile(r"[-+]?(0|[1-9][0-9_]*)$")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9_]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_CORE_TAGS: Final = {f"tag:yaml.org,2002:{t}" for t in ("map", "seq", "str", "int", "float", "bool", "null")}


class YamlProblem(Exception):  # noqa: N818 - it is the problem itself that is reported
    """A file that cannot be read as the YAML described above; ``line`` counts from one."""

    def __init__(self, line: int, path: str, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.path = path
        self.message = message


class Document(NamedTuple):
    """Plain values, and the line of every key path (``rules[3].when``)."""

    value: Any
    lines: dict[str, int]

    def line(self, path: str) -> int:
        """The line of ``path``, or of the nearest thing around it that has one."""
        while path and path not in self.lines:
            cut = max(path.rfind("."), path.rfind("["))
            path = path[:cut] if cut > 0 else ""
        return self.lines.get(path, 1)


def read(path: Path) -> Document:
    """Read one file.

    Raises:
        YamlProblem: with the line; also where the file cannot be read at all.
    """
    try:
        with path.open("rb") as f:
            raw = f.read(MAX_BYTES + 1)
    except OSError as e:
        raise YamlProblem(1, "", f"cannot be read: {e.strerror or e}") from e
    if len(raw) > MAX_BYTES:
        raise YamlProblem(1, "", f"is larger than {MAX_BYTES // 1024 // 1024} MiB; it was not read")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as e:
        line = raw[: e.start].count(b"\n") + 1
        raise YamlProblem(line, "", f"is not UTF-8 (byte {e.start})") from e
    return parse(text)


def parse(text: str) -> Document:
    """Parse YAML text.

    Raises:
        YamlProblem: with the line and, inside the document, the key path.
    """
    import yaml

    for number, row in enumerate(text.splitlines(), 1):
        indent = row[: len(row) - len(row.lstrip(" \t"))]
        if "\t" in indent and row.strip():
            raise YamlProblem(number, "", "a tab is used as indentation; YAML wants spaces")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Builder(yaml, yaml.parse(text, Loader=loader)).build()
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        what = " ".join(part for part in (e.problem, e.context) if part)
        raise YamlProblem(mark.line + 1 if mark else 1, "", f"is not YAML: {clean(what)}") from e
    except yaml.YAMLError as e:
        raise YamlProblem(1, "", f"is not YAML: {clean(str(e))}") from e


class _Builder:
    def __init__(self, yaml: Any, events: Any) -> None:
        self.yaml = yaml
        self.events = events
        self.lines: dict[str, int] = {}
        self.nodes = 0

    def build(self) -> Document:
        e = self.yaml.events
        value: Any = None
        documents = 0
        for event in self.events:
            if isinstance(event, e.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise YamlProblem(event.start_mark.line + 1, "", "holds more than one document")
                value = self.node(next(self.events), "", 0)
        return Document(value, self.lines)

    def node(self, event: Any, path: str, depth: int) -> Any:
        e = self.yaml.events
        line = event.start_mark.line + 1
        self.lines.setdefault(path, line)
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise YamlProblem(line, path, "is too large or too deeply nested")
        if isinstance(event, e.AliasEvent) or getattr(event, "anchor", None):
            raise YamlProblem(line, path, "anchors and aliases (& and *) are not allowed; write the value out")
        tag = getattr(event, "tag", None)
        if tag and tag != "!" and tag not in _CORE_TAGS:
            raise YamlProblem(line, path, f"the tag {clean(str(tag), 60)} is not allowed; only plain values are")
        if isinstance(event, e.ScalarEvent):
            return self.scalar(event, path, line)
        if isinstance(event, e.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := next(self.events), e.SequenceEndEvent):
                items.append(self.node(event, f"{path}[{len(items)}]", depth + 1))
            return items
        return self.mapping(path, depth)

    def mapping(self, path: str, depth: int) -> dict[str, Any]:
        e = self.yaml.events
        out: dict[str, Any] = {}
        while not isinstance(event := next(self.events), e.MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, e.ScalarEvent) or event.anchor:
                raise YamlProblem(line, path, "a key must be a plain word")
            key = str(event.value)
            inner = f"{path}.{key}" if path else key
            if key in out:
                raise YamlProblem(line, inner, f"the key {clean(key, 60)!r} is written twice (first on line "
                                  f"{self.lines[inner]})")  # fmt: skip
            self.lines[inner] = line
            out[key] = self.node(next(self.events), inner, depth + 1)
        return out

    @staticmethod
    def scalar(event: Any, path: str, line: int) -> str | bool | int | float | None:
        text: str = event.value
        if event.style or event.tag == "!":
            return text
        if text in ("", "~", "null"):
            return None
        if text in ("true", "false"):
            return text == "true"
        if _INT.match(text):
            if len(text) > 40:
                raise YamlProblem(line, path, "the number is too long")
            return int(text.replace("_", ""))
        if _FLOAT.match(text):
            number = float(text.replace("_", ""))
            if number in (float("inf"), float("-inf")):
                raise YamlProblem(line, path, "the number is too large")
            return number
        return text
