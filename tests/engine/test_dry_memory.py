"""Predicted memory of models of many architectures against what llama.cpp itself would allocate: dry loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.cost.compute import work_buffer
from advisor.cost.kv import cache_by_layer, cells
from advisor.execute.oracle import DryLoad, dry_request
from advisor.execute.proc import run_runner
from advisor.facts.plan import Settings
from advisor.model.tensors import computed
from tests.support.architectures import FIXTURES, Compared, Fixture, compare, facts

pytestmark = [pytest.mark.slow, pytest.mark.beside]


def _name(fixture: Fixture) -> str:
    s = fixture.settings
    return f"{fixture.model.rsplit('/', 1)[-1]}-{fixture.fmt}-{s.context}x{s.parallel}-{s.kv_type}"


@pytest.mark.parametrize("fixture", FIXTURES, ids=_name)
def test_cache_and_state_are_the_engines_and_the_whole_is_near(fixture: Fixture, dry_engine: DryLoad) -> None:
    found = compare(fixture, dry_engine)
    assert found is not None, dry_engine.log.read_text(encoding="utf-8", errors="replace")[-2000:]
    assert found["kv"].engine + found["state"].engine > 0
    assert abs(found["kv"].error) <= 0.02, found["kv"]
    assert abs(found["state"].error) <= 0.02, found["state"]
    assert abs(found["output"].error) <= 0.02, found["output"]
    assert abs(found["whole"].error) <= 0.05, found["whole"]


@pytest.mark.parametrize("name", ["google/gemma-3-27b-it", "Qwen/Qwen3.5-9B", "openai/gpt-oss-20b"])
def test_one_cache_for_all_slots(name: str, dry_engine: DryLoad) -> None:
    model = facts(name)
    settings = Settings(context=32768, parallel=4)
    request = {**dry_request(model, "q4_k_m", settings), "unified": True}
    told = run_runner(dry_engine.env, "dryload.py", request, step="dry load", log=dry_engine.log)
    predicted = sum(cache_by_layer(model, computed(model), settings, unified=True).values())
    assert abs(Compared(predicted, told["kv_cache_bytes"]).error) <= 0.02
    room = cells(model, settings, unified=True)
    work = work_buffer(model, computed(model), settings, room)
    assert abs(Compared(int(work.value), told["compute_bytes"]).error) <= 0.05


def test_there_are_fixtures_of_enough_kinds() -> None:
    assert len({facts(f.model).architecture for f in FIXTURES}) >= 25
    assert len({f.settings.kv_type for f in FIXTURES}) >= 7
    assert len({f.settings.context for f in FIXTURES}) >= 7
    assert {f.settings.parallel for f in FIXTURES} >= {1, 2, 3, 4}


def test_a_file_that_is_no_model_gets_no_answer(dry_engine: DryLoad, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    assert dry_engine.file(broken, FIXTURES[0].settings) is None
