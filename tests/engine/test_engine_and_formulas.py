"""What the engine says of whole models that are nowhere on this machine, beside what the formulas say."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor import settings as settings_
from advisor.api import asking, planning
from advisor.errors import AdvisorError
from advisor.facts.plan import Estimate
from tests.support import shapes

pytestmark = pytest.mark.slow
MODELS = ["8B", "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen3-30B-A3B", "google/gemma-2-9b-it"]


@pytest.fixture
def home(tmp_path: Path, shared_home: Path) -> settings_.Settings:
    """An own home with the environments of the shared one."""
    from advisor.execute import envs

    shared = settings_.load(env={"ADVISOR_HOME": str(shared_home)})
    envs.ensure("llama.cpp", settings=shared)
    own = settings_.load(env={"ADVISOR_HOME": str(tmp_path / "home"), "PATH": ""})
    own.paths.envs.parent.parent.mkdir(parents=True)
    own.paths.envs.parent.symlink_to(shared.paths.envs.parent)
    return own


def parts(found: Estimate) -> dict[str, float]:
    m = found.memory
    return {"kv": m.kv_cache.value, "state": m.state.value, "compute": m.compute.value, "total": m.total.value}


@pytest.mark.parametrize("model", MODELS)
def test_both_agree_and_the_answer_is_kept(home: settings_.Settings, model: str) -> None:
    def ask(*, engine: bool, context: int = 8192) -> Estimate:
        return planning.estimate(
            model, format="q4_k_m", context=context, machine=shapes.machine(), engine=engine, settings=home
        )

    formula = ask(engine=False)
    said = ask(engine=True)
    assert said.memory.kv_cache.method == said.memory.compute.method == "engine"
    assert formula.memory.kv_cache.method != "engine"
    one, other = parts(formula), parts(said)
    # The engine's log has two digits of a MiB, a line each.
    assert one["kv"] == pytest.approx(other["kv"], rel=0.001, abs=2 * 5300)
    assert one["state"] == other["state"] == 0
    assert one["total"] == pytest.approx(other["total"], rel=0.05)
    # Nobody is asked any more: the answer is known to plain estimates, and to recommendations of the same settings.
    again = ask(engine=False)
    assert again.memory == said.memory
    assert ask(engine=False, context=4096).memory.kv_cache.method != "engine"
    known = asking.oracle(home)
    assert known(planning.resolve_model(model, home), "q4_k_m", said.settings) is not None


def test_nobody_to_ask(tmp_path: Path) -> None:
    empty = settings_.load(env={"ADVISOR_HOME": str(tmp_path / "empty"), "PATH": ""})
    with pytest.raises(AdvisorError) as e:
        planning.estimate("8B", engine=True, settings=empty)
    assert e.value.code == "env-failed" and e.value.hint == "advisor env build llama.cpp"
