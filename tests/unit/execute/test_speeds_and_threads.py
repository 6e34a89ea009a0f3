"""Runs to medians, threads to try, and the trial of a launch, with a runner that answers as it is told."""

from __future__ import annotations

import math
import random
import statistics
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.execute import speeds, stand_ins, threads
from advisor.execute.envs import Env
from advisor.execute.speeds import Driver
from advisor.facts.machine import Machine
from advisor.model.tensors import tensors
from tests.support.bench_samples import run_at
from tests.support.samples import sample_machine, sample_model

MODEL = sample_model()


def granted(cores: float, logical: int = 8) -> Machine:
    machine = sample_machine()
    cpu = msgspec.structs.replace(machine.host.cpu, cores_granted=cores, cores_logical=logical, cores_physical=logical)
    return msgspec.structs.replace(machine, host=msgspec.structs.replace(machine.host, cpu=cpu))


def driver(tmp_path: Path) -> Driver:
    return Driver(Env(name="llama.cpp", path="/e", python="/e/bin/python"), tmp_path / "log", tmp_path)


class Runner:
    """Stands in for the runner: the time of a token by number of threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: dict[int, float]) -> None:
        self.steps = steps
        self.requests: list[dict[str, Any]] = []
        monkeypatch.setattr(speeds, "run_runner", self)

    def __call__(self, env: Env, script: str, request: dict[str, Any], **_: Any) -> dict[str, Any]:
        assert script == "bench_llama.py"
        self.requests.append(request)
        runs = [
            {
                "repeat": r, "threads": n, "depth": d, "prompt_tokens": d, "prefill_s": d / 500,
                "tokens": request["tokens"], "steps_s": [self.steps[n]] * request["tokens"],
                "cpu_s": n * 1.0, "steps_cpu_s": n * 0.5, "wall_s": 1.0,
            }
            for r in range(request["repeat"]) for n in request["threads"] for d in request["depths"]
        ]  # fmt: skip
        return {"files": [{"label": f["label"], "runs": runs, "error": None} for f in request["files"]]}


def test_runs_become_medians_with_the_extremes_and_every_run_is_kept() -> None:
    runs = [run_at(256, 2, s, cpu=c) for s, c in ((0.01, 0.6), (0.02, 1.2), (0.0125, 0.79))]
    (point,) = speeds.points(runs)
    assert point.decode is not None
    assert (point.decode.value, point.decode.low, point.decode.high) == pytest.approx((80.0, 50.0, 100.0))
    assert point.decode.method == "measured"
    assert "median of 3" in point.decode.source
    assert point.runs == tuple(runs)
    assert point.cpu_share == pytest.approx(0.938, abs=0.001)
    assert not point.busy


def test_threads_that_lack_cores_mean_a_busy_machine() -> None:
    (point,) = speeds.points([run_at(256, 4, 0.01, cpu=0.5)])
    assert point.cpu_share == pytest.approx(0.391, abs=0.001)
    assert point.busy
    (unknown,) = speeds.points([run_at(256, None, 0.01)])
    assert (unknown.cpu_share, unknown.busy) == (None, False)


def test_the_best_number_of_threads_is_the_largest_unless_fewer_clearly_win() -> None:
    close = speeds.points([run_at(256, 4, 0.0100), run_at(256, 2, 0.0099), run_at(1024, 2, 0.001)])
    assert speeds.best_threads(close) == 4
    clear = speeds.points([run_at(256, 4, 0.0100), run_at(256, 2, 0.0040), run_at(256, 1, 0.0041)])
    assert speeds.best_threads(clear) == 2
    assert speeds.best_threads(()) is None


@pytest.mark.parametrize(
    ("cores", "logical", "load", "because"),
    [(8, 8, 0.0, None), (8, 8, 3.9, None), (8, 8, 4.0, "shared"), (4, 8, 0.0, "quota"), (7.5, 8, 9.0, "quota")],
)
def test_when_the_number_of_threads_is_tried(cores: float, logical: int, load: float, because: str | None) -> None:
    assert threads.reason(granted(cores, logical), load) == because


@given(st.floats(0.1, 256), st.integers(1, 300))
def test_candidates_go_down_from_what_is_granted(cores: float, planned: int) -> None:
    found = threads.candidates(cores, planned)
    assert list(found) == sorted(set(found), reverse=True)
    assert {1, planned} <= set(found)
    assert max(found) <= max(planned, int(cores) + 1)
    assert len(found) <= 6


def test_a_trial_finds_that_fewer_threads_are_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(monkeypatch, {2: 0.027, 1: 0.0106})
    found = threads.choose(
        driver(tmp_path), tmp_path / "a.gguf", granted(1.5, 2), planned=2, because="quota", shape="s", fmt="q8_0"
    )
    assert found is not None
    assert found.threads == 1
    assert found.tried == {"2": pytest.approx(37.037), "1": pytest.approx(94.34)}
    assert runner.requests[0]["threads"] == [2, 1]
    assert runner.requests[0]["tokens"] <= 8


def test_a_trial_without_a_clear_winner_keeps_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Runner(monkeypatch, {4: 0.0098, 3: 0.0100, 2: 0.0099, 1: 0.02})
    found = threads.choose(
        driver(tmp_path), tmp_path / "a.gguf", granted(4), planned=3, because="quota", shape="s", fmt="q8_0"
    )
    assert found is not None
    assert found.threads == 3


def test_one_core_needs_no_trial(tmp_path: Path) -> None:
    assert threads.choose(
        driver(tmp_path), tmp_path / "a", granted(0.5), planned=1, because="quota", shape="s", fmt="f16"
    ) is None  # fmt: skip


def test_an_answer_of_another_form_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds, "run_runner", lambda *_, **__: {"files": [{"runs": [{"depth": 1}]}]})
    with pytest.raises(AdvisorError) as caught:
        driver(tmp_path).measure([{"label": "a", "path": "a"}], depths=[1], threads=[1], repeat=1, tokens=1)
    assert caught.value.code == "step-failed"


def test_files_in_turns_are_related_by_the_median_of_their_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    group: dict[str, Any] = {"labels": ["a", "b"], "turns": [[1.0, 2.0], [2.0, 4.4], [9.0, 9.0]]}
    group |= {"cpu_s": 9.0, "wall_s": 5.0}

    def run(*args: Any, **_: Any) -> dict[str, Any]:
        asked.append(args[2])
        return {"groups": [group]}

    monkeypatch.setattr(speeds, "run_runner", run)
    (found,) = driver(tmp_path).in_turns([[{"label": "a"}, {"label": "b"}]], depth=64, threads=2, turns=3, spend_s=1.0)
    assert (asked[0]["depths"], asked[0]["threads"], asked[0]["turns"]) == ([64], [2], 3)
    # A turn in which both were slow says as much as any other.
    assert found.ratio("b", "a") == pytest.approx(2.0)
    assert (found.of("a"), found.cpu_share) == (2.0, pytest.approx(0.9))
    group["turns"] = [[1.0]]
    with pytest.raises(AdvisorError, match="another form"):
        driver(tmp_path).in_turns([[{"label": "a"}]], depth=64, threads=2, turns=3, spend_s=1.0)


class InTurns:
    """A machine where one round in three puts the first file where it is slower, and some formats do not load."""

    def __init__(self, *broken: str) -> None:
        self.broken, self.groups = broken, list[list[str]]()

    def in_turns(self, groups: Any, **_: Any) -> list[speeds.Turns]:
        out = []
        for g in groups:
            labels = tuple(f["label"] for f in g)
            self.groups.append(list(labels))
            times = tuple(0.012 if at == 0 and len(self.groups) % 3 == 0 else 0.010 for at, _ in enumerate(labels))
            out.append(speeds.Turns(labels, () if set(labels) & set(self.broken) else (times,) * 2, 1.0))
        if not any(t.seconds for t in out):
            raise AdvisorError("artifact-invalid", "It does not load.")
        return out


def related(found: InTurns, room_bytes: int = 1 << 40) -> dict[str, stand_ins.Relation]:
    made = stand_ins.plan(MODEL, tensors(MODEL), own="q4_k_m", room_bytes=1 << 40)
    return stand_ins.relations(found, made, depth=64, threads=1, room_bytes=room_bytes)  # type: ignore[arg-type]


def test_formats_are_related_in_rounds_of_small_groups() -> None:
    engine = InTurns()
    found = related(engine)
    assert set(found) == set(stand_ins.FORMATS)
    assert all(g[0] == "q4_k_m" and 2 <= len(g) <= 5 for g in engine.groups)
    assert all(sum(fmt in g for g in engine.groups) == 3 for fmt in stand_ins.FORMATS if fmt != "q4_k_m")
    assert found["q4_k_m"].ratio == 1.0
    assert sum(r.ratio == 1.0 for r in found.values()) > sum(len(set(r.ratios)) == 1 for r in found.values())


def test_little_memory_holds_two_files_at_a_time() -> None:
    engine = InTurns()
    assert set(related(engine, room_bytes=1 << 20)) == set(stand_ins.FORMATS)
    assert {len(g) for g in engine.groups} == {2}


def test_a_format_that_does_not_load_takes_no_other_along() -> None:
    engine = InTurns("q2_k")
    assert set(related(engine)) == set(stand_ins.FORMATS) - {"q2_k"}
    with pytest.raises(AdvisorError, match="does not load"):
        related(InTurns("q4_k_m"))


def test_stand_ins_have_the_shapes_and_the_types_of_each_format() -> None:
    made = {m.format: m for m in stand_ins.plan(MODEL, tensors(MODEL), own="q4_k_m", room_bytes=1 << 40)}
    assert set(made) == set(stand_ins.FORMATS)
    f16 = made["f16"]
    assert sum(f16.work(32).read_bytes.values()) == pytest.approx(2 * MODEL.params, rel=0.01)
    assert f16.metadata["llama.block_count"] == MODEL.layers
    # Rows of 576 weights are no whole blocks of 256, so that they fall back, as in a real file.
    assert made["iq4_xs"].work(32).read_bytes.get("iq4_nl", 0) > 0
    assert {t.gguf_type for t in made["q8_0"].tensors} == {"q8_0", "f32"}


def test_of_a_large_model_some_layers_stand_for_all() -> None:
    large = sample_model(layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, intermediate=14336, ref="large")
    made = {m.format: m for m in stand_ins.plan(large, tensors(large), own="q8_0", room_bytes=1 << 40)}
    layers = {fmt: m.model.layers for fmt, m in made.items()}
    assert 2 <= layers["f16"] <= layers["q2_k"] < 32
    assert made["f16"].metadata["llama.block_count"] == layers["f16"] == made["f16"].work(32).layers
    small = stand_ins.plan(large, tensors(large), own="q8_0", room_bytes=100 << 20)
    assert small == ()


def test_models_whose_layers_differ_have_no_stand_ins() -> None:
    routed = sample_model(experts=8, experts_used=2, expert_intermediate=512)
    hybrid = sample_model(layer_kinds=("full", "recurrent") * 15)
    for model in (routed, hybrid):
        assert stand_ins.plan(model, tensors(MODEL), own="q8_0", room_bytes=1 << 40) == ()


def test_a_filled_file_is_whole_and_its_scales_are_spread_like_real_ones(tmp_path: Path) -> None:
    from advisor.execute.gguf_files import sound
    from advisor.execute.runners import bench_llama, gguf_min

    made = stand_ins.plan(sample_model(layers=2, vocab=512), tensors(sample_model(layers=2, vocab=512)), own="q8_0",
                          room_bytes=1 << 30)  # fmt: skip
    for one in made:
        path = tmp_path / one.format
        shapes = [(t.name, t.shape, t.gguf_type or "f32") for t in one.tensors]
        bench_llama.write_filled(path, one.metadata, shapes)
        assert len(sound(path).tensors) == len(shapes)
    assert set(bench_llama.SCALES) < set(gguf_min.BLOCKS)
    for kind, scales in bench_llama.SCALES.items():
        raw = bench_llama.blocks(kind, 2000, random.Random(1))
        weights, size = gguf_min.BLOCKS[kind]
        assert len(raw) == 2000 * size
        for offset, exponent, sign in scales:
            found = [struct.unpack_from("<e", raw, block * size + offset)[0] for block in range(2000)]
            octaves = [math.log2(abs(v)) for v in found]
            assert statistics.median(octaves) == pytest.approx(exponent, abs=0.05)
            assert statistics.pstdev(octaves) == pytest.approx(bench_llama.SPREAD[weights], rel=0.1)
            negative = sum(v < 0 for v in found) / len(found)
            assert negative == pytest.approx({1: 0.0, -1: 1.0, 0: 0.5}[sign], abs=0.05)
