from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from advisor.deploy.manager import Deployments
from advisor.errors import AdvisorError
from advisor.facts.results import Deployment
from tests.unit.deploy.rig import Rig, wait_for

SHIM = Path(__file__).resolve().parents[3] / "advisor" / "deploy" / "shim.py"


def calm(found: Deployment) -> Deployment:
    """Without the memory in use, which changes from look to look."""
    return msgspec.structs.replace(found, memory=None)


def test_the_life_of_a_deployment(rig: Rig) -> None:
    d = rig.deployments
    assert d.list() == ()
    found = d.launch(rig.spec("--allocate", "50000000", model="org/model"))
    assert found.memory is not None and found.memory.bytes > 50_000_000
    found = calm(found)
    assert found == Deployment(
        name="one",
        state="ready",
        url=f"http://127.0.0.1:{found.port}",
        openai_base_url=f"http://127.0.0.1:{found.port}/v1",
        model="org/model",
        pid=rig.status().pid,
        port=found.port,
        runtime="llama.cpp",
        artifact="/models/fake.gguf",
        plan_id="p-1",
        started_at=rig.status().started_at,
        restarts=0,
        reason=None,
        log=str(rig.folder() / "server.log"),
        api_key_file=None,
    )
    assert tuple(map(calm, d.list())) == (found,)
    assert calm(d.get("one")) == found
    of_plan = d.find_plan("p-1")
    assert of_plan is not None and calm(of_plan) == found
    assert d.find_plan("p-2") is None
    assert d.spoken_for() == {found.port}
    start, now, most = d.start_seconds("one"), d.memory("one"), d.memory_peak("one")
    assert start is not None
    assert now is not None
    assert most is not None
    assert start.value > 0
    assert 50_000_000 <= now.value <= most.value
    with d.sample_memory("one", interval_s=0.01) as sampler:
        pass
    assert sampler.peak is not None
    assert sampler.peak.value >= 50_000_000
    with pytest.raises(AdvisorError) as caught:
        d.forget("one")
    assert caught.value.code == "busy"
    stopped = d.stop("one")
    assert (stopped.state, stopped.pid) == ("stopped", None)
    assert (d.memory("one"), d.memory_peak("one"), d.start_seconds("one"), d.pids("one")) == (None, None, None, ())
    assert d.find_plan("p-1") == stopped
    assert d.spoken_for() == set()
    d.forget("one")
    assert d.list() == ()
    with pytest.raises(AdvisorError, match="no deployment 'one'"):
        d.get("one")


def test_a_near_miss_gets_a_suggestion(rig: Rig) -> None:
    rig.deployments.key_file("smollm2")
    with pytest.raises(AdvisorError) as caught:
        rig.deployments.get("smolm2")
    assert 'Did you mean "smollm2"?' in caught.value.message
    assert rig.deployments.survey() == ((), ())  # a folder with a key alone is no deployment yet


def test_following_a_running_server_until_it_ends(rig: Rig) -> None:
    rig.deployments.launch(rig.spec())
    lines = rig.deployments.follow("one", poll_s=0.01)
    rig.deployments.get("one")
    first = next(line for line in lines if "GET /health" in line)
    assert first
    rig.deployments.stop("one")
    assert any("asked to stop" in line for line in lines)


def test_a_launch_that_never_reached_its_supervisor(rig: Rig) -> None:
    rig.deployments.launch(rig.spec())
    rig.deployments.stop("one")
    (rig.folder() / "status.json").unlink()
    seen = rig.deployments.get("one")
    assert seen.state == "failed"
    assert "interrupted before" in str(seen.reason)
    with rig.deployments._lock("one").held(5, __import__("advisor.events", fromlist=["Cancel"]).Cancel(), "busy"):
        assert rig.state() == "starting"
    assert rig.deployments.launch(rig.spec()).state == "ready"


def test_readiness_is_the_runtimes_own_reading(rig: Rig) -> None:
    asked: list[str] = []

    def ready_of(runtime: str) -> object:
        asked.append(runtime)
        return lambda status, body: status == 503 and b"Loading" in body

    odd = Deployments(rig.root, ready_of=ready_of)  # type: ignore[arg-type]
    assert odd.launch(rig.spec("--never-ready", runtime="vllm")).state == "ready"
    assert odd.get("one").state == "ready"
    assert set(asked) == {"vllm"}
    assert rig.state() == "unhealthy"


def test_the_supervisor_runs_without_the_package_and_without_help(rig: Rig, tmp_path: Path) -> None:
    """By hand, isolated, from another folder, with a copy of just its files."""
    rig.deployments.launch(rig.spec())
    rig.deployments.stop("one")
    own = tmp_path / "deploy"
    own.mkdir()
    for file in ("shim.py", "process_table.py", "spawn.py", "log_pipe.py", "lowering.py", "watch.py"):
        (own / file).write_bytes(SHIM.with_name(file).read_bytes())
    (tmp_path / "probes").mkdir()
    counters = SHIM.parents[1] / "probes" / "group_memory.py"
    (tmp_path / "probes" / counters.name).write_bytes(counters.read_bytes())
    mark = rig.status().uuid
    subprocess.run(
        [sys.executable, "-I", "-S", str(own / "shim.py"), str(rig.folder())],
        cwd=tmp_path,
        env={"ADVISOR_SUPERVISOR": mark},
        check=True,
        timeout=60,
    )
    wait_for(lambda: rig.state() == "ready", "the server")
    assert rig.deployments.stop("one").state == "stopped"


def test_the_supervisor_says_how_it_is_used() -> None:
    done = subprocess.run([sys.executable, "-I", str(SHIM)], capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert b"usage:" in done.stderr


def test_a_supervisor_that_fails_leaves_its_error(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advisor.deploy.manager._SHIM_START_S", 0.3)
    monkeypatch.setattr("advisor.deploy.manager.RUN_FILE", "run.jsonx")
    with pytest.raises(AdvisorError) as caught:
        rig.deployments.launch(rig.spec())
    assert caught.value.code == "server-failed"
    assert any("FileNotFoundError" in line for line in caught.value.context)
