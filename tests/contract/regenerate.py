"""Writes the pages that are made from the code: ``python -m tests.contract.regenerate``."""

from __future__ import annotations

from pathlib import Path

from advisor.errors import CATALOGUE
from advisor.facts import schemas
from advisor.guide.load import load_pack
from advisor.guide.pages import pages as rule_pages

DOCS = Path(__file__).resolve().parents[2] / "docs"
_CLASSES = {
    1: "the operation failed",
    2: "usage, or options that contradict each other",
    3: "a true no",
    4: "not found",
    5: "this machine",
    6: "network or authorization",
    7: "refused for safety or integrity",
    8: "busy or conflict",
    70: "a bug in advisor",
    130: "interrupted",
}


def errors_page() -> str:
    """``docs/errors.md``."""
    parts = [
        "# Error codes",
        "",
        "Made from the catalogue in `advisor/errors.py`; `advisor explain CODE` says the same. A code is never reused",
        "for something else. The exit code of the process follows from the code.",
        "",
    ]
    for exit_code, meaning in _CLASSES.items():
        parts += [f"# Exit code {exit_code}: {meaning}", ""]
        for code, entry in CATALOGUE.items():
            if entry.exit_code == exit_code:
                parts += [f"## {code}", "", entry.explanation, ""]
    return "\n".join(parts).rstrip() + "\n"


def pages() -> dict[Path, bytes]:
    """Every generated file with its content."""
    made = {DOCS / "schemas" / f"{name}.json": schemas.published(name) for name in schemas.names()}
    made[DOCS / "errors.md"] = errors_page().encode()
    made |= {DOCS / "rules" / name: text.encode() for name, text in rule_pages(load_pack().rules).items()}
    return made


def main() -> None:
    """Write them all, and delete schemas and pages of rules that are no more."""
    made = pages()
    for folder in ("schemas", "rules"):
        (DOCS / folder).mkdir(parents=True, exist_ok=True)
    for old in (*(DOCS / "schemas").glob("*.json"), *(DOCS / "rules").glob("*.md")):
        if old not in made:
            old.unlink()
    for path, raw in made.items():
        path.write_bytes(raw)


if __name__ == "__main__":
    main()
