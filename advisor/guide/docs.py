"""A rule in words, for ``explain`` and ``rules show``."""

from __future__ import annotations

from advisor.facts.catalogue import FACTS
from advisor.facts.plan import SourceRef
from advisor.guide.schema import Node, Rule

_WORDS = {"lt": "below", "lte": "at most", "gt": "above", "gte": "at least"}
_KINDS = {
    "exclude": "Rules a candidate out",
    "require": "Rules a candidate out unless something holds",
    "set": "Sets a parameter",
    "prefer": "Weighs in the ranking",
    "warn": "Warns",
}


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def condition_text(node: Node) -> str:
    """The condition in words: ``device.vendor is nvidia and device.compute_capability is below 8.9``."""
    if node.op == "not":
        return f"not ({condition_text(node.of[0])})"
    if node.op in ("all", "any"):
        joined = " and " if node.op == "all" else " or "
        parts = [f"({condition_text(n)})" if n.op in ("all", "any") else condition_text(n) for n in node.of]
        return joined.join(parts)
    unit = FACTS[node.fact].unit if node.fact in FACTS else None
    tail = f" {unit}" if unit else ""
    if node.op == "present":
        return f"{node.fact} is {'known' if node.value else 'not known'}"
    if node.op == "eq":
        return f"{node.fact} is {_value(node.value)}"
    if node.op == "in" and isinstance(node.value, tuple):
        return f"{node.fact} is one of {', '.join(_value(v) for v in node.value)}"
    if node.op == "between" and isinstance(node.value, tuple):
        return f"{node.fact} is from {_value(node.value[0])} to {_value(node.value[1])}{tail}"
    return f"{node.fact} is {_WORDS[node.op]} {_value(node.value)}{tail}"


def source_text(source: SourceRef) -> str:
    """One citation on one line."""
    if source.doc is not None:
        return f"guide {source.doc}" + (f" §{source.section}" if source.section else "")
    parts = [source.title or "", source.version or "", source.section or "", source.url or ""]
    return ", ".join(p for p in parts if p)


def effect_text(rule: Rule) -> str:
    """What the rule does: ``Weighs in the ranking: +0.3 on guide``."""
    if rule.kind == "prefer":
        return f"{_KINDS[rule.kind]}: {rule.weight:+g} on {rule.score}"
    if rule.kind == "set":
        return f"{_KINDS[rule.kind]}: {rule.key} = {_value(rule.value)}"
    return _KINDS[rule.kind]


def rule_text(rule: Rule) -> str:
    """The rule as a short page: what it does, when, why, on whose word, and its examples."""
    lines = [
        f"{rule.id} {rule.name} ({rule.family}, layer {rule.layer}{', your own rule' if rule.overlay else ''})",
        f"{effect_text(rule)}.",
        f"When: {condition_text(rule.when)}",
    ]
    if rule.requires is not None:
        lines.append(f"Requires: {condition_text(rule.requires)}")
    lines.append(f"Why: {rule.because}")
    if rule.instead:
        lines.append(f"Instead: {', '.join(rule.instead)}")
    if rule.overrides:
        lines.append(f"Wins over: {', '.join(rule.overrides)}")
    lines.append(f"If a fact is not known: {rule.on_unknown}")
    lines += [f"Source: {source_text(s)}" for s in rule.sources]
    lines += [f"Fires for: {_facts(e)}" for e in rule.examples.fires]
    lines += [f"Silent for: {_facts(e)}" for e in rule.examples.silent]
    lines.append(f"Written in {rule.file}:{rule.line}")
    return "\n".join(lines)


def _facts(example: dict[str, object] | dict[str, str | bool | int | float | tuple[str, ...]]) -> str:
    return ", ".join(f"{k} = {_value(v)}" for k, v in example.items())
