from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from advisor.deploy import keys, statefile
from advisor.deploy.spec import RunFile
from advisor.deploy.statefile import Lock, Untrusted
from advisor.errors import AdvisorError
from advisor.events import Cancel
from tests.support.faults import fail_nth

RUN = RunFile(uuid="u", launched_at="2026-01-01T00:00:00Z")


def test_what_was_written_is_read_back_and_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = tmp_path / "a b ü.json"
        statefile.write(path, RUN.dumps())
    finally:
        os.umask(before)
    assert statefile.read(path, RunFile) == RUN
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("call", ["os.fsync", "os.fchmod"])
@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "disk-full"), (errno.EROFS, "not-writable")])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, call: str, number: int, code: str) -> None:
    path = tmp_path / "run.json"
    statefile.write(path, RUN.dumps())
    with fail_nth(call, 1, number), pytest.raises(AdvisorError) as caught:
        statefile.write(path, b"{}")
    assert caught.value.code == code
    assert str(path) in caught.value.message
    assert statefile.read(path, RunFile) == RUN
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_link_is_neither_read_nor_written_through(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(RUN.dumps())
    link = tmp_path / "run.json"
    link.symlink_to(secret)
    with pytest.raises(Untrusted, match="symbolic link"):
        statefile.read(link, RunFile)
    statefile.write(link, b"{}")
    assert secret.read_bytes() == RUN.dumps()


def test_a_lock_is_for_one_at_a_time(tmp_path: Path) -> None:
    one, two = Lock(tmp_path / "locks" / "a"), Lock(tmp_path / "locks" / "a")
    assert two.is_free
    assert one.try_acquire()
    assert not two.try_acquire()
    assert not two.is_free
    with pytest.raises(AdvisorError) as caught, two.held(0.1, Cancel(), "somebody is at it"):
        pass
    assert (caught.value.code, caught.value.message) == ("busy", "somebody is at it")
    threading.Timer(0.1, one.release).start()
    with two.held(20, Cancel(), "never"):
        assert not one.is_free
    assert one.is_free


def test_waiting_for_a_lock_can_be_cancelled(tmp_path: Path) -> None:
    one, two, cancel = Lock(tmp_path / "a"), Lock(tmp_path / "a"), Cancel()
    assert one.try_acquire()
    threading.Timer(0.05, cancel.set).start()
    with pytest.raises(AdvisorError) as caught, two.held(60, cancel, "never"):
        pass
    assert caught.value.code == "interrupted"
    one.release()


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "a"
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        Lock(path).try_acquire()
        os.write(writer, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    assert not Lock(path).is_free
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert Lock(path).is_free
    os.close(reader)
    os.close(writer)


def test_a_folder_below_a_file_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AdvisorError) as caught:
        statefile.make_folder(tmp_path / "file" / "sub")
    assert caught.value.code == "not-writable"
    assert "file/sub" in caught.value.message


def test_keys_are_random_and_kept(tmp_path: Path) -> None:
    first, second = keys.make(tmp_path / "a"), keys.make(tmp_path / "b")
    assert keys.read(first) != keys.read(second)
    kept = keys.read(first)
    assert keys.read(keys.make(first)) == kept
    (tmp_path / "c").touch(mode=0o600)
    assert keys.read(keys.make(tmp_path / "c"))


def test_a_key_behind_a_link_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(keys.make(tmp_path / "a"))
    with pytest.raises(AdvisorError) as caught:
        keys.make(link)
    assert caught.value.code == "state-unreadable"
