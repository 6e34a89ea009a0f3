"""The bars on what is chosen: the first plans load, cards that are not here are planned for, picks make sense."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

import advisor
from advisor.facts.words import METHODS
from tests.properties.spread import MODELS, NAMED, RECORDED, machine, plans
from tests.scenarios.planning import loaded, model_of
from tests.support.loadable import SUPPORT, problems

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import choices

pytestmark = pytest.mark.beside


@pytest.fixture(autouse=True)
def _rules_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules are read once for all of these tests, though each has a home of its own."""
    for part in ("planning", "suggesting", "ruling"):
        monkeypatch.setattr(f"advisor.api.{part}.rule_pack", lambda _: loaded().pack)


EIGHT = "meta-llama/Llama-3.1-8B-Instruct"


@pytest.mark.parametrize("name", (*RECORDED, *NAMED))
def test_the_first_ten_plans_load(name: str) -> None:
    model = MODELS[(*RECORDED, *NAMED).index(name) % len(MODELS)]
    assert [h.wrong for h in choices.held((name,), (model,))] == [()]


@pytest.mark.slow
def test_the_first_ten_plans_of_every_model_load_on_every_machine() -> None:
    found = list(choices.held((*RECORDED, *NAMED)))
    assert [w for h in found for w in h.wrong] == []
    assert sum(h.plans for h in found) > 2000


def test_what_does_not_load_is_told() -> None:
    """The table itself: each line of it is broken once."""
    where, model, weights = machine("rtx-4090"), *model_of(EIGHT)
    first = next(p for p in plans(EIGHT, where) if p.runtime == "vllm" and p.method == "awq")
    assert problems(first, where, model, weights) == []

    def told(**changes: object) -> str:
        return "; ".join(problems(msgspec.structs.replace(first, **changes), where, model, weights))

    three = msgspec.structs.replace(first.settings, tensor_parallel=3)
    long = msgspec.structs.replace(first.settings, context=10**6)
    assert "does not load gguf" in told(method="gguf", format="q4_k_m")
    assert "no kernels for mxfp4 on x86_64" in told(method="mxfp4", devices=("host",))
    assert "only llama.cpp shares" in told(devices=("gpu0", "host"))
    assert "heads are not shared out" in told(settings=three)
    assert "a context of 1000000" in told(settings=long)
    assert "groups of 96 do not divide" in told(format="w4a16-g96")
    small = msgspec.structs.replace(where.devices[0].memory, free_bytes=1 << 30)
    full = msgspec.structs.replace(where, devices=(msgspec.structs.replace(where.devices[0], memory=small),))
    assert any("gpu0 has" in why for why in problems(first, full, model, weights))
    old = msgspec.structs.replace(where.devices[0], compute_capability=7.0)
    assert any("compute capability" in why for why in problems(
        first, msgspec.structs.replace(where, devices=(old,)), model, weights))  # fmt: skip
    assert {m for table in SUPPORT.values() for m in table} <= set(METHODS)


@pytest.mark.parametrize("gib", [pytest.param(gib, marks=[pytest.mark.slow] * (gib > 8)) for gib in choices.SIZES])
def test_what_is_offered_on_a_processor_alone_makes_sense(gib: int) -> None:
    assert choices.picked(gib).wrong == ()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) for n in ("cpu-16gb", "rtx-3060", "m1-8gb", "rtx-3090-pair")]
)
def test_what_is_offered_is_what_recommend_says_of_it(name: str) -> None:
    """Models that are smaller than the typical one of their size have room for better ways than that."""
    where = machine(name)
    for m in advisor.suggest(machine=where, top=4).models:
        first = advisor.recommend(m.ref, machine=where, top=1).plans[0]
        assert (m.choice.method, m.choice.format, m.choice.runtime) == (first.method, first.format, first.runtime), (
            m.ref
        )
