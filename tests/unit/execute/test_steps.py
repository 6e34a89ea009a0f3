from __future__ import annotations

import json
from pathlib import Path

import pytest

from advisor.errors import AdvisorError
from advisor.events import Cancel, Event
from advisor.execute.journal import Journal
from advisor.execute.preflight import check_disk
from advisor.execute.steps import Outcome, Step, Steps


def test_steps_are_told_recorded_and_written(tmp_path: Path) -> None:
    events: list[Event] = []
    journal = Journal(tmp_path / "logs" / "journal.jsonl")
    steps = Steps(reporter=events.append, journal=journal)
    assert steps.do(Step("fetch", lambda: Outcome(1), key="k")) == 1
    assert steps.do(Step("convert", lambda: Outcome(2, reused=True, detail="kept"))) == 2
    with pytest.raises(ValueError):
        steps.do(Step("quantize", lambda: Outcome(int("x"))))
    assert [(e.kind, e.step) for e in events] == [
        ("step-started", "fetch"),
        ("step-finished", "fetch"),
        ("step-started", "convert"),
        ("step-reused", "convert"),
        ("step-started", "quantize"),
        ("step-failed", "quantize"),
    ]
    assert [(r.name, r.outcome, r.key) for r in steps.records] == [
        ("fetch", "done", "k"),
        ("convert", "reused", None),
        ("quantize", "failed", None),
    ]
    lines = journal.last()
    assert [line["what"] for line in lines][:3] == ["step-started", "done", "step-started"]
    assert lines[1]["key"] == "k"


def test_an_error_names_its_step() -> None:
    def fail() -> Outcome[None]:
        raise AdvisorError("step-failed", "m")

    with pytest.raises(AdvisorError) as e:
        Steps().do(Step("convert", fail))
    assert e.value.data["step"] == "convert"


def test_a_stopped_run_starts_no_further_step() -> None:
    cancel = Cancel()
    cancel.set()
    steps = Steps(cancel=cancel)
    with pytest.raises(AdvisorError) as e:
        steps.do(Step("fetch", lambda: Outcome(1)))
    assert e.value.code == "interrupted"
    assert steps.records == []


def test_a_broken_reporter_stops_nothing() -> None:
    def broken(event: Event) -> None:
        raise RuntimeError

    assert Steps(reporter=broken).do(Step("fetch", lambda: Outcome(1))) == 1


def test_journal_survives_cut_lines_and_rotates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    assert journal.add("one", n=1)
    with path.open("ab") as f:
        f.write(b'{"what": "cut')
        f.write(b"\n\xff\n")
    assert journal.add("two", text="with\nnewline")
    assert [line["what"] for line in journal.last()] == ["one", "two"]
    assert len(path.read_text(errors="replace").splitlines()) == 4
    monkeypatch.setattr("advisor.execute.journal._ROTATE_BYTES", 10)
    assert journal.add("three")
    assert [json.loads(line)["what"] for line in path.read_text().splitlines()] == ["three"]
    assert (tmp_path / "j.1").exists()


def test_journal_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not Journal(tmp_path / "file" / "j").add("x")
    assert not Journal(tmp_path / "j").add("x", thing=object())
    assert Journal(tmp_path / "none").last() == ()


def test_disk_preflight(tmp_path: Path) -> None:
    check_disk(tmp_path / "not" / "there" / "yet", 1, "The plan")
    check_disk(tmp_path, None, "The plan")
    with pytest.raises(AdvisorError) as e:
        check_disk(tmp_path, 1 << 60, "The plan")
    assert e.value.code == "disk-full"
    assert e.value.data["short_by"] > 0
    assert "GiB" in e.value.message
