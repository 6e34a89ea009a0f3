"""One request to one address, in a thread of its own, so that nothing a server does (or leaves undone) can hold us.

Name look-up, connecting, headers that come byte by byte and bodies that stop are all waited for from outside: the
waiting ends at a deadline or when the work is cancelled, and the thread is left to end by itself. The connection is the
one that ``huggingface_hub`` keeps, so what a site configured for it (proxies, certificates) holds.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.execute.hub.access import Patience
from advisor.facts.text import clean

_TICK_S: Final = 0.2
_AHEAD: Final = 16  # chunks read before they are taken


class Trouble(Exception):  # noqa: N818 - not an error yet: it is tried again
    """A failure that may pass; ``wait_s`` is what the server asked to wait."""

    def __init__(self, why: str, *, status: int | None = None, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.status = status
        self.wait_s = wait_s


class _Head(NamedTuple):
    status: int
    headers: dict[str, str]


class _Broken(NamedTuple):
    error: BaseException


class _End:
    pass


class Exchange:
    """A request that was sent; ``status`` and ``headers`` (names in lower case) once ``head`` has returned."""

    def __init__(self, method: str, url: str, headers: Mapping[str, str], patience: Patience, cancel: Cancel) -> None:
        self.url = url
        self.status = 0
        self.headers: dict[str, str] = {}
        self._patience = patience
        self._cancel = cancel
        self._queue: queue.Queue[_Head | bytes | _Broken | _End] = queue.Queue(_AHEAD)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(method, url, dict(headers)), daemon=True, name="hub")
        self._thread.start()

    def head(self) -> None:
        """Wait for status and headers.

        Raises:
            Trouble: no answer in time, or the connection failed.
            AdvisorError: ``interrupted``, or ``offline`` where ``huggingface_hub`` itself was told so.
        """
        item = self._take(time.monotonic() + self._patience.reply_s, "did not answer")
        if not isinstance(item, _Head):
            raise Trouble("the server closed the connection without an answer")
        self.status, self.headers = item.status, item.headers

    def body(self) -> Iterator[bytes]:
        """The body as it comes. A trickle counts as a stall, measured over the time that was spent waiting.

        Raises:
            Trouble: it stalls or breaks off. AdvisorError: ``interrupted``.
        """
        waited, received = 0.0, 0
        while True:
            before = time.monotonic()
            item = self._take(before + self._patience.window_s - waited, "stopped sending")
            waited += time.monotonic() - before
            if isinstance(item, _End):
                return
            if isinstance(item, bytes):
                received += len(item)
                if waited >= self._patience.window_s / 2 and received >= self._patience.window_bytes:
                    waited, received = 0.0, 0
                yield item

    def whole(self, limit: int) -> bytes:
        """A short body.

        Raises:
            Trouble: it stalls, breaks off or takes too long. AdvisorError: ``integrity`` beyond ``limit`` bytes.
        """
        deadline = time.monotonic() + self._patience.document_s
        out = bytearray()
        for chunk in self.body():
            out += chunk
            if len(out) > limit:
                raise AdvisorError("integrity", f"{shown(self.url)} sends more than {limit:,} bytes.")
            if time.monotonic() > deadline:
                raise Trouble(f"took longer than {self._patience.document_s:.0f} s")
        return bytes(out)

    def leave(self) -> None:
        """Have nothing more to do with it; the thread ends when it notices."""
        self._left.set()

    def _take(self, deadline: float, what: str) -> Any:
        while True:
            if self._cancel.is_set:
                self.leave()
                self._cancel.check()
            left = deadline - time.monotonic()
            if left <= 0:
                self.leave()
                raise Trouble(f"{what} within {self._patience.window_s:.0f} s")
            try:
                item = self._queue.get(timeout=min(_TICK_S, left))
            except queue.Empty:
                continue
            if isinstance(item, _Broken):
                raise _trouble(item.error)
            return item

    def _put(self, item: _Head | bytes | _Broken | _End) -> bool:
        while not self._left.is_set():
            try:
                self._queue.put(item, timeout=_TICK_S)
            except queue.Full:
                continue
            return True
        return False

    def _run(self, method: str, url: str, headers: dict[str, str]) -> None:
        try:
            from huggingface_hub import get_session

            timeout = max(self._patience.reply_s, self._patience.window_s)
            with get_session().stream(method, url, headers=headers, follow_redirects=False, timeout=timeout) as reply:
                if not self._put(_Head(reply.status_code, {k.lower(): v for k, v in reply.headers.items()})):
                    return
                if method != "HEAD":
                    for chunk in reply.iter_bytes():
                        if not self._put(chunk):
                            return
            self._put(_End())
        except Exception as e:  # noqa: BLE001 - whatever the client raises is told to the one who waits
            self._put(_Broken(e))


def _trouble(error: BaseException) -> Exception:
    if type(error).__name__ == "OfflineModeIsEnabled":
        return AdvisorError("offline", "HF_HUB_OFFLINE forbids the hub's client to use the network.")
    if isinstance(error, ImportError | AttributeError | TypeError):
        return error  # no server's doing
    return Trouble(clean(f"{type(error).__name__}: {error}", 200))


def shown(url: str) -> str:
    """An address fit for a message: without the signature that addresses of stores carry."""
    return clean(url.partition("?")[0], 160)
