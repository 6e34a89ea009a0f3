"""What was dropped, gathered by reason: each reason once, the most useful first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from advisor.facts.plan import Rejected
from advisor.facts.shown import counted, listed, size

# By the family of a rule's id: what a user can change comes first, then what the model or the device rules out, then
# what a runtime cannot do by its nature, and last what was left out as a matter of course.
_FAMILIES: Final = ("FMT-", "GUIDE-", "RT-", "RT-9")
_LIMITS: Final = ("MEM-", "SPD-", "TIME-", "QLT-", "NET-")
# What a rule measured stands behind its reason and differs from candidate to candidate.
_MEASURED: Final = re.compile(r" \([^()]*\.\)$")


class Reason(NamedTuple):
    """One rule and all that it dropped. ``short_by``: what the closest of them lacks, in bytes."""

    rule: str
    because: str
    short_by: int | None
    instead: tuple[str, ...]
    members: tuple[Rejected, ...]


def by_reason(rejected: Sequence[Rejected]) -> list[Reason]:
    """One entry for each rule: limits of the machine and of the user first, then by family, the broadest first."""
    groups: dict[tuple[str, str], list[Rejected]] = {}
    for r in rejected:
        groups.setdefault((r.rule, _MEASURED.sub("", r.because)), []).append(r)
    reasons = []
    for (rule, _), members in groups.items():
        closest = min(members, key=lambda r: (r.short_by is None, r.short_by or 0))
        ordered = (closest, *(r for r in members if r is not closest))
        reasons.append(Reason(rule, closest.because, closest.short_by, closest.instead, ordered))
    return sorted(reasons, key=lambda r: (_family(r), -len(r.members), r.rule))


def _family(reason: Reason) -> int:
    if reason.short_by is not None or reason.rule.startswith(_LIMITS):
        return 0
    found = [i for i, start in enumerate(_FAMILIES, 2) if reason.rule.startswith(start)]
    return found[-1] if found else 1  # the user's own rules


def ways(members: Sequence[Rejected], most: int | None = None) -> str:
    """``awq w4a16-g128 and fp8 in vllm and sglang; q4_k_m in exllama``; beyond ``most`` of a kind ``and 5 more``."""
    by_runtime: dict[str, list[str]] = {}
    for r in members:
        by_runtime.setdefault(r.runtime, []).append(_name(r))
    runtimes: dict[tuple[str, ...], list[str]] = {}
    for runtime, names in by_runtime.items():
        runtimes.setdefault(tuple(dict.fromkeys(names)), []).append(runtime)
    groups = [f"{_some(names, most)} in {_some(tuple(where), most)}" for names, where in runtimes.items()]
    return "; ".join(groups)


def _some(names: tuple[str, ...], most: int | None) -> str:
    if most is None or len(names) <= most + 1:
        return listed(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def _name(r: Rejected) -> str:
    return r.format if r.method in ("gguf", "none", r.format) else f"{r.method} {r.format}"


def text(reason: Reason, most: int | None = None) -> str:
    """The reason as one line: what it dropped, why, the missing bytes of the closest, what to take instead."""
    closest = " The closest is" if len(reason.members) > 1 else " It is"
    short = f"{closest} short by {size(reason.short_by)}." if reason.short_by else ""
    instead = f" Instead: {', '.join(reason.instead)}." if reason.instead else ""
    return f"{ways(reason.members, most)}: {reason.because} ({reason.rule}){short}{instead}"


def summary(rejected: Sequence[Rejected], reasons: Sequence[Reason]) -> str:
    """``46 ways, 18 reasons``."""
    return f"{counted(len(rejected), 'way')}, {counted(len(reasons), 'reason')}"
