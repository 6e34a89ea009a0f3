"""Measuring and keeping the bandwidth of host memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.probes import bandwidth
from advisor.probes.bandwidth import Bandwidth, ThreadFigure, cached, measure
from tests.unit.probes.fake import FakeSource

BOOT = "/proc/sys/kernel/random/boot_id"
SMALL = 8 << 20


def source(boot: str = "boot-1", cores: int = 2, memory: str = "MemTotal: 8388608 kB\n") -> FakeSource:
    return FakeSource({BOOT: boot, "/proc/meminfo": memory}, affinity=tuple(range(cores)))


def measured(folder: Path | None, **changes: object) -> Bandwidth:
    return measure(cache_dir=folder, source=source(**changes), working_set_bytes=SMALL, repeats=3)  # type: ignore[arg-type]


def test_what_is_measured_is_between_the_slowest_and_the_fastest_repeat(tmp_path: Path) -> None:
    result = measured(tmp_path)
    rate = result.quantity
    assert rate.low <= rate.value == rate.high
    assert (rate.unit, rate.method) == ("bytes/s", "measured")
    assert [f.threads for f in result.figures] == [1, 2]
    assert result.working_set_bytes == SMALL
    best = next(f for f in result.figures if f.threads == result.threads)
    assert int(best.best) == rate.value
    assert result.stable == (best.median / best.best >= 0.75)


@pytest.mark.parametrize(("cores", "threads"), [(1, [1]), (2, [1, 2]), (3, [1, 3]), (8, [1, 2, 4, 8])])
def test_thread_counts(monkeypatch: pytest.MonkeyPatch, cores: int, threads: list[int]) -> None:
    monkeypatch.setattr(bandwidth, "_rates", lambda size, n, repeats: [1e9 * n] * repeats)
    assert [f.threads for f in measured(None, cores=cores).figures] == threads


def test_an_uneven_measurement_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "_rates", lambda size, n, repeats: [1e10, 2e9, 3e9])
    result = measured(None)
    assert not result.stable
    assert (result.quantity.low, result.quantity.value) == (2e9, 1e10)
    assert result.figures[0] == ThreadFigure(threads=1, best=1e10, median=3e9)


def test_an_absurd_rate_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "_rates", lambda size, n, repeats: [1e20])
    with pytest.raises(AdvisorError, match="cannot be right"):
        measured(None)


def test_a_result_is_kept_for_this_boot_and_these_cores(tmp_path: Path) -> None:
    result = measured(tmp_path / "cache")
    folder = tmp_path / "cache"
    assert cached(folder, source()) == result
    assert cached(folder, source(boot="boot-2")) is None
    assert cached(folder, source(cores=1)) is None
    assert cached(tmp_path, source()) is None
    assert [p.name for p in folder.iterdir()] == [bandwidth.CACHE_FILE]


def test_without_a_boot_id_nothing_is_taken_from_the_cache(tmp_path: Path) -> None:
    measured(tmp_path, boot="")
    assert cached(tmp_path, source(boot="")) is None


@pytest.mark.parametrize("text", ["", "{}", "[" * 100000, "null"])
def test_a_damaged_cache_is_no_cache(tmp_path: Path, text: str) -> None:
    (tmp_path / bandwidth.CACHE_FILE).write_text(text)
    assert cached(tmp_path, source()) is None


def test_an_absurd_cache_is_no_cache(tmp_path: Path) -> None:
    measured(tmp_path)
    path = tmp_path / bandwidth.CACHE_FILE
    document = json.loads(path.read_text())
    document["quantity"]["value"] = -1
    path.write_text(json.dumps(document))
    assert cached(tmp_path, source()) is None


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert measured(tmp_path / "file").quantity.value > 0


def test_little_memory_is_not_measured() -> None:
    with pytest.raises(AdvisorError) as caught:
        measure(source=source(memory="MemTotal: 262144 kB\n"))
    assert caught.value.code == "not-enough-memory"


def test_at_most_an_eighth_of_the_free_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "_rates", lambda size, n, repeats: [1e9])
    tight = source(memory="MemTotal: 8388608 kB\nMemAvailable: 1048576 kB\n")
    assert measure(source=tight).working_set_bytes == 128 << 20


def test_it_can_be_stopped() -> None:
    cancel = Cancel()
    cancel.set()
    with pytest.raises(AdvisorError) as caught:
        measure(source=source(), working_set_bytes=SMALL, cancel=cancel)
    assert caught.value.code == "interrupted"


def test_a_failing_thread_is_told_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> object:
        def memchr(*args: int) -> None:
            raise OSError("broken")

        return memchr

    monkeypatch.setattr(bandwidth, "_memchr", broken)
    with pytest.raises(OSError, match="broken"):
        measured(None)
