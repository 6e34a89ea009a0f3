"""Of what rules advise instead, only what is legal here: an alternative that another rule forbids helps nobody."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from advisor.facts.words import METHODS, RUNTIMES

if TYPE_CHECKING:
    from advisor.planner.recommend import Round

_OWN: Final = ("this method", "the same method", "this format", "the same format")
_SIXTEEN: Final = re.compile(r"^(?:16-bit|f16|bf16) weights\b")
_ASIDE: Final = re.compile(r" \([^()]*\)")
_WORD: Final = re.compile(r"[a-z0-9][a-z0-9.\-]*")


class Legal:
    """What can run on the machine; where nothing does, what limits alone stand against."""

    def __init__(self, found: Round) -> None:
        kept = [s.candidate for s in found.kept] or [d.candidate for d in found.dropped if d.late]
        self._can = {(c.method, c.runtime) for c in kept}
        self._seen = self._can | {(d.candidate.method, d.candidate.runtime) for d in found.dropped}

    def of(self, instead: tuple[str, ...], method: str) -> tuple[str, ...]:
        """Those of ``instead`` that are no way to run a model (advice to a person), or one that is legal."""
        return tuple(text for text in instead if self._holds(text, method))

    def _holds(self, text: str, method: str) -> bool:
        methods, runtimes = ways_of(text, method)
        if not methods:
            return True
        tried = {(m, r) for m, r in self._seen if m in methods and (not runtimes or r in runtimes)}
        return not tried or bool(tried & self._can)  # what was not looked at (--method, --runtime) is not judged


def ways_of(text: str, method: str) -> tuple[frozenset[str], frozenset[str]]:
    """The methods and the runtimes that an advice names (none: any); no methods where it names no way at all.

    ``method`` is the one that it is an alternative to: ``this method in vllm``.
    """
    before, _, after = _ASIDE.sub("", text.lower()).partition(" in ")
    runtimes = frozenset(w.rstrip(".") for w in _WORD.findall(after)) & frozenset(RUNTIMES)
    if before.startswith(_OWN):
        return frozenset([method]), runtimes
    if before.startswith("the same model as "):
        return frozenset(_WORD.findall(before)) & frozenset(METHODS), frozenset()
    if _SIXTEEN.match(before):
        return frozenset(["none"]), runtimes
    first = _WORD.match(before)
    if first is None or first[0].rstrip(".") not in METHODS or first[0] == "none":
        return frozenset(), frozenset()
    return frozenset(_WORD.findall(before)) & frozenset(METHODS) - {"none"}, runtimes
