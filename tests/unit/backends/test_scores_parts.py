"""What the measuring runners do without numpy or torch: choices as tokens, digests, loops over rows."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.backends.support import runner

SCORES = runner("scores")
TEXT = st.text(st.sampled_from("ab c\n"), min_size=1, max_size=12)


def characters(text: str) -> list[int]:
    """A tokenizer that begins with a token of its own."""
    return [1, *(ord(c) for c in text)]


def pairs(text: str) -> list[int]:
    """A tokenizer that merges two characters wherever it can: over the border of prompt and choice too."""
    return [1, *(hash(text[i : i + 2]) % 1000 + 2 for i in range(0, len(text), 2))]


@pytest.mark.parametrize(
    ("prompt", "choice", "scored"),
    [
        ("Answer:", "Paris", " Paris"),
        ("Answer: ", "Paris", " Paris"),
        ("Answer:\n", "Paris", "\nParis"),
        ("Answer:", " Paris", " Paris"),
    ],
)
def test_blanks_between_a_prompt_and_a_choice_belong_to_the_choice(prompt: str, choice: str, scored: str) -> None:
    found = SCORES.option(characters, prompt, choice)
    assert "".join(chr(t) for t in found.tokens[found.first :]) == scored
    assert found.length == 5


@given(TEXT.filter(str.strip), TEXT.filter(str.strip))
def test_something_is_always_scored_and_something_always_stands_before_it(prompt: str, choice: str) -> None:
    for encode in (characters, pairs):
        found = SCORES.option(encode, prompt, choice)
        assert 1 <= found.first < len(found.tokens)
        assert found.length >= 1


def test_different_tokens_have_different_digests() -> None:
    assert SCORES.digest([1, 23]) != SCORES.digest([12, 3])
    assert SCORES.digest([1, 23]) == SCORES.digest([1, 23])


@given(st.integers(0, 200))
def test_rows_are_covered_once(rows: int) -> None:
    assert [i for piece in SCORES.blocks(rows) for i in range(piece.start, piece.stop)] == list(range(rows))


def test_perplexity() -> None:
    assert SCORES.perplexity(20.0, 10) == pytest.approx(math.e**2)
    assert SCORES.perplexity(1.0, 0) is None
    assert SCORES.perplexity(1e6, 10) is None
