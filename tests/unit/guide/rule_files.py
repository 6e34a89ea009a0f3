"""Writes small rule files."""

from __future__ import annotations

from pathlib import Path

HEAD = "schema: advisor/rules/v1\nfamily: test\nlayer: guide\nrules:\n"


def rule(rule_id: str = "TST-001", **changes: str | None) -> str:
    """One rule as YAML text; values are YAML text, ``None`` leaves the key out."""
    keys: dict[str, str | None] = {
        "id": rule_id,
        "name": f"rule-{rule_id.lower()}",
        "kind": "exclude",
        "when": "{candidate.method: awq}",
        "because": "A reason that is long enough to read.",
        "sources": '[{doc: "000", section: "7"}]',
        "examples": "{fires: [{candidate.method: awq}], silent: [{candidate.method: gguf}]}",
    }
    keys |= changes
    lines = [f"{k}: {v}" for k, v in keys.items() if v is not None]
    return "  - " + "\n    ".join(lines) + "\n"


def write(folder: Path, name: str, *rules: str, head: str = HEAD) -> Path:
    """Write a rule file and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(head + "".join(rules), encoding="utf-8")
    return path
