"""Lines break between words only, and columns share the room that there is."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from advisor.cli.layout import Need, fit, length, need, wrapped

WORDS = st.lists(st.text("abc/-é漢", min_size=1, max_size=30), max_size=12).map(" ".join)


@given(WORDS, st.integers(1, 60))
def test_no_word_is_broken_and_no_line_is_too_long_without_need(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert " ".join(lines) == text
    for line in lines:
        assert length(line) <= width or max(map(length, line.split(" "))) > width
    # No line could have taken the next one's first word, too.
    for line, following in pairwise(lines):
        assert length(line) + 1 + length(following.split(" ")[0]) > width


def test_a_word_that_fits_nowhere_stays_behind_its_label() -> None:
    assert wrapped("path /a/very/long/path is here", 10) == ["path /a/very/long/path", "is here"]


def test_columns_share_what_is_left() -> None:
    assert fit([Need(2, 2), Need(5, 30), Need(4, 4)], 40, 2) == [2, 30, 4]
    assert fit([Need(2, 2), Need(5, 30), Need(4, 4)], 30, 2) == [2, 20, 4]
    assert fit([Need(20, 20), Need(20, 20)], 80, 2) == [20, 20]


def test_only_the_last_column_may_be_narrower_than_its_words() -> None:
    assert fit([Need(10, 10), Need(90, 90)], 60, 2) == [10, 48]
    assert fit([Need(90, 90), Need(10, 10)], 60, 2) is None


def test_what_texts_need() -> None:
    assert need([("two words", False)]) == Need(5, 9)
    assert need([("two words", True), ("", False)]) == Need(9, 9)
