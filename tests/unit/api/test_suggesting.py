"""``recommend`` without a model: what a machine is good for."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor import api
from advisor.errors import AdvisorError
from advisor.facts.suggestions import Suggestions
from advisor.planner.suggest import CLASSES, ability, size_class
from advisor.settings import load


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def ask(home: Path, **options: object) -> Suggestions:
    settings = load({"offline": True}, env={"ADVISOR_HOME": str(home)})
    return api.suggest(settings=settings, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def card(home: Path) -> Suggestions:
    return ask(home, hardware=("rtx-4090",), memory=32 * 10**9)


def test_every_class_is_told_offline_with_an_empty_cache(card: Suggestions) -> None:
    assert [c.name for c in card.size_classes] == list(CLASSES)
    by_name = {c.name: c for c in card.size_classes}
    eight, giant = by_name["8B"], by_name["671B:37B"]
    assert eight.choice is not None
    assert eight.choice.devices == ("gpu0",)
    assert eight.choice.longest_context > eight.choice.context == 8192
    assert eight.choice.because
    assert any(ref.endswith("Llama-3.1-8B-Instruct") for ref in eight.models)
    assert giant.choice is None
    assert giant.short_by is not None
    assert giant.short_by > 100 * 10**9
    assert giant.because


def test_larger_classes_take_more_and_are_slower(card: Suggestions) -> None:
    dense = [c.choice for c in card.size_classes if ":" not in c.name and c.choice is not None]
    held = [c.memory.value for c in dense]
    assert held == sorted(held)
    speeds = [c.decode.value for c in dense if c.decode is not None]
    assert speeds == sorted(speeds, reverse=True)


def test_models_are_ranked_with_plans_that_can_be_named_later(card: Suggestions, home: Path) -> None:
    assert [m.rank for m in card.models] == list(range(1, 11))
    assert [m.plan_id for m in card.models] == [p.id for p in card.plans]
    assert len({m.ref for m in card.models}) == 10
    tiers = [m.choice.meets_goal is False for m in card.models]
    assert tiers == sorted(tiers)
    good = [m.score for m in card.models if m.choice.meets_goal is not False]
    assert good == sorted(good, reverse=True)
    assert card.models_considered >= card.models_fitting > 10
    settings = load({"offline": True}, env={"ADVISOR_HOME": str(home)})
    assert api.explain(card.models[0].plan_id, settings=settings).kind == "plan"


def test_the_best_plan_of_a_model_is_what_recommend_says(card: Suggestions, home: Path) -> None:
    settings = load({"offline": True}, env={"ADVISOR_HOME": str(home)})
    for model, plan in list(zip(card.models, card.plans, strict=True))[:3]:
        full = api.recommend(model.ref, settings=settings, hardware=("rtx-4090",), memory=32 * 10**9)
        best = full.plans[0]
        assert (best.method, best.format, best.runtime) == (plan.method, plan.format, plan.runtime)
        assert best.score == plan.score


def test_what_a_person_asks_for_holds_for_every_model(home: Path) -> None:
    found = ask(home, hardware=("cpu",), memory=16 * 10**9, bandwidth=60 * 10**9, method="gguf", format="q8_0",
                context=4096, max_memory=6 * 10**9, goal="coding", top=3)  # fmt: skip
    assert len(found.models) == 3
    for m in found.models:
        assert (m.choice.format, m.choice.context) == ("q8_0", 4096)
        assert m.choice.memory.value <= 6 * 10**9
    assert found.goal.id == "coding"
    assert all("given by you" in " ".join(p.assumptions) for p in found.plans)


def test_a_method_of_one_runtime_alone(home: Path) -> None:
    found = ask(home, hardware=("rtx-4090",) * 2, memory=64 * 10**9, method="awq", top=2)
    assert [m.choice.method for m in found.models] == ["awq", "awq"]
    none = ask(home, hardware=("cpu",), memory=64 * 10**9, method="mxfp4", top=2)
    assert not none.models
    eight = next(c for c in none.size_classes if c.name == "8B")
    assert eight.short_by is None
    assert eight.because
    assert "GGUF files only" not in eight.because


def test_nothing_is_offered_where_nothing_fits(home: Path) -> None:
    found = ask(home, hardware=("cpu",), memory=2**28)
    assert not found.models
    assert not found.plans
    assert all(c.choice is None and c.because for c in found.size_classes)


def test_the_same_question_has_the_same_answer(home: Path) -> None:
    first, again = (ask(home, hardware=("cpu",), memory=8 * 10**9, goal="edge", top=2) for _ in range(2))
    assert again.models == first.models
    assert again.size_classes == first.size_classes


def test_without_downloads_only_what_is_here_is_offered(home: Path) -> None:
    found = ask(home, no_download=True)
    assert found.models == ()
    assert found.models_considered == 0
    assert any(c.choice for c in found.size_classes)


def test_an_adapter_belongs_to_one_model(home: Path, tmp_path: Path) -> None:
    with pytest.raises(AdvisorError) as caught:
        ask(home, adapter=tmp_path)
    assert caught.value.code == "contradictory-options"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"goal": "chatt"}, "goal-not-found"),
        ({"hardware": ("rtx-4099",)}, "hardware-not-found"),
        ({"method": "awq", "format": "q4_k_m"}, "contradictory-options"),
        ({"context": 3}, "bad-option"),
    ],
)
def test_wrong_options_are_refused(home: Path, options: dict[str, object], code: str) -> None:
    with pytest.raises(AdvisorError) as caught:
        ask(home, **options)
    assert caught.value.code == code


def test_a_model_belongs_to_the_nearest_class() -> None:
    from advisor.model.sizes import facts

    classes = [facts(name) for name in CLASSES]
    assert size_class(8_030_000_000, 8_030_000_000, classes) == "8B"
    assert size_class(27_000_000_000, 27_000_000_000, classes) == "32B"
    assert size_class(30_500_000_000, 3_300_000_000, classes) == "30B:3B"
    assert size_class(46_700_000_000, 12_900_000_000, classes).count(":") == 1


def test_ability_grows_with_size_from_nothing_to_one() -> None:
    sizes = [ability(n, 7e10) for n in (1e7, 1e8, 1e9, 8e9, 7e10, 1e12)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (0.0, 1.0)
    assert ability(5e7, 5e7) == 0.0


@pytest.mark.slow
@pytest.mark.beside
def test_models_of_years_ago_are_not_offered(home: Path) -> None:
    for goal in ("chat", "coding"):
        found = ask(home, hardware=("rtx-4090",), goal=goal, top=30)
        assert len(found.models) > 5
        assert not [m.ref for m in found.models if "codellama" in m.ref.lower() or "llama-2" in m.ref.lower()]
