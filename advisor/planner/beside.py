"""Advisor's own deployments on the machine that is planned for: which of them would have to go for a plan.

They are found by planning again with their memory counted as free, the fewest first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Final, NamedTuple

from advisor.facts.machine import Machine
from advisor.facts.plan import Occupant, Warning_
from advisor.facts.shown import listed, moment, quantity, size
from advisor.planner.candidate import bits_of

if TYPE_CHECKING:
    from advisor.planner.building import Scored
    from advisor.planner.recommend import Round

# Sets of one size that are planned with; beyond that, deployments are spared one by one.
_MOST_SETS: Final = 20
# A plan is much reduced where it has so many bits a weight fewer, or so much less speed, than it would have alone.
_BITS: Final = 1.0
_SPEED: Final = 1.5


class Beside(NamedTuple):
    """``there``: the deployments that run and are not replaced; ``without(names)``: the machine with those ended;
    ``alone``: the machine with nothing but the deployments on it."""

    there: tuple[Occupant, ...]
    without: Callable[[Collection[str]], Machine]
    alone: Machine

    def fewest(self, works: Callable[[Machine], bool], *, sets: int = _MOST_SETS) -> tuple[Occupant, ...]:
        """The fewest deployments after whose end ``works`` holds, of as many the ones that hold least; none where not
        even the end of all helps. Where there are more than ``sets`` of one size, a set of which none can be spared."""

        def enough(gone: Collection[Occupant]) -> bool:
            return works(self.without([o.name for o in gone]))

        if not self.there or not enough(self.there):
            return ()
        by_size = sorted(self.there, key=lambda o: (sum(o.holds.values()), o.name))
        for count in range(1, len(by_size)):
            if comb(len(by_size), count) > sets:
                break
            for gone in sorted(combinations(by_size, count), key=lambda s: sum(sum(o.holds.values()) for o in s)):
                if enough(gone):
                    return gone
        else:
            return tuple(by_size)
        left = list(by_size)
        for one in by_size:
            spared = [o for o in left if o is not one]
            if spared and enough(spared):
                left = spared
        return tuple(left)


def told(gone: Collection[Occupant]) -> str:
    """``chat (llama-3.1-8b: 6.40 GiB of host, since 2026-11-21 06:49 UTC) ended``."""
    parts = []
    for o in gone:
        held = listed([f"{size(n)} of {key}" for key, n in sorted(o.holds.items()) if n]) or "nothing known"
        since = f", since {moment(o.started_at)}" if o.started_at else ""
        parts.append(f"{o.name} ({o.model}: {held}{since})")
    return f"{listed(parts)} ended"


def much_less(now: Scored, then: Scored) -> tuple[str, ...]:
    """In what ``now`` is much less than ``then``, in words; empty where it is not, or scores as well."""
    if then.score <= now.score or then.status.status == "elsewhere":
        return ()
    said = []
    bits, more = bits_of(now.candidate.format), bits_of(then.candidate.format)
    if bits is not None and more is not None and more - bits >= _BITS:
        lost, had = now.cost.quality.kld, then.cost.quality.kld
        worse = f" (KL divergence {quantity(had)} instead of {quantity(lost)})" if lost and had else ""
        said.append(f"{then.candidate.format} instead of {now.candidate.format}{worse}")
    slow, fast = now.cost.speed.decode, then.cost.speed.decode
    if slow is not None and fast is not None and fast.value >= _SPEED * slow.value:
        said.append(f"{quantity(fast)} instead of {quantity(slow)}")
    return tuple(said)


def reduced(now: Round, beside: Beside, plan: Callable[[Machine], Round]) -> Warning_ | None:
    """A warning where the first plan is much less than it would be without deployments, and which would have to go.

    Args:
        now: what planning beside them came to.
        plan: plans the same on another machine.
    """
    if not beside.there or not now.kept:
        return None
    first = now.kept[0]
    best = plan(beside.without([o.name for o in beside.there])).kept[:1]
    if not best or not much_less(first, best[0]):
        return None

    def as_good(machine: Machine) -> bool:
        there = plan(machine).kept[:1]
        return bool(there) and not much_less(there[0], best[0]) and bool(much_less(first, there[0]))

    gone = beside.fewest(as_good, sets=len(beside.there)) or beside.there
    then = plan(beside.without([o.name for o in gone])).kept[0]
    ends = " && ".join(o.command for o in gone)
    return Warning_(
        code="deployments-in-the-way",
        message=f"With {told(gone)} it would be {listed(much_less(first, then) or much_less(first, best[0]))}: {ends}",
    )
