"""Pieces to calibrate on: kinds of files, what is refused, what is warned about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.execute.calibration import FEWEST, overlap, prepare, read_lines
from advisor.execute.texts import calibration_text, verification_text

PROSE = "A sentence that has some words and is long enough to tell it from others, number {0}. " * 3


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def test_the_bundled_text_gives_enough_pieces_and_none_of_what_is_measured_on(tmp_path: Path) -> None:
    made = prepare(None, tmp_path, method="gptq", samples=128, sequence_length=512)
    rows = lines_of(made.path)
    assert made.pieces == len(rows) == 128
    assert made.notes == ()
    assert min(len(r["text"]) for r in rows) >= 512
    assert sum(len(r["text"]) for r in rows) > 0.9 * len(calibration_text().text)
    assert overlap(rows, verification_text()) < 0.01


def test_the_same_text_has_the_same_name_whenever_it_is_made(tmp_path: Path) -> None:
    a = prepare(None, tmp_path / "a", method="awq", samples=16, sequence_length=256)
    b = prepare(None, tmp_path / "b", method="awq", samples=16, sequence_length=256)
    c = prepare(None, tmp_path / "b", method="awq", samples=17, sequence_length=256)
    assert a.sha256 == b.sha256 != c.sha256
    assert a.path.name == b.path.name


def test_a_plain_text_is_cut_into_pieces_spread_over_all_of_it(tmp_path: Path) -> None:
    source = tmp_path / "mine.txt"
    source.write_text("\n\n".join(PROSE.format(i) for i in range(400)), encoding="utf-8")
    made = prepare(source, tmp_path / "out", method="awq", samples=20, sequence_length=128)
    rows = lines_of(made.path)
    assert len(rows) == 20
    assert "number 0." in rows[0]["text"]
    assert any("number 3" + str(i) in rows[-1]["text"] for i in range(100))


def test_json_lines_of_three_kinds(tmp_path: Path) -> None:
    rows = [
        {"text": "plain"},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
        {"prompt": "p", "response": "r"},
        {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]},
        "just a string",
    ]
    kind, read = read_lines(jsonl(tmp_path / "x.jsonl", rows))
    assert kind == "conversations"
    assert read[0] == {"text": "plain"}
    assert read[1]["messages"][1] == {"role": "assistant", "content": "hello"}
    assert [m["role"] for m in read[2]["messages"]] == ["user", "assistant"]
    assert [m["role"] for m in read[3]["messages"]] == ["user", "assistant"]
    assert read[4] == {"text": "just a string"}


@pytest.mark.parametrize("row", ['{"no": 1}', "[1]", "{", '{"messages": [{"role": "user"}]}', '{"text": "  "}'])
def test_a_line_of_no_kind_is_named(row: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "fine"}\n' + row + "\n", encoding="utf-8")
    with pytest.raises(AdvisorError, match="line 2") as e:
        prepare(path, tmp_path / "out", method="awq", samples=4, sequence_length=64)
    assert e.value.code == "bad-option"


def test_what_is_measured_on_is_not_calibrated_on(tmp_path: Path) -> None:
    path = tmp_path / "same.txt"
    path.write_text(verification_text().text, encoding="utf-8")
    with pytest.raises(AdvisorError, match="measured on") as e:
        prepare(path, tmp_path / "out", method="gptq", samples=8, sequence_length=64)
    assert e.value.code == "bad-option"


def test_few_short_and_repeated_samples_are_warned_about(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "few.jsonl", [{"text": "short"}] * 8)
    made = prepare(path, tmp_path / "out", method="gptq", samples=256, sequence_length=512)
    told = " ".join(made.notes)
    assert "8 samples" in told
    assert "256 were wanted" in told
    assert f"asks for {FEWEST['gptq']}" in told
    assert "shorter" in told
    assert "repeat" in told


def test_numbers_are_unlike_prose(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "n.jsonl", [{"text": f"{i} 3.14159 {i * i} -- 42 == {i}" * 40} for i in range(20)])
    made = prepare(path, tmp_path / "out", method="awq", samples=20, sequence_length=16)
    assert any("letters" in note for note in made.notes)


@given(st.lists(st.text(max_size=40), max_size=20))
def test_any_file_is_read_or_refused_with_its_line(tmp_path_factory: pytest.TempPathFactory, rows: list[str]) -> None:
    path = tmp_path_factory.mktemp("any") / "x.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8", newline="\n")
    try:
        _, read = read_lines(path)
    except AdvisorError as e:
        assert e.code == "bad-option"
    else:
        assert read
        assert all("text" in r or "messages" in r for r in read)


def test_halves_of_surrogate_pairs_are_no_reason_to_fail(tmp_path: Path) -> None:
    source = tmp_path / "odd.jsonl"
    source.write_text('{"text": "' + PROSE.format(1) + '\\ud800"}\n', encoding="utf-8")
    made = prepare(source, tmp_path, method="rtn", samples=1, sequence_length=32)
    assert lines_of(made.path)[0]["text"].endswith("?")


def test_json_that_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "deep.jsonl"
    source.write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(AdvisorError) as e:
        read_lines(source)
    assert e.value.code == "bad-option"
