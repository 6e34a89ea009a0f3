"""Versions are compared part by part, as numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.guide.conditions import holds, measure, parts
from advisor.guide.load import read_file
from advisor.guide.schema import Node
from tests.unit.guide.rule_files import rule, write

FACT = "candidate.runtime_version"
VERSION = st.lists(st.integers(0, 400), min_size=1, max_size=4)


def dotted(version: list[int]) -> str:
    return ".".join(map(str, version))


@given(VERSION, VERSION)
def test_versions_are_ordered_as_numbers(have: list[int], limit: list[int]) -> None:
    padded = [(v + [0] * 4)[:4] for v in (have, limit)]
    facts = {FACT: dotted(have)}
    assert holds(Node(op="lt", fact=FACT, value=dotted(limit)), facts) is (padded[0] < padded[1])
    assert holds(Node(op="gte", fact=FACT, value=dotted(limit)), facts) is (padded[0] >= padded[1])
    assert holds(Node(op="lte", fact=FACT, value=dotted(limit)), facts) is (padded[0] <= padded[1])
    assert holds(Node(op="gt", fact=FACT, value=dotted(limit)), facts) is (padded[0] > padded[1])


@pytest.mark.parametrize("known", [None, 3.1, "devel", ""])
def test_what_is_no_version_decides_nothing(known: object) -> None:
    assert holds(Node(op="lt", fact=FACT, value="0.31.0"), {FACT: known}) is None  # type: ignore[dict-item]


def test_zeros_at_the_end_are_nothing() -> None:
    assert parts("0.31.0") == parts("0.31") != parts("0.31.1")
    with pytest.raises(ValueError, match="invalid literal"):
        parts("0.31rc1")


def test_the_limit_is_told() -> None:
    facts = {FACT: "0.30.0"}
    assert measure(Node(op="lt", fact=FACT, value="0.31.0"), facts, held=True) == (
        f"{FACT} is 0.30.0, below 0.31.0 is meant",
    )
    between = Node(op="between", fact=FACT, value=("0.1", "0.9"))
    assert measure(between, facts, held=False) == (f"{FACT} is 0.30.0, 0.1 .. 0.9 is meant",)
    assert measure(between, facts, held=True) == ()


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("{candidate.runtime_version: {lt: 0.31}}", "in quotes"),
        ("{candidate.runtime_version: {lt: 'new'}}", "is a version"),
        ("{candidate.runtime_version: {between: ['0.9', '0.10', '0.11']}}", "[lowest, highest]"),
        ("{candidate.runtime_version: {between: ['0.10', '0.9']}}", "is above"),
    ],
)
def test_versions_in_rules_are_checked(tmp_path: Path, when: str, said: str) -> None:
    path = write(tmp_path, "a.yaml", rule(when=when))
    (problem,) = read_file(path, tmp_path, overlay=False)[2]
    assert said in problem.message


def test_a_version_in_quotes_loads(tmp_path: Path) -> None:
    examples = "{fires: [{candidate.runtime_version: '0.9.2'}], silent: [{candidate.runtime_version: '0.10'}]}"
    path = write(tmp_path, "a.yaml", rule(when="{candidate.runtime_version: {lt: '0.10.0'}}", examples=examples))
    rules, _, problems = read_file(path, tmp_path, overlay=False)
    assert problems == []
    assert rules[0].when == Node(op="lt", fact=FACT, value="0.10.0")
