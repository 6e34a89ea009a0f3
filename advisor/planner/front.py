"""The plans that no other plan beats: quality, speed and memory taken together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advisor.planner.building import Scored


def front(ranked: Sequence[Scored]) -> tuple[Scored, ...]:
    """Those of ``ranked`` that no other one beats or equals in all of KL divergence, decode speed and memory.

    Of plans with equal numbers the one that is ranked first stays. A number that is not known can neither beat nor be
    beaten, so such a plan stays, too. The order is kept.
    """
    kept: list[Scored] = []
    for index, s in enumerate(ranked):
        mine = _figures(s)
        if not any(_beats(_figures(other), mine, first=at < index) for at, other in enumerate(ranked) if at != index):
            kept.append(s)
    return tuple(kept)


def _figures(s: Scored) -> tuple[float | None, ...]:
    """KL divergence, slowness and memory: less is better in each."""
    kld, decode = s.cost.quality.kld, s.cost.speed.decode
    return (
        None if kld is None else float(kld.value),
        None if decode is None else -float(decode.value),
        float(s.cost.memory.total.value),
    )


def _beats(other: tuple[float | None, ...], mine: tuple[float | None, ...], *, first: bool) -> bool:
    """Whether ``other`` is nowhere worse, and better somewhere or, being equal, ranked first."""
    better = False
    for theirs, own in zip(other, mine, strict=True):
        if theirs is None or own is None:
            return False
        if theirs > own:
            return False
        better = better or theirs < own
    return better or first
