"""Strict YAML: what is read, and what is refused with the line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.guide.yamlfile import MAX_BYTES, YamlProblem, parse, read


def test_values_follow_the_core_schema() -> None:
    doc = parse("a: 1\nb: 1.5\nc: true\nd: null\ne: 000\nf: yes\ng: 'true'\nh: [1e3, -2, x]\ni: {k: ''}\nj: 1_000\n")
    assert doc.value == {
        "a": 1, "b": 1.5, "c": True, "d": None, "e": "000", "f": "yes", "g": "true", "h": [1000.0, -2, "x"],
        "i": {"k": ""}, "j": 1000,
    }  # fmt: skip


def test_lines_of_keys_and_of_what_has_none() -> None:
    doc = parse("a:\n  - b: 1\n    c.d:\n      e: 2\n")
    assert doc.lines["a[0].c.d.e"] == 4
    assert doc.line("a[0].c.d.missing[3]") == 3
    assert doc.line("nowhere") == 1


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "twice"),
        ("a:\n\tb: 1\n", 2, "tab"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", 2, "tag"),
        ("a: !custom 1\n", 1, "tag"),
        ("a: &x [1]\nb: *x\n", 1, "anchors"),
        ("a: 1\n---\nb: 2\n", 2, "more than one document"),
        ("a: [1, 2\nb: 3\n", 2, "not YAML"),
        ("a: 1\n  b: 2\n", 2, "not YAML"),
        ("? [1]\n: 2\n", 1, "key"),
        ("a: 1e999\n", 1, "too large"),
        ("a: " + "9" * 50 + "\n", 1, "too long"),
        ("[" * 40 + "]" * 40, 1, "nested"),
        ("a: \x07\n", 1, "not YAML"),
    ],
)
def test_refused_with_line(text: str, line: int, word: str) -> None:
    with pytest.raises(YamlProblem) as e:
        parse(text)
    assert e.value.line == line
    assert word in e.value.message


def test_yaml_bomb_is_refused_at_the_first_anchor() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(YamlProblem, match="anchors"):
        parse("\n".join(rows))


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as f:
        f.truncate(100 * 1024 * 1024)
    with pytest.raises(YamlProblem, match="larger"):
        read(path)
    path.write_bytes(b"a: " + b"x" * (MAX_BYTES - 3))
    assert len(read(path).value["a"]) == MAX_BYTES - 3


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(YamlProblem, match="cannot be read"):
        read(tmp_path / "missing.yaml")
    with pytest.raises(YamlProblem, match="cannot be read"):
        read(tmp_path)
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(YamlProblem, match="UTF-8") as e:
        read(bad)
    assert e.value.line == 2


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text)
    except YamlProblem as e:
        assert e.line >= 1 and e.message


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("abc xyz-0", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(_PLAIN)
def test_what_is_dumped_is_read_back(value: object) -> None:
    import yaml

    dumped = yaml.safe_dump(
        {"v": value}, default_flow_style=True, default_style='"' if isinstance(value, str) else None
    )
    assert parse(dumped).value == {"v": value}
