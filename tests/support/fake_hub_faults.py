"""Requests to the fake hub, and what goes wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_BLOCK = 64 << 10


@dataclass
class Seen:
    """One request: ``host`` is ``hub`` or ``cdn``; headers in lower case."""

    host: str
    method: str
    path: str
    headers: dict[str, str]

    @property
    def start(self) -> int | None:
        """The first byte asked for, ``None`` without a range."""
        text = self.headers.get("range")
        return int(text.removeprefix("bytes=").partition("-")[0]) if text else None


@dataclass
class Fault:
    """What goes wrong with a request that ``when`` is true for, at most ``times`` times (``None``: always).

    Attributes:
        status: answer this, with ``headers``, instead.
        cut_after: close the connection after so many bytes of the body.
        stall_after: stop sending after so many bytes, and keep the connection open.
        trickle: send the body byte by byte with this pause in seconds; ``trickle_head``: the headers too.
        ignore_range: answer a range request with the whole file and status 200.
        corrupt: other bytes, as many as there should be.
        redirect: send on to this address.
        before: called before anything is answered.
    """

    when: Callable[[Seen], bool]
    times: int | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    stall_after: int | None = None
    trickle: float | None = None
    trickle_head: bool = False
    ignore_range: bool = False
    corrupt: bool = False
    redirect: str | None = None
    before: Callable[[], None] | None = None


def blocks(size: int, fault: Fault | None) -> Iterator[int]:
    """The sizes of the pieces in which a body of ``size`` bytes is sent, as far as it is."""
    limit, step = size, _BLOCK
    if fault is not None:
        for stop in (fault.cut_after, fault.stall_after):
            limit = min(limit, stop) if stop is not None else limit
        step = 1 if fault.trickle is not None else _BLOCK
    at = 0
    while at < limit:
        yield min(step, limit - at)
        at += step
