"""An error as lines of text: what, about what, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from advisor.facts.text import clean

if TYPE_CHECKING:
    from advisor.facts.results import ErrorBody


def lines(error: ErrorBody, *, verbose: bool = False, told: bool = False) -> Iterator[str]:
    """``error: ...``, the context indented, then ``hint: ...``; with ``verbose`` also the code.

    ``told``: the message and its context stand above already, as a warning.
    """
    yield "error: stopped at that." if told else f"error: {clean(error.message, 2000)}"
    for text in () if told else dict.fromkeys(error.context):
        for line in clean(text, 8000, one_line=False).split("\n"):
            yield f"  {line}"
    if error.hint:
        yield f"hint: {clean(error.hint, 1000)}"
    if verbose:
        yield f"code: {error.code}; more: advisor explain {error.code}"
