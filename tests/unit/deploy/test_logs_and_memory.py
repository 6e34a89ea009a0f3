from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.deploy import logs, memory
from advisor.deploy.log_pipe import RotatingLog
from advisor.deploy.shim import describe_exit
from advisor.events import Cancel
from advisor.facts.quantity import exact


@given(chunks=st.lists(st.binary(min_size=1, max_size=300), max_size=30), keep=st.integers(0, 3))
def test_a_rotating_log_keeps_the_newest_bytes_in_bounded_files(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], keep: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = RotatingLog(folder / "server.log", 256, keep)
    for chunk in chunks:
        log.write(chunk)
    files = [folder / f"server.log.{i}" for i in range(keep, 0, -1)] + [folder / "server.log"]
    kept = b"".join(p.read_bytes() for p in files if p.exists())
    everything = b"".join(chunks)
    assert everything.endswith(kept)
    assert len(kept) >= min(len(everything), 256 * keep + 1)
    assert all(p.stat().st_size <= 256 for p in folder.iterdir())
    assert len(list(folder.iterdir())) <= keep + 1


def test_a_log_behind_a_link_is_not_written(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "server.log").symlink_to(victim)
    log = RotatingLog(tmp_path / "server.log", 4096, 1)
    log.write(b"x" * 100)
    assert victim.read_text() == "mine"
    assert log.dropped == 100


def test_the_tail_goes_back_into_turned_files(tmp_path: Path) -> None:
    (tmp_path / "server.log.2").write_text("1\n2\n")
    (tmp_path / "server.log.1").write_text("3\n4\n")
    (tmp_path / "server.log").write_bytes(b"5\n\x1b[31m6\x1b]0;title\x07\n7 \xff\xfe\n")
    assert logs.tail(tmp_path, 0) == ()
    assert logs.tail(tmp_path, 2)[0] == "6"
    assert logs.tail(tmp_path, 5)[:3] == ("3", "4", "5")
    assert len(logs.tail(tmp_path, 100)) == 7
    assert len(logs.tail(tmp_path, 100, this_run=True)) == 3
    assert logs.tail(tmp_path / "nowhere", 5) == ()


def test_a_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text("".join(f"line {i}\n" for i in range(300_000)))
    assert logs.tail(tmp_path, 3) == ("line 299997", "line 299998", "line 299999")


def test_following_crosses_a_turn_and_ends_with_the_deployment(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "server.log", 4096, 2)
    log.write(b"old\n")
    steps: list[Callable[[], object]] = [
        lambda: log.write(b"one\ntw"),
        lambda: log.write(b"o\n"),
        lambda: log.write(b"three\n"),
        log.shift,
        lambda: log.write(b"four\nlast without end"),
    ]

    def going_on() -> bool:
        if not steps:
            return False
        steps.pop(0)()
        return True

    assert list(logs.follow(tmp_path, Cancel(), going_on, poll_s=0.001)) == [
        "one",
        "two",
        "three",
        "four",
        "last without end",
    ]


def test_following_begins_with_the_last_lines_each_once(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "server.log", 4096, 2)
    log.write(b"zero\none\ntwo\nhalf")
    steps: list[Callable[[], object]] = [lambda: log.write(b" a line\nmore\n")]

    def going_on() -> bool:
        return bool(steps) and steps.pop(0)() is None

    lines = logs.follow(tmp_path, Cancel(), going_on, poll_s=0.001, lines=2)
    assert list(lines) == ["one", "two", "half a line", "more"]
    log.shift()
    log.write(b"new\n")
    assert list(logs.follow(tmp_path, Cancel(), lambda: False, poll_s=0.001, lines=3)) == ["half a line", "more", "new"]
    assert list(logs.follow(tmp_path / "nowhere", Cancel(), lambda: False, poll_s=0.001, lines=3)) == []


def test_following_can_be_cancelled(tmp_path: Path) -> None:
    cancel = Cancel()
    threading.Timer(0.05, cancel.set).start()
    assert list(logs.follow(tmp_path, cancel, lambda: True, poll_s=0.01)) == []


@pytest.mark.parametrize(
    ("code", "number", "words"),
    [
        (1, None, "exit code 1"),
        (137, None, "memory"),
        (None, 9, "SIGKILL, most likely because memory ran out"),
        (None, 11, "SIGSEGV"),
        (None, 63, "signal 63"),
    ],
)
def test_ends_in_words(code: int | None, number: int | None, words: str) -> None:
    assert words in describe_exit(code, number)


def test_a_kill_that_the_kernel_did_not_count_is_not_laid_to_memory() -> None:
    for end in ((137, None), (None, 9)):
        words = describe_exit(*end, uncounted=True)
        assert words.rstrip(")").endswith("though the kernel counted no kill for memory")
    assert describe_exit(1, None, uncounted=True) == describe_exit(1, None)


def fake_proc(root: Path, pid: int, *, pss: int | None, rss: int | None, hwm: int | None) -> None:
    folder = root / str(pid)
    folder.mkdir()
    lines = "Name:\tserver\n" + (f"VmRSS:\t{rss} kB\n" if rss else "") + (f"VmHWM:\t{hwm} kB\n" if hwm else "")
    (folder / "status").write_text(lines)
    if pss is not None:
        (folder / "smaps_rollup").write_text(
            f"00400000-7fff ---p 00000000 00:00 0 [rollup]\nRss: 9 kB\nPss: {pss} kB\n"
        )


def test_shared_pages_count_once_where_all_processes_tell(tmp_path: Path) -> None:
    fake_proc(tmp_path, 1, pss=100, rss=150, hwm=200)
    fake_proc(tmp_path, 2, pss=50, rss=150, hwm=300)
    seen = memory.resident([1, 2, 99], proc=tmp_path)
    assert seen == exact(150 * 1024, "bytes", memory.PSS_SOURCE, "measured")
    assert memory.peak([1, 2], proc=tmp_path) == exact(500 * 1024, "bytes", memory.PEAK_SOURCE, "measured")


def test_one_process_that_hides_its_share_falls_back_to_resident(tmp_path: Path) -> None:
    fake_proc(tmp_path, 1, pss=100, rss=150, hwm=200)
    fake_proc(tmp_path, 2, pss=None, rss=70, hwm=300)
    seen = memory.resident([1, 2], proc=tmp_path)
    assert seen == exact(220 * 1024, "bytes", memory.RSS_SOURCE, "measured")


def test_a_dead_process_takes_no_memory_and_no_process_is_unknown(tmp_path: Path) -> None:
    fake_proc(tmp_path, 1, pss=100, rss=150, hwm=200)
    fake_proc(tmp_path, 2, pss=None, rss=None, hwm=None)
    seen = memory.resident([1, 2], proc=tmp_path)
    assert seen is not None
    assert seen.value == 100 * 1024
    assert memory.resident([], proc=tmp_path) is None
    assert memory.resident([99], proc=tmp_path) is None
    assert memory.peak([99], proc=tmp_path) is None


def test_this_process_has_memory() -> None:
    now, most = memory.resident([os.getpid()]), memory.peak([os.getpid()])
    assert now is not None
    assert most is not None
    assert 1_000_000 < now.value <= most.value


def test_systems_without_proc_are_asked_by_ps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LINUX", False)
    monkeypatch.setattr("advisor.deploy.spawn.output", lambda *argv: " 100\n 20\n" if argv[-1] == "1,2" else "")
    assert memory.resident([1, 2]) == exact(120 * 1024, "bytes", memory.PS_SOURCE, "measured")
    assert memory.resident([3]) is None
    assert memory.peak([1]) is None


def test_the_sampler_keeps_the_largest() -> None:
    values = iter([5, 9, None, 7])

    def sample() -> object:
        value = next(values, 1)
        return None if value is None else exact(value, "bytes", "s", "measured")

    done = threading.Event()

    def counted() -> object:
        seen = sample()
        if seen is not None and seen.value == 1:  # type: ignore[attr-defined]
            done.set()
        return seen

    with memory.Sampler(counted, 0.001) as sampler:  # type: ignore[arg-type]
        assert done.wait(20)
    assert sampler.peak is not None
    assert sampler.peak.value == 9
    assert "largest of" in sampler.peak.source
