"""``advisor bench`` of a file, with an engine that answers as it is told: what is kept and what follows from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advisor import api
from advisor.api import bench_files, planning
from advisor.errors import AdvisorError
from advisor.execute import measurements
from advisor.execute.envs import Env
from advisor.settings import Settings
from tests.support.bench_samples import run_at


class Engine:
    """Stands in for the driver of llama.cpp: a time a token by the number of threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, share: float = 1.0, fails: bool = False) -> None:
        from advisor.execute.speeds import Driver, Turns

        self.asked: list[dict[str, Any]] = []

        def measure(_: Any, files: Any, **how: Any) -> list[list[Any]]:
            self.asked.append({"files": list(files), **how})
            return [
                [
                    run_at(d, n, 0.01 * n, cpu=share * n * 0.32 * n)
                    for _ in range(how["repeat"]) for n in how["threads"] for d in how["depths"]
                ]
                for _ in files
            ]  # fmt: skip

        def in_turns(_: Any, groups: Any, **how: Any) -> list[Turns]:
            self.asked.append({"groups": groups, **how})
            if fails:
                raise AdvisorError("out-of-memory", "The measurement was killed.")
            times = [tuple(self.step.get(f["label"], 0.012) for f in g) for g in groups]
            return [
                Turns(tuple(f["label"] for f in g), (row,) * 3, share) for g, row in zip(groups, times, strict=True)
            ]

        self.step: dict[str, float] = {}
        monkeypatch.setattr(Driver, "measure", measure)
        monkeypatch.setattr(Driver, "in_turns", in_turns)
        env = Env(name="llama.cpp", path="/e", python="/e/bin/python")
        monkeypatch.setattr("advisor.api.making.environment", lambda *_, **__: env)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    from advisor.execute.runners import gguf_min

    path = tmp_path / "tiny.gguf"
    gguf_min.write_tiny(path, matrices="q8_0")
    return path


def test_a_file_is_measured_at_depths_and_threads_and_other_formats_by_stand_ins(
    own: Settings, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(monkeypatch)
    found = api.bench(str(gguf), depths=(32, 64, 4096), threads=(2, 1), repeat=2)
    assert (found.kind, found.best_threads) == ("file", 1)
    assert [(p.threads, p.depth) for p in found.points] == [(2, 32), (2, 64), (1, 32), (1, 64)]
    assert any("4096 was left out" in note for note in found.notes)
    assert engine.asked[0]["files"] == [{"label": "tiny.gguf", "path": str(gguf)}]
    assert {m.origin for m in found.stand_ins} == {"stand-in"}
    assert len({m.format for m in found.stand_ins}) > 5
    kept = measurements.load(own, planning.own_machine(own)).kept.speeds
    assert len(kept) == len(found.points) + len(found.stand_ins)
    assert all(m.prefill is None for m in kept if m.origin == "stand-in")


def test_stand_ins_that_fail_or_are_not_wanted_leave_the_rest(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Engine(monkeypatch, fails=True)
    found = api.bench(str(gguf), depths=(32,), threads=(1,), repeat=1)
    assert found.stand_ins == ()
    assert any("was killed" in note for note in found.notes)
    engine = Engine(monkeypatch)
    assert api.bench(str(gguf), depths=(32,), threads=(1,), repeat=1, stand_ins=False).stand_ins == ()
    assert len(engine.asked) == 1


def test_a_busy_machine_is_said(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Engine(monkeypatch, share=0.4)
    found = api.bench(str(gguf), depths=(32,), threads=(2,), repeat=1, stand_ins=False)
    assert found.busy
    assert any("40%" in note for note in found.notes)


def test_predictions_follow_the_bench_on_this_machine_only(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Engine(monkeypatch)
    how: dict[str, Any] = {"format": "q8_0", "context": 512, "threads": 2}
    before = api.estimate(str(gguf), **how).speed.decode
    api.bench(str(gguf), depths=(256,), threads=(2,), repeat=1, stand_ins=False)
    after = api.estimate(str(gguf), **how).speed.decode
    assert before is not None
    assert after is not None
    assert before.method != "measured"
    assert (after.method, after.value) == ("measured", pytest.approx(50.0))
    other = api.estimate(str(gguf), **{**how, "format": "f16"}).speed.decode
    assert other is not None
    assert (other.method, "this machine" in other.source) == ("fit", True)
    elsewhere = api.estimate(str(gguf), hardware=("cpu",), memory=8 << 30, **how).speed.decode
    assert elsewhere is None or "this machine" not in elsewhere.source
    plans = api.recommend(str(gguf), runtime="llama.cpp", format="q8_0", context=512, threads=2).plans
    assert plans[0].speed.decode is not None
    assert plans[0].speed.decode.method == "measured"
    assert any("was measured on this machine" in text for text in plans[0].assumptions)


def test_a_recorded_machine_is_another(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Engine(monkeypatch)
    api.bench(str(gguf), depths=(256,), threads=(2,), repeat=1, stand_ins=False)
    api.probe(record=tmp_path / "recorded")
    found = api.estimate(str(gguf), format="q8_0", context=512, threads=2, machine=tmp_path / "recorded")
    assert found.speed.decode is None or found.speed.decode.method != "measured"


def test_a_damaged_store_is_told_and_predictions_go_on(own: Settings, gguf: Path) -> None:
    path = measurements.path_of(own, planning.own_machine(own))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{}")
    assert "measurements-damaged" in [w.code for w in api.estimate(str(gguf), format="q8_0", context=512).warnings]


def test_a_file_larger_than_memory_is_not_measured(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_files, "_room", lambda _: 1)
    with pytest.raises(AdvisorError) as caught:
        api.bench(str(gguf))
    assert caught.value.code == "not-enough-memory"


def test_other_formats_count_relative_to_the_stand_in_of_the_real_one(
    gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment of a stand-in may be a better one than that of the file: what counts is how the formats differ."""
    engine = Engine(monkeypatch)
    engine.step = {"q8_0": 0.005, "f16": 0.0075}
    found = api.bench(str(gguf), depths=(64,), threads=(2,), repeat=1)
    (point,) = found.points
    assert point.decode is not None
    assert point.decode.value == pytest.approx(50.0)
    by_format = {m.format: m for m in found.stand_ins}
    assert "q8_0" not in by_format
    assert by_format["f16"].decode is not None
    assert by_format["f16"].decode.value == pytest.approx(50.0 / 1.5)
    assert by_format["f16"].depth == engine.asked[1]["depth"] == 64
    assert by_format["f16"].threads == engine.asked[1]["threads"] == 2
    assert (by_format["f16"].runs, by_format["f16"].busy) == (3, False)


def test_stand_ins_that_others_disturbed_teach_nothing(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Engine(monkeypatch, share=0.5)
    assert all(m.busy for m in api.bench(str(gguf), depths=(64,), threads=(2,), repeat=1).stand_ins)
