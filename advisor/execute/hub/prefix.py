"""The beginning of a remote file, fetched as far as it is read: a header without its gigabytes of weights."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final

_FIRST: Final = 256 << 10
_MOST: Final = 8 << 20

Fetch = Callable[[int, int], bytes]


class Prefix(io.RawIOBase):
    """A file of ``size`` bytes whose bytes come from ``fetch(start, stop)``, each at most once, in steps that grow.

    Reading ahead is bounded: twice what was read so far, at most 8 MiB. What ``fetch`` raises comes out of ``read``.
    """

    def __init__(self, size: int, fetch: Fetch) -> None:
        super().__init__()
        self.size = size
        self._fetch = fetch
        self._held = bytearray()
        self._at = 0

    @property
    def held(self) -> bytes:
        """All that was fetched: the file from its first byte on."""
        return bytes(self._held)

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be read anywhere; up to there it is fetched then."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to where the next read begins; nothing is fetched."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes; fewer only at the end of the file."""
        stop = self.size if size < 0 else min(self.size, self._at + size)
        if stop > len(self._held):
            ahead = max(_FIRST, min(_MOST, len(self._held)))
            upto = min(self.size, max(stop, len(self._held) + ahead))
            self._held += self._fetch(len(self._held), upto)
        raw = bytes(self._held[self._at : stop])
        self._at += len(raw)
        return raw
