from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.cli import redact

ENV = {"HF_TOKEN": "secret-value-1", "MY_API_KEY": "another-secret", "PATH": "/usr/bin", "SHORT_TOKEN": "abc"}


def test_values_of_secret_variables_go() -> None:
    assert redact.text("a secret-value-1 b another-secret c", ENV) == "a [redacted] b [redacted] c"


def test_other_values_stay() -> None:
    assert redact.text("/usr/bin abc", ENV) == "/usr/bin abc"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("token hf_abcdefghijklmnopqrst here", "token [redacted] here"),
        ("Bearer abcdefghijkl", "Bearer [redacted]"),
        ("https://me:pass@host/x", "https://[redacted]@host/x"),
        ("the bearer of news", "the bearer of news"),
        ("hf_hub", "hf_hub"),
    ],
)
def test_known_forms_go(text: str, left: str) -> None:
    assert redact.text(text, {}) == left


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_secret_is_left(before: str, after: str) -> None:
    assert "secret-value-1" not in redact.text(before + "secret-value-1" + after, ENV)
