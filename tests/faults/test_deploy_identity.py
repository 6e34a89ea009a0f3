"""Process identity: reused pids, reboots, copied folders, dead supervisors, damaged state files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from advisor.deploy import statefile
from advisor.errors import AdvisorError
from tests.unit.deploy.rig import Rig, alive, wait_for


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "state of things")
    yield made
    made.clean_up()


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process of the same user that has nothing to do with advisor."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(300)"]) as child:
        yield child.pid
        child.kill()


def kill_all(rig: Rig) -> None:
    status = rig.status()
    os.kill(status.shim_pid, signal.SIGKILL)
    assert status.pid is not None
    os.kill(status.pid, signal.SIGKILL)
    wait_for(lambda: not alive(status.shim_pid) and not alive(status.pid or 0), "both to die")


def test_a_server_without_its_supervisor_is_seen_and_can_be_stopped(rig: Rig) -> None:
    found = rig.deployments.launch(rig.spec())
    os.kill(rig.status().shim_pid, signal.SIGKILL)
    wait_for(lambda: not alive(rig.status().shim_pid), "the supervisor to die")
    orphan = rig.deployments.get("one")
    assert (orphan.state, orphan.pid) == ("ready", found.pid)
    assert "supervisor is gone" in str(orphan.reason)
    stopped = rig.deployments.stop("one")
    assert (stopped.state, stopped.reason) == ("stopped", "stopped as asked")
    assert not alive(found.pid or 0)


def test_an_orphan_that_ignores_term_is_killed_by_identity(rig: Rig) -> None:
    found = rig.deployments.launch(rig.spec("--hang-on-term", stop_grace_s=0.2))
    os.kill(rig.status().shim_pid, signal.SIGKILL)
    rig.deployments.stop("one")
    assert not alive(found.pid or 0)


def test_supervisor_and_server_gone_without_a_record_is_lost(rig: Rig) -> None:
    rig.deployments.launch(rig.spec())
    kill_all(rig)
    lost = rig.deployments.get("one")
    assert (lost.state, lost.pid) == ("lost", None)
    assert "without a record" in str(lost.reason)
    stopped = rig.deployments.stop("one")
    assert (stopped.state, stopped.reason) == ("stopped", "it had ended without a record before it was stopped")
    assert rig.deployments.launch(rig.spec()).state == "ready"


def test_a_reused_pid_is_never_signalled(rig: Rig, stranger: int) -> None:
    rig.deployments.launch(rig.spec())
    kill_all(rig)
    rig.edit_status(pid=stranger, shim_pid=stranger)
    lost = rig.deployments.get("one")
    assert lost.state == "lost"
    assert "another process" in str(lost.reason)
    rig.deployments.stop("one")
    assert alive(stranger)


def test_the_right_start_time_without_the_mark_is_a_stranger_too(rig: Rig, stranger: int) -> None:
    from advisor.deploy.process_table import process

    rig.deployments.launch(rig.spec())
    kill_all(rig)
    seen = process(stranger)
    assert seen is not None
    rig.edit_status(pid=stranger, shim_pid=stranger, pid_start=seen.start, shim_start=seen.start)
    assert rig.state() == "lost"
    rig.deployments.stop("one")
    assert alive(stranger)


def test_another_boot_or_machine_is_lost_and_nothing_is_signalled(rig: Rig) -> None:
    found = rig.deployments.launch(rig.spec())
    rig.edit_status(boot_id="00000000-0000-0000-0000-000000000000")
    lost = rig.deployments.get("one")
    assert lost.state == "lost"
    assert "another machine" in str(lost.reason)
    assert rig.deployments.stop("one").state == "lost", "it may run there"
    assert alive(found.pid or 0)


def test_a_stopping_deployment_of_a_past_boot_stays_what_it_was(rig: Rig) -> None:
    rig.deployments.launch(rig.spec())
    rig.deployments.stop("one")
    rig.edit_status(boot_id="00000000-0000-0000-0000-000000000000")
    assert rig.state() == "stopped"


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def no_json(path: Path) -> None:
    path.write_bytes(b"\xff\x00 not json")


def other_shape(path: Path) -> None:
    path.write_bytes(b'{"pid": 1}')


def other_key(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'":', b'_of_old":', 1))


def deep(path: Path) -> None:
    path.write_bytes(b"[" * 100_000)


def huge(path: Path) -> None:
    path.write_bytes(b" " * (statefile.MAX_BYTES + 1))


def world_writable(path: Path) -> None:
    path.chmod(0o666)


def symlink(path: Path) -> None:
    moved = path.with_name("elsewhere.json")
    path.rename(moved)
    path.symlink_to(moved)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


DAMAGES = [
    empty,
    truncated,
    no_json,
    other_shape,
    other_key,
    deep,
    huge,
    world_writable,
    symlink,
    fifo,
    folder,
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One running deployment, whose files are damaged and put back again and again."""
    made = Rig(tmp_path_factory.mktemp("damaged"))
    made.deployments.launch(made.spec())
    yield made
    made.clean_up()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["status.json", "run.json"])
def test_a_damaged_state_file_is_never_acted_on(served: Rig, damage: Callable[[Path], None], file: str) -> None:
    path = served.folder() / file
    good = path.read_bytes()
    pids = served.processes()
    damage(path)
    try:
        seen = served.deployments.get("one")
        assert seen.state == "lost"
        assert "cannot be trusted" in str(seen.reason)
        assert [d.name for d in served.deployments.list()] == ["one"]
        for act in (lambda: served.deployments.stop("one"), lambda: served.deployments.launch(served.spec())):
            with pytest.raises(AdvisorError) as caught:
                act()
            assert caught.value.code == "state-unreadable"
    finally:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
        path.write_bytes(good)
        path.chmod(0o600)
    assert served.state() == "ready"
    assert served.processes() == pids


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_specification_is_a_warning_in_the_list(served: Rig, damage: Callable[[Path], None]) -> None:
    path = served.folder() / "spec.json"
    good = path.read_bytes()
    damage(path)
    try:
        survey = served.deployments.survey()
        assert survey.deployments == ()
        assert [w.code for w in survey.warnings] == ["state-unreadable"]
        with pytest.raises(AdvisorError) as caught:
            served.deployments.stop("one")
        assert caught.value.code == "state-unreadable"
    finally:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
        path.write_bytes(good)
        path.chmod(0o600)
    assert served.state() == "ready"


def test_files_of_another_user_are_never_acted_on(served: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    me = os.geteuid()
    monkeypatch.setattr("advisor.deploy.statefile.os.geteuid", lambda: me + 1)
    with pytest.raises(AdvisorError) as caught:
        served.deployments.stop("one")
    assert caught.value.code == "state-unreadable"
    assert f"user id {me}" in caught.value.message
    monkeypatch.undo()
    assert served.state() == "ready"


def test_a_linked_or_open_folder_is_never_acted_on(served: Rig) -> None:
    here = served.folder()
    moved = here.with_name("moved")
    here.rename(moved)
    here.symlink_to(moved, target_is_directory=True)
    try:
        with pytest.raises(AdvisorError, match="link") as caught:
            served.deployments.stop("one")
        assert caught.value.code == "state-unreadable"
    finally:
        here.unlink()
        moved.rename(here)
    here.chmod(0o777)
    try:
        with pytest.raises(AdvisorError, match="written by others"):
            served.deployments.stop("one")
    finally:
        here.chmod(0o700)
    assert served.state() == "ready"
