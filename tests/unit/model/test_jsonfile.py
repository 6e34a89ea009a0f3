from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.model.jsonfile import MAX_CONFIG_BYTES, parse, read_object

CODE = "untrusted-model-config"


def refused(raw: bytes, **limits: int) -> str:
    with pytest.raises(AdvisorError) as e:
        parse(raw, code=CODE, what="config.json", **limits)
    assert e.value.code == CODE
    return e.value.message


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"[" * 10_000 + b"]" * 10_000, "nests deeper than 64"),
        (b'{"a":' * 10_000, "nests deeper than 64"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1, "a": 2}', "second time"),
        (b"{'a': 1}", "line 1"),
        (b"", "not JSON"),
        (b"\xff", "UTF-8"),
        (b"1" * 10_000, "digits"),
        (b'"\\"' * 200_000, "not JSON"),
        (b'{"a": "' + b'\\"' * 1_000_000, "not JSON"),
    ],
)
def test_hostile_text(raw: bytes, words: str) -> None:
    assert words in refused(raw)


def test_number_of_containers_is_limited() -> None:
    assert "more than 10" in refused(b"[" + b"[]," * 20 + b"[]]", max_containers=10)


def test_brackets_inside_strings_do_not_nest() -> None:
    text = "[" * 1000 + '\\"{'
    assert parse(json.dumps({"a": text}).encode(), code=CODE, what="x") == {"a": text}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=20,
    )
)
@settings(max_examples=100, deadline=None)
def test_what_json_writes_is_read(value: Any) -> None:
    assert parse(json.dumps(value).encode(), code=CODE, what="x") == value


def test_large_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as f:
        f.truncate(1 << 30)
    with pytest.raises(AdvisorError) as e:
        read_object(path)
    assert e.value.code == CODE
    assert str(MAX_CONFIG_BYTES) in e.value.message


def test_only_objects(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(AdvisorError) as e:
        read_object(tmp_path / "config.json")
    assert "list" in e.value.message
