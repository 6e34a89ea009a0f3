"""Foreign text is made safe to show."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from advisor.facts.text import clean


def test_escapes_controls_and_directions_go() -> None:
    assert clean("\x1b[31mred\x1b[0m \x1b]0;title\x07name\u202egnp.exe\x00") == "red namegnp.exe"
    assert clean("a\r\nb\tc") == "a b c"
    assert clean("a\nb", one_line=False) == "a\nb"


def test_long_text_is_cut() -> None:
    assert len(clean("x" * 10_000)) == 200
    assert clean("x" * 300, None) == "x" * 300


@given(st.text())
def test_nothing_dangerous_is_left(text: str) -> None:
    out = clean(text, None)
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0x202A <= ord(c) <= 0x202E for c in out)
