"""The table of scenarios, as tests: what the guide and the documents say comes out of the planner.

A disputed scenario is expected to fail, strictly: once the planner does what it says, the mark has to go.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scenarios import reading
from tests.scenarios.judging import differences, misses, pattern_words
from tests.scenarios.planning import Planned, loaded
from tests.scenarios.reading import BadScenario
from tests.scenarios.shapes import Bounds, Pattern, Row, Scenario
from tests.scenarios.table import main, row

SCENARIOS = reading.load()
PLANNED = Planned()


def _marked(s: Scenario) -> object:
    if s.disputed is None:
        return pytest.param(s, id=s.id)
    reason = f"believe {s.disputed.believe}: {s.disputed.why}"
    return pytest.param(s, id=s.id, marks=pytest.mark.xfail(strict=True, reason=reason, raises=AssertionError))


@pytest.mark.parametrize("scenario", [_marked(s) for s in SCENARIOS])
def test_scenario(scenario: Scenario) -> None:
    found = differences(scenario, PLANNED.of(scenario))
    assert not found, "\n".join([scenario.id, *found])


def test_there_are_enough_and_they_name_rules_that_there_are() -> None:
    assert len(SCENARIOS) >= 80
    assert reading.unknown_rules(SCENARIOS, loaded().pack) == []


# What it drops is ranked in another place of the same machine, and the answer does not say both.
UNSEEN = {"GUIDE-043"}


def test_every_row_and_every_rule_of_the_guide_speaks_in_a_scenario() -> None:
    rows = reading.rows().rows
    assert set(rows) == set(get_args(Row))
    silent = {}
    for name, rules in rows.items():
        own = [s for s in SCENARIOS if name in s.rows]
        assert any(s.disputed is None for s in own), f"no scenario that holds carries {name}"
        silent[name] = PLANNED.silent(rules, own)
    assert {name: rules for name, rules in silent.items() if rules} == {}
    guide = {r.id for r in loaded().pack.rules if r.layer == "guide"} - UNSEEN
    first = sorted(SCENARIOS, key=lambda s: not s.rows)
    assert PLANNED.silent(guide, first) == set(), "write a scenario in which it speaks"


SAMPLE = """schema: advisor/scenarios/v1
title: a sample
scenarios:
  - id: one
    machine: {hardware: [cpu], memory: 16GB}
    model: 8B
    must: {first: {method: gguf}}
    because: [{doc: "000", section: "7"}]
"""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("method: gguf", "methd: gguf", "one|methd"),
        ("method: gguf", "settings: {ctx: 1}", "no setting 'ctx'"),
        ("{first: {method: gguf}}", "{first: {}}", "matches every plan"),
        ("{first: {method: gguf}}", "{}", "demands nothing"),
        ("{first: {method: gguf}}", "{nothing: true, first: {method: gguf}}", "nothing fits, and yet"),
        ("{first: {method: gguf}}", "{before: [{method: gguf}]}", "two patterns"),
        ('[{doc: "000", section: "7"}]', "[]", "guide text with its section"),
        ('[{doc: "000", section: "7"}]', '[{doc: "000"}]', "guide text with its section"),
        ('section: "7"', 'section: "77"', "no section '77'"),
        ("{hardware: [cpu], memory: 16GB}", "{hardware: [cpu]}", "needs its memory"),
        ("{hardware: [cpu], memory: 16GB}", "{memory: 16GB}", "either recorded or put together"),
        ("    model: 8B\n", "    model: 8B\n    goal: chatting\n", "chatting"),
        ("  - id: one\n", "  - id: one\n    id: two\n", "written twice"),
        ("memory: 16GB", "memory: 16 bananas", "no amount"),
        ("    model: 8B\n", "    model: 8B\n    flags: {within: soon}\n", "no time"),
        ("    model: 8B\n", "    model: 8B\n    flags: {paralel: 2}\n", "paralel"),
    ],
)
def test_a_scenario_that_is_wrong_is_refused_with_file_and_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in SAMPLE
    (tmp_path / "a.yaml").write_text(SAMPLE)
    assert [s.id for s in reading.load(tmp_path)] == ["one"]
    (tmp_path / "a.yaml").write_text(SAMPLE.replace(old, new))
    with pytest.raises(BadScenario, match=r"^a\.yaml:\d+: ") as caught:
        reading.load(tmp_path)
    assert any(word in str(caught.value) for word in told.split("|"))


@given(line=st.integers(0, len(SAMPLE.splitlines()) - 1), text=st.text(st.characters(codec="utf-8"), max_size=40))
def test_whatever_stands_in_a_file_is_read_or_refused(line: int, text: str) -> None:
    lines = SAMPLE.splitlines()
    lines[line] = text
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.yaml").write_text("\n".join(lines), encoding="utf-8")
        try:
            assert len(reading.load(Path(folder))) <= 1
        except BadScenario as e:
            assert str(e).startswith("a.yaml:")


def test_an_id_is_used_once(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(SAMPLE)
    with pytest.raises(BadScenario, match="used twice"):
        reading.load(tmp_path)


def test_rules_that_there_are_not_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SAMPLE.replace("{method: gguf}", "{method: gguf, rules: [GUIDE-999]}"))
    (problem,) = reading.unknown_rules(reading.load(tmp_path), loaded().pack)
    assert problem.startswith("one: GUIDE-999")


@pytest.mark.parametrize("text", ["12", "GB", "12 bananas", ""])
def test_amounts_and_times_without_a_unit_are_refused(text: str) -> None:
    with pytest.raises(BadScenario):
        reading.amount(text)
    with pytest.raises(BadScenario):
        reading.seconds(text)
    assert (reading.amount("8GiB"), reading.amount("64GB"), reading.seconds("10m")) == (8 << 30, 64 * 10**9, 600)


def test_a_difference_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SAMPLE)
    (sample,) = reading.load(tmp_path)
    answer = PLANNED.of(sample)
    assert differences(sample, answer) == []
    first = answer.first
    assert first is not None
    wrong = {
        "format": Pattern(format="q2_k"),
        "context is": Pattern(settings={"context": Bounds(most=1)}),
        "it runs on cpu": Pattern(placement="gpu"),
        "memory is": Pattern(memory_gb=Bounds(most=0.001)),
        "tok/s": Pattern(decode_tps=Bounds(least=1e6)),
        "does not cite": Pattern(rules=("GUIDE-001",)),
        'does not say "bananas"': Pattern(says=("bananas",)),
        "imatrix": Pattern(imatrix=True),
        "devices": Pattern(devices=3),
        "quantize.samples": Pattern(parameters={"quantize.samples": 128}),
    }
    for told, pattern in wrong.items():
        (said,) = misses(pattern, first)
        assert told in said
        assert pattern_words(pattern)
    assert row(sample, answer).count(" | ") == 5


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = SCENARIOS[0].id
    assert main(["--only", wanted, "--costs"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("| scenario | asked |") and f"| {wanted} |" in printed and "CPU seconds" in printed
    main(["--only", wanted, "--differences"])
    assert "scenarios, " in capsys.readouterr().out
