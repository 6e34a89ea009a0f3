"""Every flag does what it says, alone and together with any others; a goal's own wishes give way to it."""

from __future__ import annotations

import math
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.facts.plan import Goal, Plan, PlanRequest
from advisor.facts.quantity import Quantity
from advisor.planner.goals import TERMS
from advisor.planner.request import MIN_CONTEXT, MOST_PARALLEL, check, effective_goal
from tests.properties.spread import GIB, ask, goals, machine, plans, what
from tests.scenarios.planning import loaded, model_of

pytestmark = pytest.mark.beside

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
# Values that leave something and take something away on the machines below.
FLAGS: Final[dict[str, tuple[Any, ...]]] = {
    "context": (1024, 16384),
    "parallel": (1, 4),
    "min_tps": (3.0, 40.0),
    "max_memory_bytes": (8 * GIB, 14 * GIB),
    "min_quality": (0.9, 0.985),
    "within_s": (1200.0, 600.0),
    "method": ("gguf", "awq", "none", "nf4"),
    "runtime": ("llama.cpp", "vllm", "transformers"),
    "kv_type": ("f16", "q8_0"),
}
# These only take plans away; the others also change what a plan is.
LIMITS: Final = ("max_memory_bytes", "min_quality", "within_s")
WHERE: Final = ("rtx-4090", "cpu-16gb", "rx-7900-xtx")


def value(q: Quantity | None) -> float | None:
    return None if q is None else float(q.value)


def kept_share(p: Plan) -> float | None:
    """The share of the original's quality, as ``--min-quality`` counts it."""
    recovery, ratio, kld = (value(q) for q in (p.quality.recovery, p.quality.perplexity_ratio, p.quality.kld))
    if recovery is not None:
        return recovery
    if ratio is not None:
        return min(1.0, 1 / ratio)
    return None if kld is None else math.exp(-kld)


def obeys(p: Plan, flags: dict[str, Any], goal: Goal) -> None:
    parallel = flags.get("parallel", goal.parallel)
    assert p.settings.parallel == parallel
    assert p.settings.context == parallel * flags.get("context", goal.context)
    assert p.settings.kv_type == flags.get("kv_type", "f16")
    assert p.method == flags.get("method", p.method)
    assert p.runtime == flags.get("runtime", p.runtime)
    decode, share = value(p.speed.decode), kept_share(p)
    assert decode is None or decode >= flags.get("min_tps", 0)
    assert share is None or share >= flags.get("min_quality", 0)
    if "max_memory_bytes" in flags:
        assert p.memory.total.value + (value(p.memory.reserved) or 0) <= flags["max_memory_bytes"] * (1 + 1e-9)
    if "within_s" in flags and p.time.quantize is not None:
        took = sum(value(q) or 0 for q in (p.time.fetch, p.time.quantize, p.time.start))
        assert took <= flags["within_s"]


@pytest.mark.parametrize("flag", [(name, v) for name, values in FLAGS.items() for v in values], ids=str)
def test_each_flag_alone(flag: tuple[str, Any]) -> None:
    name, wanted = flag
    for where in WHERE[:2]:
        for p in plans(MODEL, machine(where), **{name: wanted}):
            obeys(p, {name: wanted}, loaded().goals["chat"])


@pytest.mark.parametrize("name", ["min_tps", "max_memory_bytes", "min_quality", "within_s", "method", "runtime"])
def test_each_flag_takes_something_away(name: str) -> None:
    where = machine("rtx-4090")
    every = {what(p) for p in plans(MODEL, where)}
    for wanted in FLAGS[name][-1:]:
        left = {what(p) for p in plans(MODEL, where, **{name: wanted})}
        assert left < every


def some_flags() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in FLAGS.items()})


def together(where: str, wanted: str, flags: dict[str, Any]) -> None:
    """All flags hold at once; a limit takes plans away and leaves the rest in its order."""
    known = loaded()
    try:
        check(PlanRequest(goal=wanted, **flags), known.pack, known.quantizers)
    except AdvisorError as e:
        assert e.code == "contradictory-options" and e.hint and {"method", "runtime"} <= set(flags)
        return
    found = plans(MODEL, machine(where), wanted, **flags)
    for p in found:
        obeys(p, flags, known.goals[wanted])
    free = {k: v for k, v in flags.items() if k not in LIMITS}
    if free != flags:
        every = [what(p) for p in plans(MODEL, machine(where), wanted, **free)]
        assert set(map(what, found)) <= set(every)


def _held(examples: int) -> Any:
    few = settings(max_examples=examples, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    return lambda f: few(given(where=st.sampled_from(WHERE), wanted=st.sampled_from(goals()), flags=some_flags())(f))


test_flags_together = _held(15)(together)
test_flags_together_widely = pytest.mark.slow(_held(300)(together))


def test_a_limit_on_memory_holds_for_what_a_runtime_takes_up_front() -> None:
    where = machine("rtx-4090")
    (usual, *_), (small, *_) = (
        plans(MODEL, where, runtime="vllm", method="awq", **limit) for limit in ({}, {"max_memory_bytes": 12 * GIB})
    )
    assert value(usual.memory.reserved) and value(small.memory.reserved)
    assert usual.memory.total.value + usual.memory.reserved.value > 12 * GIB
    assert small.memory.total.value == usual.memory.total.value
    assert small.settings.gpu_memory_utilization < usual.settings.gpu_memory_utilization
    assert any(f"{small.settings.gpu_memory_utilization:g}" in argv for argv in small.commands.serve)


def test_the_speed_that_is_asked_for_stands_for_the_goals() -> None:
    """A goal's own target warns; a person's word replaces it, upwards and downwards."""
    where, slow = machine("cpu-16gb"), "The predicted speed stays below what this goal usually wants."
    by_goal = plans(MODEL, where)[0]
    assert value(by_goal.speed.decode) < loaded().goals["chat"].min_decode_tps
    assert slow in " ".join(by_goal.warnings)
    asked = plans(MODEL, where, min_tps=1.0)[0]
    assert slow not in " ".join(asked.warnings)
    facts, _ = model_of(MODEL)
    goal, notes = effective_goal(loaded().goals["coding"], PlanRequest(context=2048, parallel=3, min_tps=2.5), facts)
    assert (goal.context, goal.parallel, goal.min_decode_tps, notes) == (2048, 3, 2.5, ())
    assert effective_goal(loaded().goals["coding"], PlanRequest(), facts)[0] == loaded().goals["coding"]


def test_without_downloads_only_what_lies_here_is_planned() -> None:
    where = machine("cpu-16gb")
    found = ask(MODEL, where, no_download=True)
    assert not found.plans and "without --no-download" in {r.change for r in found.relaxations}
    assert {r.rule for r in found.rejected} >= {"NET-001"}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"context": "8k"}, "--context is a whole number, not '8k'"),
        ({"context": 8192.5}, "--context is a whole number"),
        ({"context": MIN_CONTEXT - 1}, f"--context is at least {MIN_CONTEXT}"),
        ({"context": -1}, "--context is above zero"),
        ({"parallel": 2.5}, "--parallel is a whole number"),
        ({"parallel": True}, "--parallel is a whole number"),
        ({"parallel": 0}, "--parallel is above zero"),
        ({"parallel": MOST_PARALLEL + 1}, f"--parallel is at most {MOST_PARALLEL}"),
        ({"threads": 0}, "--threads is above zero"),
        ({"threads": 10**9}, "--threads is at most"),
        ({"min_tps": "fast"}, "--min-tps is a number"),
        ({"min_tps": math.inf}, "--min-tps is a finite number"),
        ({"min_tps": math.nan}, "--min-tps is above zero"),
        ({"max_memory_bytes": "12GB"}, "--max-memory is a whole number"),
        ({"max_memory_bytes": 0}, "--max-memory is above zero"),
        ({"min_quality": 1.01}, "--min-quality is at most 1"),
        ({"min_quality": 0.0}, "--min-quality is above zero"),
        ({"within_s": math.inf}, "--within is a finite number"),
        ({"within_s": -3.0}, "--within is above zero"),
        ({"method": 5}, "--method is a word"),
        ({"runtime": b"vllm"}, "--runtime is a word"),
        ({"kv_type": 8}, "--kv-type is a word"),
        ({"top": "3"}, "--top is a whole number"),
    ],
    ids=str,
)
def test_a_bad_value_is_refused_by_the_name_of_its_option(flags: dict[str, Any], told: str) -> None:
    with pytest.raises(AdvisorError) as e:
        ask(MODEL, machine("cpu-16gb"), **({"top": 5} | flags))
    assert (e.value.code, e.value.exit_code) == ("bad-option", 2)
    assert told in e.value.message


@pytest.mark.parametrize("name", goals())
def test_a_goal_sets_context_slots_target_and_weights_and_says_why(name: str) -> None:
    goal = loaded().goals[name]
    assert set(goal.weights) == set(TERMS)
    assert set(goal.reasons) == {"context", "parallel", "min_decode_tps", "weights"}
    assert all(len(text) > 20 and text.endswith(".") for text in goal.reasons.values())
    first = plans(MODEL, machine("h100"), name)[0]
    assert (first.settings.context, first.settings.parallel) == (goal.context * goal.parallel, goal.parallel)
