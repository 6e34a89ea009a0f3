"""Ctrl-C: the first one asks the work to stop at its next safe point, the second one stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from advisor.events import Cancel

_SIGNALS: Final = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def cancelling(cancel: Cancel, tell: Callable[[str], None]) -> Iterator[None]:
    """Turn the first interrupt into ``cancel.set()`` while the block runs; the second raises ``KeyboardInterrupt``.

    Signals that were ignored (``nohup``) stay ignored. Outside the main thread nothing is installed.

    Args:
        cancel: the flag of the work.
        tell: told a sentence at the first interrupt.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if cancel.is_set:
            raise KeyboardInterrupt
        cancel.set()
        tell("Stopping at the next safe point; once more stops at once.")

    before = {s: signal.getsignal(s) for s in _SIGNALS}
    try:
        for number, old in before.items():
            if old is not signal.SIG_IGN and old is not None:
                signal.signal(number, handle)
        yield
    finally:
        for number, old in before.items():
            if old is not None:
                signal.signal(number, old)
