"""Measuring with the real engine, on a model of half a megabyte: what is told is what the engine did."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from advisor import api
from advisor import settings as settings_
from advisor.api import planning
from advisor.errors import AdvisorError
from advisor.execute import measurements, stand_ins, threads
from advisor.execute.envs import Env, ensure
from advisor.execute.runners import gguf_min
from advisor.execute.speeds import Driver, points
from advisor.model.tensors import tensors
from advisor.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def env(shared_home: Path) -> Env:
    return ensure("llama.cpp", settings=settings_.load(env={**os.environ, "ADVISOR_HOME": str(shared_home)}))


@pytest.fixture
def own(shared_home: Path, env: Env) -> Settings:
    """A home of its own, so that what is measured here teaches nobody, with the environments that last."""
    found = settings_.load()
    lasting = settings_.load(env={**os.environ, "ADVISOR_HOME": str(shared_home)})
    found.paths.envs.parent.mkdir(parents=True)
    found.paths.envs.symlink_to(lasting.paths.envs)
    return found


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    gguf_min.write_tiny(path, matrices="q8_0")
    return path


def test_a_tiny_model_is_measured_and_predictions_say_so(own: Settings, tiny: Path) -> None:
    found = api.bench(str(tiny), depths=(32, 100), threads=(1,), repeat=3, settings=own)
    assert found.engine.startswith("wheel ")
    assert [(p.depth, p.threads, len(p.runs)) for p in found.points] == [(32, 1, 3), (100, 1, 3)]
    for p in found.points:
        assert p.decode is not None
        assert p.prefill is not None
        assert 0 < p.decode.low <= p.decode.value <= p.decode.high
        assert all(r.cpu_s is not None and r.cpu_s > 0 for r in p.runs)
        assert all(0 < r.prompt_tokens <= p.depth and r.completion_tokens == 32 for r in p.runs)
    # Random weights are loaded and decoded by the engine, in every format that the shapes allow.
    assert {"q4_0", "q8_0", "f16", "bf16", "q5_1", "iq4_nl"} - {found.format} <= {m.format for m in found.stand_ins}
    assert measurements.path_of(own, planning.own_machine(own)).is_file()
    how = {"format": "f16", "context": 256, "threads": 1, "settings": own}
    decode = api.estimate(str(tiny), **how).speed.decode  # type: ignore[arg-type]
    assert decode is not None
    assert decode.method == "fit"
    assert "advisor bench on this machine" in decode.source


def test_a_stand_in_does_the_work_of_the_file_that_it_stands_for(env: Env, tiny: Path, tmp_path: Path) -> None:
    model = planning.describe(str(tiny))
    made = {m.format: m for m in stand_ins.plan(model, tensors(model), own="q8_0", room_bytes=1 << 30)}
    driver = Driver(env, tmp_path / "log", tmp_path)
    requests = [{"label": "real", "path": str(tiny)}, made["q8_0"].request()]
    real, other = driver.measure(requests, depths=(16,), threads=(1,), repeat=1, tokens=8)
    assert [len(points(runs)) for runs in (real, other)] == [1, 1]
    assert not list(tmp_path.glob("*/stand-in.gguf"))
    assert real[0].completion_tokens == other[0].completion_tokens == 8
    assert real[0].prompt_tokens == other[0].prompt_tokens == 16


def test_files_decode_in_turns_for_real(env: Env, tiny: Path, tmp_path: Path) -> None:
    """More tokens than the cache has room for: those of a turn are taken back before the next."""
    model = planning.describe(str(tiny))
    made = {m.format: m for m in stand_ins.plan(model, tensors(model), own="q8_0", room_bytes=1 << 30)}
    driver = Driver(env, tmp_path / "log", tmp_path)
    real, missing = {"label": "real", "path": str(tiny)}, {"label": "gone", "path": str(tmp_path / "gone.gguf")}
    groups = [[real, made["q8_0"].request(), made["f16"].request()], [real, missing]]
    found, failed = driver.in_turns(groups, depth=500, threads=1, turns=30, spend_s=60.0)
    assert found.labels == ("real", "q8_0", "f16")
    assert len(found.seconds) == 30
    assert 0.2 < found.ratio("q8_0", "real") < 5
    assert failed.seconds == ()
    assert not list(tmp_path.glob("*/*.gguf"))
    with pytest.raises(AdvisorError) as caught:
        driver.in_turns([[missing]], depth=8, threads=1, turns=1, spend_s=1.0)
    assert caught.value.code == "artifact-invalid"


def test_threads_are_tried_for_real(env: Env, tiny: Path, tmp_path: Path) -> None:
    found = threads.choose(
        Driver(env, tmp_path / "log", tmp_path),
        tiny,
        planning.own_machine(settings_.load()),
        planned=2,
        because="shared",
        shape="s",
        fmt="q8_0",
    )
    assert found is not None
    assert {"1", "2"} <= set(found.tried)
    assert all(rate > 0 for rate in found.tried.values())
