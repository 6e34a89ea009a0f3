"""What an exit code means, and what to type after an error: the answer of ``advisor explain ERROR_CODE``."""

from __future__ import annotations

from typing import Final

from advisor.errors import CATALOGUE
from advisor.facts.reports import Explanation, ExplanationPart
from advisor.facts.words import (
    EXIT_BUG,
    EXIT_BUSY,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_MACHINE,
    EXIT_NETWORK,
    EXIT_NO,
    EXIT_NOT_FOUND,
    EXIT_REFUSED,
    EXIT_USAGE,
)

# Exit code -> what it says of any command, and what helps where the code of the error has nothing of its own.
_CLASSES: Final[dict[int, tuple[str, tuple[str, ...]]]] = {
    EXIT_FAILED: ("the operation failed", ("advisor doctor",)),
    EXIT_USAGE: ("the command line, or a file that it reads, cannot be carried out as it is", ("advisor --help",)),
    EXIT_NO: ("a true no: the answer was worked out, and it is no", ("advisor explain last",)),
    EXIT_NOT_FOUND: ("something that was named is not there", ("advisor --help",)),
    EXIT_MACHINE: ("this machine lacks something: memory, disk, a tool, a permission", ("advisor doctor",)),
    EXIT_NETWORK: ("the network, or the right to fetch something", ("advisor doctor",)),
    EXIT_REFUSED: ("refused for safety or integrity", ("advisor doctor",)),
    EXIT_BUSY: ("something else holds it", ("advisor status",)),
    EXIT_BUG: ("a bug of advisor", ("advisor paths",)),
    EXIT_INTERRUPTED: ("stopped by the user", ("advisor status",)),
}
_NEXT: Final[dict[str, tuple[str, ...]]] = {
    "backend-not-found": ("advisor env list",),
    "bad-machine-file": ("advisor probe --record my-machine",),
    "bad-model-size": ("advisor recommend 8B",),
    "bad-profile": ("advisor paths",),
    "bad-rules": ("advisor rules lint",),
    "bad-settings-file": ("advisor config show",),
    "contradictory-options": ("advisor rules list", "advisor recommend --help"),
    "deployment-not-found": ("advisor status",),
    "disk-full": ("advisor cache info", "advisor cache gc"),
    "env-failed": ("advisor env list", "advisor env doctor"),
    "file-not-found": ("advisor models list",),
    "goal-not-found": ("advisor goals list",),
    "hardware-not-found": ("advisor hardware list",),
    "model-ambiguous": ("advisor models list",),
    "model-needs-download": ("advisor models list",),
    "model-not-found": ("advisor models list",),
    "no-home": ("advisor paths",),
    "not-available": ("advisor recommend",),
    "not-enough-memory": ("advisor probe", "advisor recommend"),
    "not-running": ("advisor status",),
    "not-writable": ("advisor paths",),
    "nothing-fits": ("advisor explain last", "advisor recommend"),
    "plan-not-found": ("advisor recommend",),
    "quality-gate-failed": ("advisor explain last",),
    "rule-not-found": ("advisor rules list",),
    "unknown-fact": ("advisor rules lint",),
    "word-not-found": ("advisor recommend --help",),
}


def explain_error(code: str) -> Explanation:
    """What an error code says, what its exit code means, and what to type next. ``code``: a key of ``CATALOGUE``."""
    entry = CATALOGUE[code]
    meaning, usual = _CLASSES[entry.exit_code]
    alike = sorted(c for c, e in CATALOGUE.items() if e.exit_code == entry.exit_code and c != code)
    means = [f"Exit code {entry.exit_code} means: {meaning}."]
    if alike:
        means.append(f"The same exit code have: {', '.join(alike)}.")
    means.append("With --json the error is in the document: code, message, context, hint and data.")
    then = [f"Look further: {command}" for command in _NEXT.get(code, usual)]
    parts = (("What it means", means), ("What to type next", then))
    return Explanation(
        kind="error",
        id=code,
        title=f"exit code {entry.exit_code}",
        text=entry.explanation,
        details=(*means, *then),
        parts=tuple(ExplanationPart(title=title, sentences=tuple(said)) for title, said in parts),
    )
