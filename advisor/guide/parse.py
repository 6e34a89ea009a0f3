"""Turns the plain values of a rule file into checked rules; every complaint has a line and a key path."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from advisor.errors import did_you_mean
from advisor.facts.catalogue import FACTS, LATE_PREFIXES, SCORES, SET_KEYS, SETTING_PREFIX, FactDef
from advisor.facts.plan import SourceRef
from advisor.facts.text import clean
from advisor.facts.words import is_format
from advisor.guide.conditions import facts_of, parts
from advisor.guide.schema import (
    COMPARISONS,
    KINDS,
    LAYERS,
    MAX_WEIGHT,
    ON_UNKNOWN,
    SCHEMA,
    Examples,
    Node,
    Problem,
    Rule,
    Scalar,
)
from advisor.guide.yamlfile import Document

_ID: Final = re.compile(r"[A-Z][A-Z0-9]{1,9}-[0-9]{3}$")
_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*$")
_VERSION: Final = re.compile(r"\d{1,6}(\.\d{1,6}){0,3}$")
_UNIT: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kKMGT]i?)?(B|b|bytes)$")
_FACTORS: Final = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
                   "ki": 2**10, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}  # fmt: skip
_FILE_KEYS: Final = ("schema", "family", "layer", "title", "rules", "disable")
_RULE_KEYS: Final = (
    "id",
    "name",
    "kind",
    "when",
    "requires",
    "on_unknown",
    "instead",
    "because",
    "sources",
    "examples",
    "overrides",
    "score",
    "weight",
    "key",
    "value",
)
_SOURCE_KEYS: Final = ("doc", "section", "title", "version", "url")
_FORMAT_FACTS: Final = ("candidate.format", "request.format")


class Bad(Exception):  # noqa: N818 - carried to the nearest rule, where it becomes a Problem
    """What is wrong at one key path."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


def _shown(value: object) -> str:
    return clean(repr(value), 60)


def _known(key: str, known: tuple[str, ...] | list[str], path: str, what: str) -> None:
    if key not in known:
        raise Bad(path, f"there is no {what} {clean(key, 60)!r}.{did_you_mean(key, list(known))}")


def _text(value: object, path: str, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Bad(path, f"{what} is text, not {_shown(value)}")
    return " ".join(value.split())


def _mapping(value: object, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Bad(path, f"is a map of names and values, not {_shown(value)}")
    return value


def _sequence(value: object, path: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise Bad(path, f"is a list with at least one entry, not {_shown(value)}")
    return value


def _strings(value: object, path: str) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    return tuple(_text(v, f"{path}[{i}]", "each entry") for i, v in enumerate(items))


def check_value(definition: FactDef, name: str, value: object, path: str) -> Scalar:
    """Check that ``value`` can be a value of the fact or key ``name``.

    Raises:
        Bad: with the expected type, the unit, or the near misses of a word.
    """
    if definition.type == "number":
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Bad(path, _not_a_number(definition, name, value))
        if definition.unit == "bytes" and 0 < abs(value) < 1_000_000:
            raise Bad(path, f"{name} is in bytes; {value} bytes is surely meant in another unit "
                      f"({value} GB is {int(value * 10**9)})")  # fmt: skip
        return value
    if definition.type == "bool":
        if not isinstance(value, bool):
            raise Bad(path, f"{name} is true or false, not {_shown(value)}")
        return value
    if definition.type == "version":
        if not isinstance(value, str) or not _VERSION.match(value):
            raise Bad(path, f'{name} is a version in quotes, such as "0.31.0", not {_shown(value)}')
        return value
    if not isinstance(value, str):
        raise Bad(path, f"{name} is a word, not {_shown(value)}")
    if definition.words:
        _known(value, definition.words, path, f"{name}")
    if name in _FORMAT_FACTS and not is_format(value):
        from advisor.facts.words import FORMAT_WORDS

        near = did_you_mean(value, [*FORMAT_WORDS, "w4a16-g64", "w4a16-g32"])
        raise Bad(path, f"there is no format {clean(value, 60)!r}.{near}")
    return value


def _not_a_number(definition: FactDef, name: str, value: object) -> str:
    unit = f" of {definition.unit}" if definition.unit not in (None, "ratio") else ""
    said = f"{name} is a number{unit}, not {_shown(value)}"
    found = _UNIT.match(value.strip()) if isinstance(value, str) else None
    if found and definition.unit in ("bytes", "bytes/s"):
        number, prefix = float(found[1]), found[2] or ""
        here = int(number * _FACTORS[prefix])
        other = prefix[0].upper() + ("" if prefix.endswith("i") else "i") if prefix else ""
        said += f". Write {here} ({found[1]} {prefix}B)"
        if other:
            said += f" or {int(number * _FACTORS[other])} ({found[1]} {other}B)"
    return said


def condition(value: object, path: str) -> Node:
    """Build the condition at ``path``: ``all``, ``any``, ``not``, or ``{fact: value or list or comparison}``.

    Raises:
        Bad: unknown fact or word, wrong type or unit, empty list.
    """
    entries = _mapping(value, path)
    if not entries:
        raise Bad(path, "a condition must ask for something")
    nodes = tuple(_entry(key, inner, f"{path}.{key}" if path else key) for key, inner in entries.items())
    return nodes[0] if len(nodes) == 1 else Node(op="all", of=nodes)


def _entry(key: str, value: object, path: str) -> Node:
    if key in ("all", "any"):
        items = _sequence(value, path)
        return Node(op=key, of=tuple(condition(v, f"{path}[{i}]") for i, v in enumerate(items)))  # type: ignore[arg-type]
    if key == "not":
        return Node(op="not", of=(condition(value, path),))
    _known(key, tuple(FACTS), path, "fact")
    definition = FACTS[key]
    if isinstance(value, list):
        items = _sequence(value, path)
        words = tuple(check_value(definition, key, v, f"{path}[{i}]") for i, v in enumerate(items))
        return Node(op="in", fact=key, value=words)
    if isinstance(value, dict):
        if not value:
            raise Bad(path, "a comparison must say what it compares with")
        nodes = tuple(_comparison(key, definition, op, v, f"{path}.{op}") for op, v in value.items())
        return nodes[0] if len(nodes) == 1 else Node(op="all", of=nodes)
    return Node(op="eq", fact=key, value=check_value(definition, key, value, path))


def _comparison(fact: str, definition: FactDef, op: str, value: object, path: str) -> Node:
    _known(op, COMPARISONS, path, "comparison")
    if op == "present":
        if not isinstance(value, bool):
            raise Bad(path, f"present is true or false, not {_shown(value)}")
        return Node(op="present", fact=fact, value=value)
    if definition.type not in ("number", "version"):
        raise Bad(path, f"{fact} is no number; {op} compares numbers")
    if op == "between":
        ends = value if isinstance(value, list) else []
        if len(ends) != 2:
            raise Bad(path, f"between takes [lowest, highest], not {_shown(value)}")
        low, high = (check_value(definition, fact, v, f"{path}[{i}]") for i, v in enumerate(ends))
        ordered = parts(str(low)) <= parts(str(high)) if definition.type == "version" else float(low) <= float(high)
        if not ordered:
            raise Bad(path, f"between takes [lowest, highest], but {low} is above {high}")
        return Node(op="between", fact=fact, value=(low, high))
    return Node(op=op, fact=fact, value=check_value(definition, fact, value, path))  # type: ignore[arg-type]


def sources(value: object, path: str) -> tuple[SourceRef, ...]:
    """The citations at ``path``: at least one, each with a ``doc`` or a ``title``.

    Raises:
        Bad: none, unknown keys, or neither doc nor title.
    """
    found = []
    for i, item in enumerate(_sequence(value, path)):
        where = f"{path}[{i}]"
        entry = _mapping(item, where)
        for key, word in entry.items():
            _known(key, _SOURCE_KEYS, f"{where}.{key}", "key of a source")
            _text(word, f"{where}.{key}", f"{key} (in quotes)")
        if "doc" not in entry and "title" not in entry:
            raise Bad(where, "a source has a doc or a title")
        if "doc" in entry and not re.fullmatch(r"[0-9]{3}", entry["doc"]):
            raise Bad(f"{where}.doc", f"doc is a guide text in three digits, not {_shown(entry['doc'])}")
        found.append(SourceRef(**entry))
    return tuple(found)


def _examples(value: object, path: str) -> Examples:
    entry = _mapping(value, path)
    for key in entry:
        _known(key, ("fires", "silent"), f"{path}.{key}", "key of examples")
    sides: dict[str, tuple[dict[str, Scalar | tuple[str, ...]], ...]] = {}
    for side in ("fires", "silent"):
        if side not in entry:
            raise Bad(path, f"a rule needs an example that {side if side == 'fires' else 'stays silent'}")
        items = _sequence(entry[side], f"{path}.{side}")
        sides[side] = tuple(_example(v, f"{path}.{side}[{i}]") for i, v in enumerate(items))
    return Examples(fires=sides["fires"], silent=sides["silent"])


def _example(value: object, path: str) -> dict[str, Scalar | tuple[str, ...]]:
    out: dict[str, Scalar | tuple[str, ...]] = {}
    for fact, given in _mapping(value, path).items():
        where = f"{path}.{fact}"
        _known(fact, tuple(FACTS), where, "fact")
        if FACTS[fact].type == "words":
            out[fact] = tuple(str(check_value(FACTS[fact], fact, v, where)) for v in _sequence(given, where))
        else:
            out[fact] = check_value(FACTS[fact], fact, given, where)
    return out


def rule(value: object, path: str, doc: Document, *, file: str, family: str, layer: str, overlay: bool) -> Rule:
    """Build one rule.

    Raises:
        Bad: what is wrong and where.
    """
    entry = _mapping(value, path)
    for key in entry:
        _known(key, _RULE_KEYS, f"{path}.{key}", "key of a rule")
    for key in ("id", "name", "kind", "when", "because", "sources", "examples"):
        if key not in entry:
            raise Bad(path, f"the key {key!r} is missing")
    rule_id = _text(entry["id"], f"{path}.id", "id")
    if not _ID.match(rule_id):
        raise Bad(f"{path}.id", f"an id is FAMILY-123, not {_shown(rule_id)}")
    name = _text(entry["name"], f"{path}.name", "name")
    if not _NAME.match(name):
        raise Bad(f"{path}.name", f"a name is words-with-hyphens, not {_shown(name)}")
    kind = _text(entry["kind"], f"{path}.kind", "kind")
    _known(kind, KINDS, f"{path}.kind", "kind")
    default = "warn" if kind in ("exclude", "require") else "skip"
    on_unknown = _text(entry.get("on_unknown", default), f"{path}.on_unknown", "on_unknown")
    _known(on_unknown, ON_UNKNOWN, f"{path}.on_unknown", "choice of on_unknown")
    extra = _extras(kind, entry, path)
    when = condition(entry["when"], f"{path}.when")
    if str(extra.get("key", "")).startswith(SETTING_PREFIX):
        for fact in sorted(f for f in facts_of(when) if f.startswith(LATE_PREFIXES)):
            raise Bad(f"{path}.when", f"{extra['key']} is set before {fact} is known")
    return Rule(
        id=rule_id,
        name=name,
        kind=kind,  # type: ignore[arg-type]
        when=when,
        because=_text(entry["because"], f"{path}.because", "because"),
        sources=sources(entry["sources"], f"{path}.sources"),
        examples=_examples(entry["examples"], f"{path}.examples"),
        layer=layer,  # type: ignore[arg-type]
        family=family,
        file=file,
        line=doc.line(path),
        overlay=overlay,
        on_unknown=on_unknown,  # type: ignore[arg-type]
        instead=_strings(entry["instead"], f"{path}.instead") if "instead" in entry else (),
        overrides=_strings(entry["overrides"], f"{path}.overrides") if "overrides" in entry else (),
        **extra,
    )


def _extras(kind: str, entry: dict[str, Any], path: str) -> dict[str, Any]:
    wanted = {"require": ("requires",), "prefer": ("score", "weight"), "set": ("key", "value")}.get(kind, ())
    for key in ("requires", "score", "weight", "key", "value"):
        if key in entry and key not in wanted:
            raise Bad(f"{path}.{key}", f"{key} does not belong to a rule of kind {kind}")
        if key not in entry and key in wanted:
            raise Bad(path, f"a rule of kind {kind} needs {key}")
    if kind == "require":
        return {"requires": condition(entry["requires"], f"{path}.requires")}
    if kind == "prefer":
        score = _text(entry["score"], f"{path}.score", "score")
        _known(score, SCORES, f"{path}.score", "score")
        weight = entry["weight"]
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < abs(weight) <= MAX_WEIGHT:
            raise Bad(f"{path}.weight", f"weight is a number from -{MAX_WEIGHT} to {MAX_WEIGHT}, not {_shown(weight)}")
        return {"score": score, "weight": float(weight)}
    if kind == "set":
        key = _text(entry["key"], f"{path}.key", "key")
        _known(key, tuple(SET_KEYS), f"{path}.key", "key to set")
        return {"key": key, "value": check_value(SET_KEYS[key], key, entry["value"], f"{path}.value")}
    return {}


def rules(doc: Document, *, file: str, overlay: bool) -> tuple[list[Rule], list[str], list[Problem]]:
    """The rules of one file, the ids it disables, and what is wrong with it. A bad rule does not stop the others."""
    problems: list[Problem] = []

    def attempt(build: Callable[[], Any]) -> Any:
        try:
            return build()
        except Bad as bad:
            problems.append(Problem(file=file, line=doc.line(bad.path), path=bad.path, message=bad.message))
            return None

    def header() -> tuple[str, str]:
        top = _mapping(doc.value, "")
        if top.get("schema") != SCHEMA:
            raise Bad("schema", f"the schema is {SCHEMA!r}, not {_shown(top.get('schema'))}")
        for key in top:
            _known(key, _FILE_KEYS, key, "key of a rule file")
        family = _text(top.get("family"), "family", "family")
        layer = _text(top.get("layer", "user" if overlay else None), "layer", "layer")
        _known(layer, LAYERS, "layer", "layer")
        if overlay and layer != "user":
            raise Bad("layer", "rules of your own are of the layer user")
        if top.get("disable") is not None and not overlay:
            raise Bad("disable", "only rules of your own may disable others")
        return family, layer

    head = attempt(header)
    if head is None:
        return [], [], problems
    disabled = attempt(lambda: _strings(doc.value["disable"], "disable")) if doc.value.get("disable") else ()
    entries = doc.value.get("rules")
    if not entries and isinstance(entries, list | None) and disabled:
        return [], list(disabled), problems
    listed = attempt(lambda: _sequence(entries, "rules")) or []
    found: list[Rule] = []
    for i, item in enumerate(listed):
        path = f"rules[{i}]"
        try:
            found.append(rule(item, path, doc, file=file, family=head[0], layer=head[1], overlay=overlay))
        except Bad as bad:
            problems.append(Problem(file=file, line=doc.line(bad.path), path=bad.path, message=bad.message))
    return found, list(disabled or ()), problems
