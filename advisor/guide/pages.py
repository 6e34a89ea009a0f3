"""The guide as pages, ``docs/rules/``: one for each family of rules, and one that says what became of each section of
the texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from advisor.guide.docs import condition_text, effect_text, source_text
from advisor.guide.schema import Rule
from advisor.guide.texts import CHECKS, SECTIONS

_LAYERS: Final = {"facts": "a fact, which nothing overrides", "guide": "a preference of the guide", "user": "your own"}
_MADE: Final = (
    "Made from `rules/*.yaml` by `python -m tests.contract.regenerate`; `advisor explain RULE` says the same."
)


def pages(rules: Sequence[Rule]) -> dict[str, str]:
    """Every page by its file name: ``README.md`` and one for each family."""
    ordered = sorted(rules, key=lambda r: r.id)
    families = sorted({r.family for r in ordered})
    made = {f"{name}.md": _family(name, [r for r in ordered if r.family == name]) for name in families}
    return {"README.md": _index(ordered, families), **made}


def _family(name: str, rules: Sequence[Rule]) -> str:
    parts = [f"# Rules: {name}", "", _MADE, ""]
    for rule in rules:
        parts += _entry(rule)
    return "\n".join(parts).rstrip() + "\n"


def _entry(rule: Rule) -> list[str]:
    lines = [f"## {rule.id}", "", f"**{rule.name}**: {effect_text(rule)}; {_LAYERS[rule.layer]}.", "", rule.because, ""]
    lines.append(f"- When: {condition_text(rule.when)}")
    if rule.requires is not None:
        lines.append(f"- Requires: {condition_text(rule.requires)}")
    if rule.instead:
        lines.append(f"- Instead: {'; '.join(rule.instead)}")
    if rule.overrides:
        lines.append(f"- Wins over: {', '.join(rule.overrides)}")
    lines.append(f"- Where a fact is not known: {rule.on_unknown}")
    lines += [f"- Source: {source_text(s)}" for s in rule.sources]
    lines += [f"- Fires: {_facts(e)}" for e in rule.examples.fires]
    lines += [f"- Silent: {_facts(e)}" for e in rule.examples.silent]
    return [*lines, ""]


def _facts(example: dict[str, str | bool | int | float | tuple[str, ...]]) -> str:
    def shown(value: object) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return ", ".join(f"`{name} = {shown(value)}`" for name, value in example.items())


def _index(rules: Sequence[Rule], families: Iterable[str]) -> str:
    parts = ["# The selection guide as rules", "", _MADE, ""]
    parts += ["| rule | effect | name |", "|---|---|---|"]
    parts += [f"| {_link(r)} | {effect_text(r)} | {r.name} |" for r in rules]
    parts += ["", "Families: " + ", ".join(f"[{name}]({name}.md)" for name in families) + ".", ""]
    parts += _disagreements(rules)
    parts += _sections(rules)
    return "\n".join(parts).rstrip() + "\n"


def _link(rule: Rule) -> str:
    return f"[{rule.id}]({rule.family}.md#{rule.id.lower()})"


def _disagreements(rules: Sequence[Rule]) -> list[str]:
    """Rules whose reason speaks of what texts say against each other, or of what has changed since."""
    found = [r for r in rules if "text 0" in r.because.lower() or "texts 0" in r.because.lower()]
    parts = ["## Where texts disagree or are dated", "", "Both stay as rules; the weight or the override decides.", ""]
    parts += ["| rule | effect | why |", "|---|---|---|"]
    return [*parts, *(f"| {_link(r)} | {effect_text(r)} | {r.because} |" for r in found), ""]


def _sections(rules: Sequence[Rule]) -> list[str]:
    """Which section became which rules, or which check; sections that only explain are left out."""
    cited: dict[tuple[str, str], list[Rule]] = {}
    for rule in rules:
        for s in rule.sources:
            if s.doc is not None and s.section is not None and rule not in cited.get((s.doc, s.section), []):
                cited.setdefault((s.doc, s.section), []).append(rule)
    parts = ["## From the texts to the rules", "", "| text | section | rules | checks |", "|---|---|---|---|"]
    for doc, sections in SECTIONS.items():
        for section in sections:
            found, check = cited.get((doc, section), []), CHECKS.get((doc, section), "")
            if found or check:
                parts.append(f"| {doc} | {section} | {', '.join(_link(r) for r in found)} | {check} |")
    return [*parts, ""]
