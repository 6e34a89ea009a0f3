"""Servers that misbehave: timeouts, exits, floods, leftovers, crash loops."""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from advisor.deploy import client
from advisor.deploy.process_table import SHIM_MARK, marked
from advisor.errors import AdvisorError
from advisor.facts.results import Deployment
from advisor.probes.group_memory import Kills
from tests.unit.deploy.rig import Rig, alive, wait_for


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "dép löy 'ments' 部署")
    yield made
    made.clean_up()


def limit_files(pid: int, limits: tuple[int, int]) -> None:
    """Limit the size of the files that another process can write."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("habit", ["--never-ready", "--never-listen"])
def test_a_server_that_never_gets_ready_is_stopped(rig: Rig, habit: str) -> None:
    with pytest.raises(AdvisorError) as caught:
        rig.deployments.launch(rig.spec(habit, ready_timeout_s=0.5))
    assert caught.value.code == "server-timeout"
    assert any("fake server starts red" in line for line in caught.value.context)
    assert rig.processes() == []
    assert rig.state() == "stopped"


@pytest.mark.parametrize(
    ("habit", "code", "number", "oom", "word"),
    [
        (("--exit", "0"), 0, None, False, "exit code 0"),
        (("--exit", "7"), 7, None, False, "exit code 7"),
        (("--exit", "137"), 137, None, True, "memory"),
        (("--die-by", "9"), None, 9, True, "memory"),
        (("--die-by", "11"), None, 11, False, "SIGSEGV"),
    ],
)
def test_an_early_end_is_reported_with_its_cause_and_log(
    rig: Rig, habit: tuple[str, ...], code: int | None, number: int | None, oom: bool, word: str
) -> None:
    with pytest.raises(AdvisorError) as caught:
        rig.deployments.launch(rig.spec(*habit))
    error = caught.value
    assert error.code == "server-failed"
    assert word in error.message
    # Nobody was killed for memory here: where the kernel counts such kills, that is not even likely.
    likely = oom and not Kills().countable
    assert (error.data["backend_exit"], error.data["signal"], error.data["likely_oom"]) == (code, number, likely)
    assert ("though the kernel counted no kill for memory" in error.message) == (oom and not likely)
    assert "\x1b" not in "".join(error.context)
    found = rig.deployments.get("one")
    assert found.state == "failed"
    assert found.restarts == 0
    assert found.reason is not None
    assert word in found.reason


def test_a_command_that_does_not_exist_is_named(rig: Rig) -> None:
    with pytest.raises(AdvisorError) as caught:
        rig.deployments.launch(rig.spec(argv=("/no/such/server; rm -rf ~", "$(reboot)")))
    assert caught.value.code == "server-failed"
    assert "/no/such/server; rm -rf ~" in caught.value.message


def die(rig: Rig) -> None:
    """Let the ready server end with exit code 9, and wait until it is gone."""
    found = rig.deployments.get("one")
    assert found.state == "ready"
    with pytest.raises((OSError, http.client.HTTPException)):
        urllib.request.urlopen(f"{found.url}/die", timeout=10)
    wait_for(lambda: not alive(found.pid or 0), "the server to die")


def ready_again(rig: Rig, restarts: int) -> Deployment:
    def is_ready() -> Deployment | None:
        found = rig.deployments.get("one")
        return found if (found.state, found.restarts) == ("ready", restarts) else None

    again = wait_for(is_ready, f"restart {restarts}")
    assert isinstance(again, Deployment)
    return again


def test_a_server_that_dies_after_it_was_ready_is_started_again(rig: Rig) -> None:
    first = rig.deployments.launch(rig.spec())
    die(rig)
    assert ready_again(rig, 1).pid != first.pid
    assert rig.status().exit_code == 9
    assert "restart in 0.02 s" in "\n".join(rig.deployments.logs("one", 100))


def test_a_crash_loop_ends_as_failed(rig: Rig) -> None:
    rig.deployments.launch(rig.spec(max_restarts=2))
    die(rig)
    ready_again(rig, 1)
    die(rig)
    ready_again(rig, 2)
    die(rig)
    wait_for(lambda: rig.state() == "failed", "the end of the crash loop")
    found = rig.deployments.get("one")
    assert found.restarts == 2
    assert "restarted 2 times" in str(found.reason)
    wait_for(lambda: rig.processes() == [], "the supervisor to leave")


def test_a_server_that_cannot_start_again_does_not_loop_for_ever(rig: Rig, tmp_path: Path) -> None:
    script = tmp_path / "server"
    spec = rig.spec(max_restarts=3, backoff_s=0.01)
    script.write_text("#!/bin/sh\nexec " + " ".join(f"'{word}'" for word in spec.argv) + "\n")
    script.chmod(0o700)
    rig.deployments.launch(msgspec.structs.replace(spec, argv=(str(script),)))
    script.write_text("#!/bin/sh\nexit 4\n")
    die(rig)
    wait_for(lambda: rig.state() == "failed", "the end of the crash loop")
    assert (rig.status().restarts, rig.status().exit_code) == (3, 4)


def test_restarts_outside_the_window_do_not_count(rig: Rig) -> None:
    rig.deployments.launch(rig.spec(max_restarts=1, restart_window_s=0.01))
    for n in (1, 2):
        die(rig)
        ready_again(rig, n)
        time.sleep(0.02)


@pytest.mark.parametrize("reply", ["500", "garbage", "empty", "truncated", "drip", "repeat"])
def test_a_ready_server_with_unusable_answers_fails_the_smoke_test(rig: Rig, reply: str) -> None:
    found = rig.deployments.launch(rig.spec("--reply", reply))
    with pytest.raises(AdvisorError) as caught:
        client.smoke(found.openai_base_url, found.model, timeout_s=0.5)
    assert caught.value.code == "smoke-failed"
    assert "\x1b" not in caught.value.message


def test_a_redirecting_health_reply_is_not_ready(rig: Rig) -> None:
    with pytest.raises(AdvisorError, match="not ready within"):
        rig.deployments.launch(rig.spec("--reply", "redirect", ready_timeout_s=0.4))


def test_a_server_that_ignores_term_is_killed(rig: Rig) -> None:
    found = rig.deployments.launch(rig.spec("--hang-on-term", stop_grace_s=0.2))
    assert found.pid is not None
    stopped = rig.deployments.stop("one")
    assert stopped.state == "stopped"
    assert not alive(found.pid)
    assert rig.status().exit_signal == signal.SIGKILL
    assert not rig.status().likely_oom
    assert "killed" in "\n".join(rig.deployments.logs("one"))


@pytest.mark.parametrize("orphaned", [False, True])
def test_grandchildren_end_with_the_server(rig: Rig, tmp_path: Path, orphaned: bool) -> None:
    pids = tmp_path / "pids"
    found = rig.deployments.launch(rig.spec("--grandchildren", str(pids), stop_grace_s=0.3))
    helpers = [int(p) for p in pids.read_text().split()]
    assert all(alive(p) for p in helpers)
    assert set(helpers) | {found.pid} == set(rig.deployments.pids("one"))
    if orphaned:
        os.kill(rig.status().shim_pid, signal.SIGKILL)
    assert rig.deployments.stop("one").state == "stopped"
    assert not any(alive(p) for p in [*helpers, found.pid or 0])


def test_grandchildren_of_a_crashed_server_do_not_outlive_it(rig: Rig, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    rig.deployments.launch(rig.spec("--grandchildren", str(pids), max_restarts=0, stop_grace_s=0.1))
    helpers = [int(p) for p in pids.read_text().split()]
    die(rig)
    wait_for(lambda: rig.state() == "failed", "the crash")
    assert not any(alive(p) for p in helpers)


def test_a_flood_of_output_neither_blocks_the_server_nor_fills_the_disk(rig: Rig) -> None:
    limit = 200_000
    found = rig.deployments.launch(rig.spec("--flood", "6000000", log_max_bytes=limit, log_keep=2))
    assert found.state == "ready"
    files = sorted(p.name for p in rig.folder().glob("server.log*"))
    assert files == ["server.log", "server.log.1", "server.log.2"]
    assert all(p.stat().st_size <= limit for p in rig.folder().glob("server.log*"))


def test_closed_output_is_not_the_end(rig: Rig) -> None:
    rig.deployments.launch(rig.spec("--close-output"))
    assert rig.state() == "ready"
    assert rig.deployments.stop("one").state == "stopped"


def log_keeper(rig: Rig) -> int:
    """The process that moves the server's output into the log."""
    uuid = rig.status().uuid
    (pid,) = [p.pid for p in marked(SHIM_MARK, uuid) if p.pid != rig.status().shim_pid]
    return pid


def flood(url: str) -> None:
    with urllib.request.urlopen(f"{url}/flood", timeout=10) as reply:
        assert reply.status == 200


def test_a_log_that_cannot_be_written_does_not_stop_the_server(rig: Rig) -> None:
    found = rig.deployments.launch(rig.spec("--flood-on-get", "300000"))
    keeper = log_keeper(rig)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit_files(keeper, (8192, before[1]))  # as on a full disk: no file can grow further
    for _ in range(3):
        flood(found.url)
    assert rig.state() == "ready"
    assert (rig.folder() / "server.log").stat().st_size <= 8192
    limit_files(keeper, before)
    flood(found.url)
    wait_for(lambda: "bytes could not be written here" in "\n".join(rig.deployments.logs("one", 9000)), "the remark")


def test_a_killed_log_keeper_is_replaced(rig: Rig) -> None:
    found = rig.deployments.launch(rig.spec("--flood-on-get", "300000"))
    keeper = log_keeper(rig)
    os.kill(keeper, signal.SIGKILL)
    wait_for(lambda: not alive(keeper), "the keeper to die")
    flood(found.url)
    assert log_keeper(rig) != keeper
    assert rig.state() == "ready"


def test_the_output_of_an_orphaned_server_is_still_read(rig: Rig) -> None:
    found = rig.deployments.launch(rig.spec("--flood-on-get", "300000"))
    os.kill(rig.status().shim_pid, signal.SIGKILL)
    wait_for(lambda: not alive(rig.status().shim_pid), "the supervisor to die")
    for _ in range(3):
        flood(found.url)
    assert rig.state() == "ready"
    rig.deployments.stop("one")
    wait_for(lambda: rig.processes() == [], "the log keeper to end with the last writer")


def test_processes_that_cannot_be_killed_are_reported_with_their_pids(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.deployments.launch(rig.spec(stop_grace_s=0.1))
    monkeypatch.setattr("advisor.deploy.stopping._KILL_WAIT_S", 0.1)
    monkeypatch.setattr("advisor.deploy.stopping.members", lambda *_: [424242])
    with pytest.raises(AdvisorError) as caught:
        rig.deployments.stop("one")
    assert caught.value.code == "server-failed"
    assert caught.value.data["pids"] == [424242]
    assert "424242" in caught.value.message


def test_the_server_inherits_neither_secrets_nor_descriptors_nor_ignored_signals(rig: Rig, tmp_path: Path) -> None:
    report = tmp_path / "report"
    script = (
        "import os,signal,sys,json;"
        "json.dump({'env': dict(os.environ), 'fds': os.listdir('/dev/fd'), 'ppid': os.getppid(),"
        "'ignored': [s for s in (1, 2, 3, 15) if signal.getsignal(s) == signal.SIG_IGN]}, open(sys.argv[1], 'w'))"
    )
    with pytest.raises(AdvisorError, match="exit code 0"):
        rig.deployments.launch(rig.spec(argv=(sys.executable, "-I", "-S", "-c", script, str(report))))
    seen = json.loads(report.read_text())
    assert set(seen["env"]) - {"LC_CTYPE"} == {"PATH", "ADVISOR_DEPLOYMENT", "SPT_NOENV"}
    assert len(seen["fds"]) <= 4
    assert seen["ignored"] == []
