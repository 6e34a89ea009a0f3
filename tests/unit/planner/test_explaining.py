"""What a plan costs against the next best, legal alternatives, refusals that name the rule, the whole story."""

from __future__ import annotations

import itertools
import re
import shlex

import msgspec
import pytest

from advisor.api.error_help import explain_error
from advisor.cli.app import COMMANDS
from advisor.errors import CATALOGUE, AdvisorError, did_you_mean
from advisor.facts.plan import Plan, PlanRequest, Recommendation
from advisor.facts.quantity import exact
from advisor.facts.words import METHODS, RUNTIMES
from advisor.planner.explain import rule_effect
from advisor.planner.legal import ways_of
from advisor.planner.request import check
from advisor.planner.story import Answer, story
from advisor.planner.tradeoff import against_next, differences
from tests.unit.planner import planner_fakes as fakes
from tests.unit.planner.planner_run import GOALS, PACK, plan

# ------------------------------------------------------------------------------------------- against the next best


def test_each_plan_is_held_against_the_next_and_the_last_shown_against_one_that_is_not() -> None:
    found = plan(8.0, fakes.rtx_4090(), top=3)
    whole = plan(8.0, fakes.rtx_4090(), top=100)
    for p in found.plans:
        other = whole.plans[p.rank]
        assert p.against_next.startswith(f"Against plan {p.rank + 1} (")
        assert f"{other.format} in {other.runtime}" in p.against_next
        assert p.against_next == against_next(p, other)
    assert whole.plans[-1].against_next == "", "after the last of all there is none"
    assert all(p.against_next.count(". ") == 0 and p.against_next.endswith(".") for p in found.plans)


def test_gains_of_one_are_costs_of_the_other() -> None:
    plans = plan(8.0, fakes.rtx_4090(), top=8).plans
    for one, two in itertools.combinations(plans, 2):
        gains, costs = differences(one, two)
        others_gains, others_costs = differences(two, one)
        assert (len(gains), len(costs)) == (len(others_costs), len(others_gains))


def test_the_figures_of_both_are_told() -> None:
    first = plan(8.0, fakes.rtx_4090()).plans[0]

    def like(memory: int, tps: float, kld: float, seconds: float) -> Plan:
        return msgspec.structs.replace(
            first,
            memory=msgspec.structs.replace(first.memory, total=exact(memory, "bytes", "x")),
            speed=msgspec.structs.replace(first.speed, decode=exact(tps, "tokens/s", "x")),
            quality=msgspec.structs.replace(first.quality, kld=exact(kld, "nats", "x")),
            time=msgspec.structs.replace(first.time, fetch=None, start=None, quantize=exact(seconds, "s", "x")),
        )

    one, two = like(4 << 30, 40.0, 0.05, 600.0), msgspec.structs.replace(like(6 << 30, 20.0, 0.01, 60.0), rank=2)
    assert differences(one, two) == (
        ["2.00 GiB less memory", "2.0 times the speed (40.0 instead of 20.0 tok/s)"],
        ["fidelity (KL divergence 0.0500 instead of 0.0100)", "9 min until it serves"],
    )
    assert differences(one, one) == ([], [])
    assert "no figure differs by much" in against_next(one, msgspec.structs.replace(one, rank=2))
    unknown = msgspec.structs.replace(two, speed=msgspec.structs.replace(two.speed, decode=None))
    assert not any("speed" in text for side in differences(one, unknown) for text in side)


# ------------------------------------------------------------------------------------------- instead


@pytest.mark.parametrize(
    ("text", "methods", "runtimes"),
    [
        ("gguf in llama.cpp with Metal", {"gguf"}, {"llama.cpp"}),
        ("awq or gptq of 4 bits in vllm", {"awq", "gptq"}, {"vllm"}),
        ("this method in vllm or transformers", {"fp8"}, {"vllm", "transformers"}),
        ("the same model as gguf", {"gguf"}, set()),
        ("16-bit weights in mlx", {"none"}, {"mlx"}),
        ("w8a8 (INT8)", {"w8a8"}, set()),
        ("gguf, which falls back row by row", {"gguf"}, set()),
        ("a shorter --context", set(), set()),
        ("fewer bits", set(), set()),
        ("vllm where the device is one of its own", set(), set()),
        ("a group of 32, 64 or 128", set(), set()),
    ],
)
def test_what_an_advice_names(text: str, methods: set[str], runtimes: set[str]) -> None:
    assert ways_of(text, "fp8") == (methods, runtimes)


@pytest.mark.parametrize("machine", [fakes.rtx_4090(), fakes.cpu_only(), fakes.t4(), fakes.m2_ultra()])
def test_no_rejection_advises_what_is_rejected_itself(machine: object) -> None:
    found = plan(8.0, machine, top=1000)  # type: ignore[arg-type]
    runs = {(p.method, p.runtime) for p in found.plans}
    considered = runs | {(r.method, r.runtime) for r in found.rejected}
    assert any(r.instead for r in found.rejected)
    for r in found.rejected:
        for text in r.instead:
            methods, runtimes = ways_of(text, r.method)
            named = {(m, t) for m, t in considered if m in methods and (not runtimes or t in runtimes)}
            assert not named or named & runs, f"{r.method} in {r.runtime}: {text}"


def test_a_runtime_that_cannot_serve_the_method_is_the_reason_not_the_group() -> None:
    found = plan(0.135, fakes.rtx_4090(), top=1000)
    rules = {(r.method, r.format, r.runtime): r.rule for r in found.rejected}
    assert rules["awq", "w4a16-g128", "llama.cpp"] == "RT-004"
    assert rules["awq", "w4a16-g128", "vllm"] == "FMT-001"


# ------------------------------------------------------------------------------------------- contradictions


def test_every_refusal_names_a_rule_of_the_runtime_and_a_command_that_is_legal() -> None:
    refused = 0
    for method, runtime in itertools.product(METHODS, RUNTIMES):
        try:
            check(PlanRequest(method=method, runtime=runtime), PACK, fakes.quantizers(), model="my model")
        except AdvisorError as e:
            refused += 1
            assert (e.code, e.exit_code) == ("contradictory-options", 2)
            assert e.data["rule"].startswith("RT-") and e.data["rule"] in e.message
            assert f"the rule: advisor explain {e.data['rule']}" in e.context
            words = shlex.split(e.hint or "")
            assert words[:3] == ["advisor", "recommend", "my model"], e.hint
            options = _pairs(words[3:])
            nearest = PlanRequest(method=options["--method"], runtime=options["--runtime"])
            check(nearest, PACK, fakes.quantizers())
            assert method == nearest.method or runtime == nearest.runtime, "one of the two is kept"
    assert refused > 20


def _pairs(words: list[str]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2], strict=True))


# ------------------------------------------------------------------------------------------- the story


def told(found: Recommendation, request: PlanRequest, machine: object, name: str = "this") -> Answer:
    return Answer(
        *(found.plans, found.rejected, found.relaxations, request, "org/model", name, machine, fakes.model(8.0)),  # type: ignore[arg-type]
        *(GOALS[request.goal], found.candidates_considered, found.candidates_possible, found.warnings),
        found.overlay_rules,
    )


def test_the_story_of_a_recommendation() -> None:
    request = PlanRequest(goal="coding", context=4096, min_tps=5.0)
    found = plan(8.0, fakes.rtx_4090(), goal="coding", context=4096, min_tps=5.0)
    said = story(told(found, request, fakes.rtx_4090(), "rtx-4090"))
    first, second = found.plans[:2]
    parts = {p.title: "\n".join(p.sentences) for p in said.parts}
    assert list(parts) == [
        "The machine",
        "The model",
        "The goal",
        "What was weighed",
        f"Why {first.id} comes first",
        "What it gives up against the second",
        "Why the others come after it",
        "What was ruled out",
        "What was assumed and what is not known",
        "What to type next",
    ]
    assert "RTX 4090" in parts["The machine"] and "24.0 GiB" in parts["The machine"]
    assert "8.00 B parameters" in parts["The model"]
    assert "quality 45%" in parts["The goal"] and "guide 002" in parts["The goal"]
    assert "You asked beside it for: --context 4096 --min-tps 5" in parts["The goal"]
    out = found.candidates_considered - found.candidates_possible
    assert f"{found.candidates_possible} ways can run" in parts["What was weighed"]
    assert f"{out} were ruled out" in parts["What was weighed"]
    for d in first.decisions:
        assert d.rule in parts[f"Why {first.id} comes first"]
    assert second.id in parts["What it gives up against the second"]
    assert first.against_next in parts["What it gives up against the second"]
    assert all(p.id in parts["Why the others come after it"] for p in found.plans[2:])
    assert "RT-004" in parts["What was ruled out"]
    assert first.id in parts["What to type next"]
    assert set(said.details) >= {s for p in said.parts for s in p.sentences if s != said.text}


def test_the_story_of_a_no() -> None:
    request = PlanRequest(format="q8_0", context=131072)
    machine = fakes.machine(fakes.host(21 * fakes.GB))
    found = plan(8.0, machine, format="q8_0", context=131072)
    said = story(told(found, request, machine))
    parts = {p.title: p.sentences for p in said.parts}
    assert said.text.startswith("No plan for org/model fits the machine. It would fit with this change: ")
    assert "more than may be used there (MEM-001)" in parts["What came closest"][0]
    gives = parts["What would have to give, the least first"]
    assert len(gives) == len(found.relaxations)
    for text, r in zip(gives, found.relaxations, strict=True):
        assert text.startswith(r.change) and r.plan.id in text and str(r.command) in text
    assert parts["What to type next"][0].endswith(str(found.relaxations[0].command))


def test_what_an_older_version_kept_is_told_as_far_as_it_goes() -> None:
    found = plan(8.0, fakes.cpu_only())
    old = Answer(found.plans, found.rejected, (), PlanRequest(), "8B", None, None, None, None, 0, 0, (), ())
    titles = [p.title for p in story(old).parts]
    assert "The machine" not in titles and f"Why {found.plans[0].id} comes first" in titles


def test_what_a_rule_did() -> None:
    found = plan(8.0, fakes.rtx_4090())
    assert "It ruled out awq" in rule_effect("RT-004", found.plans, found.rejected)[0]
    assert found.plans[0].id in rule_effect("GUIDE-001", found.plans, found.rejected)[0]
    assert rule_effect("RT-999", found.plans, found.rejected) == (
        "It did not speak of any plan or choice that was shown.",
    )


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_every_error_code_says_what_its_exit_means_and_what_to_type(code: str) -> None:
    said = explain_error(code)
    assert said.title == f"exit code {CATALOGUE[code].exit_code}" and said.text == CATALOGUE[code].explanation
    then = [p for p in said.parts if p.title == "What to type next"]
    commands = [re.sub(r"^.*?: ", "", s) for s in then[0].sentences]
    assert commands
    for line in commands:
        program, word, *_ = line.split()
        assert program == "advisor" and (word in COMMANDS or word == "--help"), line


def test_near_misses_are_spelled_as_they_are_known() -> None:
    assert did_you_mean("rt-04", ["RT-004"]) == ' Did you mean "RT-004"?'
