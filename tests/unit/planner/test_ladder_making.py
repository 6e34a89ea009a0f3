"""Steps for what cannot be made or proven: less memory to make it, or nothing to make."""

from __future__ import annotations

import msgspec

from advisor.facts.machine import Machine
from advisor.facts.plan import PlanRequest
from advisor.planner.ladder_making import MakingLadder
from tests.unit.planner import planner_fakes as fakes
from tests.unit.planner.planner_run import GOALS
from tests.unit.planner.test_ladder import first, planner

GIB = 1 << 30
CARD = fakes.rtx_4090()
WISH = {"method": "awq", "runtime": "vllm"}
AWQ = first("8B", CARD, **WISH)


def ladder(plan: object = AWQ, machine: Machine = CARD, **wish: object) -> MakingLadder:
    return MakingLadder(planner("8B"), machine, GOALS["chat"], PlanRequest(**(wish or WISH)), plan)  # type: ignore[arg-type]


def test_what_takes_less_to_make_is_offered_the_least_loss_first() -> None:
    assert AWQ.making_memory is not None
    steps = ladder().making(None)
    assert steps and [s.loss for s in steps] == sorted(s.loss for s in steps)
    for s in steps:
        assert s.kind == "making" and s.plan.id != AWQ.id and s.plan.status == "ready"
        made = s.plan.making_memory
        if s.plan.source == "quantize" and s.plan.method != "gguf":
            assert made is not None and made.value < AWQ.making_memory.value
            assert s.frees_bytes == int(AWQ.making_memory.value - made.value)
        assert s.change and s.given_up


def test_nothing_is_offered_that_is_known_to_take_more_than_there_is() -> None:
    steps = ladder().making(10 * GIB)
    assert steps
    for s in steps:
        made = s.plan.making_memory
        assert made is None or made.low <= 10 * GIB
    assert {s.plan.method for s in steps} & {"gguf", "nf4", "int8", "hqq", "none"}


def test_a_file_of_a_format_that_wants_no_importance_matrix_is_made_without_the_whole_model() -> None:
    wish = {"format": "iq4_xs", "runtime": "llama.cpp"}
    host = fakes.cpu_only()
    plan = first("8B", host, **wish)
    assert plan.imatrix
    steps = ladder(plan, host, **wish).making(None)
    assert steps
    assert all(not s.plan.imatrix or s.plan.source != "quantize" for s in steps)
    assert any("no importance matrix" in s.change for s in steps if s.plan.method == "gguf")


def test_the_same_plan_proven_by_itself_comes_once() -> None:
    (step,) = ladder().proof()
    assert (step.kind, step.loss) == ("proof", 0.0)
    assert step.plan.id != AWQ.id and step.plan.id.startswith("p-")
    assert step.plan.settings == AWQ.settings and step.plan.commands == AWQ.commands
    assert any("by itself" in w for w in step.plan.warnings)
    assert ladder(step.plan).proof() == ()
    fetched = msgspec.structs.replace(AWQ, source="prequantized", artifact="org/name@abc")
    assert ladder(fetched).proof() == ()
