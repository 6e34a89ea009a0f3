"""The user's own rule files: which there are, what each does, and how that is told in every answer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from advisor.facts.shown import listed
from advisor.guide.schema import Overlay, Rule, RulePack

# In the working folder, beside ``advisor.yaml``: rules of the project, which stand before those of the user's folder.
PROJECT_FILE: Final = "advisor-rules.yaml"


def project_file(folder: Path | None = None) -> Path | None:
    """The project's rule file in ``folder`` (the working folder), where there is one."""
    try:
        path = (folder or Path.cwd()) / PROJECT_FILE
        return path if path.is_file() else None
    except OSError:  # a working folder that is gone or may not be looked into
        return None


def gathered(files: Iterable[str], rules: Iterable[Rule], disabled: Iterable[tuple[str, str]]) -> tuple[Overlay, ...]:
    """What each of the user's files does; files without effect are left out.

    Args:
        files: their names as rules carry them.
        rules: the rules in force.
        disabled: (rule, file that disables it), of those that really went.
    """
    rules, disabled = tuple(rules), tuple(disabled)
    ids = {r.id for r in rules}
    found = []
    for name in sorted(set(files)):
        own = [r for r in rules if r.overlay and r.file == name]
        overlay = Overlay(
            file=name,
            adds=tuple(sorted(r.id for r in own)),
            disables=tuple(sorted({rule for rule, file in disabled if file == name})),
            overrides=tuple(sorted({o for r in own for o in r.overrides if o in ids})),
        )
        if overlay.adds or overlay.disables:
            found.append(overlay)
    return tuple(found)


def told(pack: RulePack) -> tuple[str, ...]:
    """One sentence for each of the user's files that takes part."""
    out = []
    for o in pack.overlays:
        does = [
            f"{verb} {listed(ids)}"
            for verb, ids in (("adds", o.adds), ("disables", o.disables), ("overrides", o.overrides))
            if ids
        ]
        out.append(f"{o.file} takes part: it {listed(does)}.")
    return tuple(out)


def disabling(pack: RulePack, rule_id: str) -> tuple[str, ...]:
    """The user's files that disable a rule."""
    return tuple(o.file for o in pack.overlays if rule_id in o.disables)
