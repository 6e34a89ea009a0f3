"""The store of measured speeds: whole or not at all, bounded, and damage is set aside."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advisor.execute import measurements
from advisor.facts.bench import ThreadChoice
from advisor.facts.recovery import MemoryLesson
from advisor.settings import Settings, load
from tests.support.bench_samples import measured, measurement
from tests.support.samples import sample_machine

MACHINE = sample_machine()


@pytest.fixture
def own() -> Settings:
    return load()


def test_nothing_is_known_at_first(own: Settings) -> None:
    found = measurements.load(own, MACHINE)
    assert (found.kept.speeds, found.warnings) == ((), ())
    assert not measurements.path_of(own, MACHINE).exists()
    assert measurements.forget(own, MACHINE) is None


def test_what_is_kept_is_found_again_and_forgotten(own: Settings) -> None:
    path = measurements.add(own, MACHINE, [measurement()])
    assert measurements.load(own, MACHINE).kept.speeds == (measurement(),)
    assert measurements.forget(own, MACHINE) == path
    assert measurements.load(own, MACHINE).kept.speeds == ()


def test_a_later_measurement_takes_the_place_unless_it_was_disturbed(own: Settings) -> None:
    first, later = measurement(decode=90.0), measurement(decode=95.0)
    measurements.add(own, MACHINE, [first])
    measurements.add(own, MACHINE, [later])
    assert measurements.load(own, MACHINE).kept.speeds == (later,)
    measurements.add(own, MACHINE, [measurement(decode=20.0, busy=True)])
    assert measurements.load(own, MACHINE).kept.speeds == (later,)
    busy = [measurement(depth=512, decode=d, busy=True) for d in (20.0, 30.0)]
    for one in busy:
        measurements.add(own, MACHINE, [one])
    assert measurements.load(own, MACHINE).kept.speeds == (later, busy[1])


def test_the_oldest_go_when_there_are_many(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "MOST_SPEEDS", 3)
    for depth in range(1, 6):
        measurements.add(own, MACHINE, [measurement(depth=depth)])
    assert [m.depth for m in measurements.load(own, MACHINE).kept.speeds] == [3, 4, 5]


def test_thread_choices_are_kept_beside_speeds(own: Settings) -> None:
    choice = ThreadChoice(threads=1, tried={"1": 2.0}, granted=1.5, because="quota", shape="s", format="q8_0")
    measurements.add(own, MACHINE, [measurement()], [choice])
    measurements.add(own, MACHINE, threads=[msgspec.structs.replace(choice, threads=2)])
    kept = measurements.load(own, MACHINE).kept
    assert [t.threads for t in kept.threads] == [2]
    assert kept.speeds == (measurement(),)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"schema": "advisor/measured-speeds/v2", "machine": "x"}',
        b'{"machine": "0000000000000000"}',
        b"null",
    ],
)
def test_a_damaged_file_is_set_aside_with_a_warning(own: Settings, raw: bytes) -> None:
    path = measurements.path_of(own, MACHINE)
    path.parent.mkdir(parents=True)
    path.write_bytes(raw)
    found = measurements.load(own, MACHINE)
    assert found.kept.speeds == ()
    assert [w.code for w in found.warnings] == ["measurements-damaged"]
    assert path.with_suffix(".damaged").read_bytes() == raw
    assert not path.exists()
    measurements.add(own, MACHINE, [measurement()])
    assert measurements.load(own, MACHINE).warnings == ()


@pytest.mark.parametrize("value", [0.0, -1.0, 1e9])
def test_a_speed_that_no_machine_has_is_refused(own: Settings, value: float) -> None:
    one = msgspec.structs.replace(
        measurement(), decode=msgspec.structs.replace(measured(1.0), value=value, low=value, high=value)
    )
    path = measurements.path_of(own, MACHINE)
    path.parent.mkdir(parents=True)
    key = measurements.machine_key(MACHINE)
    path.write_bytes(
        msgspec.json.encode({"schema": "advisor/measured-speeds/v1", "machine": key, "speeds": [one.to_json()]})
    )
    assert [w.code for w in measurements.load(own, MACHINE).warnings] == ["measurements-damaged"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 4000), st.integers(0, 255))
def test_a_file_with_any_byte_changed_never_breaks_a_prediction(own: Settings, at: int, byte: int) -> None:
    measurements.forget(own, MACHINE)
    path = measurements.add(own, MACHINE, [measurement()])
    raw = bytearray(path.read_bytes())
    raw[at % len(raw)] = byte
    path.write_bytes(bytes(raw))
    found = measurements.load(own, MACHINE)
    assert len(found.kept.speeds) == (0 if found.warnings else 1)


def test_a_file_that_cannot_be_read_is_told_of(own: Settings) -> None:
    measurements.path_of(own, MACHINE).mkdir(parents=True)
    assert [w.code for w in measurements.load(own, MACHINE).warnings] == ["measurements-unreadable"]
    assert measurements.keep(own, MACHINE, [measurement()]) is not None


def test_writers_side_by_side_lose_nothing(own: Settings) -> None:
    def write(depth: int) -> None:
        measurements.add(own, MACHINE, [measurement(depth=depth)])

    writers = [threading.Thread(target=write, args=(n,)) for n in range(1, 9)]
    for w in writers:
        w.start()
    for w in writers:
        w.join()
    assert sorted(m.depth for m in measurements.load(own, MACHINE).kept.speeds) == list(range(1, 9))


def test_a_machine_is_what_it_is_made_of_not_what_it_grants() -> None:
    host = MACHINE.host
    same = [
        msgspec.structs.replace(host, cpu=msgspec.structs.replace(host.cpu, cores_granted=0.5)),
        msgspec.structs.replace(host, memory=msgspec.structs.replace(host.memory, available_bytes=1)),
    ]
    key = measurements.machine_key(MACHINE)
    assert {measurements.machine_key(msgspec.structs.replace(MACHINE, host=h)) for h in same} == {key}
    other = [
        msgspec.structs.replace(host, cpu=msgspec.structs.replace(host.cpu, name="Other")),
        msgspec.structs.replace(host, memory=msgspec.structs.replace(host.memory, total_bytes=99 << 30)),
    ]
    changed = [msgspec.structs.replace(MACHINE, host=h) for h in other] + [msgspec.structs.replace(MACHINE, devices=())]
    assert len({key, *(measurements.machine_key(m) for m in changed)}) == 4


def test_engines_that_were_measured_are_summed_up(own: Settings) -> None:
    path = Path("/x.json")
    speeds = [measurement(), measurement(fmt="f16", origin="stand-in"), measurement(runtime="vllm", engine="e 2")]
    measurements.add(own, MACHINE, speeds)
    found = measurements.engines(measurements.load(own, MACHINE).kept, path)
    assert [(e.runtime, e.engine, e.formats, e.speeds) for e in found] == [
        ("llama.cpp", "wheel 1.2.3", ("q4_k_m",), 2),
        ("vllm", "e 2", ("q4_k_m",), 1),
    ]


def test_lessons_on_memory_are_kept_beside_speeds_and_forgotten_with_them(own: Settings) -> None:
    lesson = MemoryLesson(
        runtime="llama.cpp",
        device="host",
        device_key="host",
        plan="p-0000aa",
        code="oom-kill",
        predicted_bytes=9,
        ratio=2,
    )
    measurements.add(own, MACHINE, [measurement()])
    measurements.add(own, MACHINE, memory=lambda kept: (*kept, lesson))
    measurements.add(own, MACHINE, [measurement(decode=1.0)])
    kept = measurements.load(own, MACHINE).kept
    assert (kept.memory, len(kept.speeds)) == ((lesson,), 1)
    measurements.forget(own, MACHINE)
    assert measurements.load(own, MACHINE).kept.memory == ()


@pytest.mark.parametrize(
    "wrong", [{"ratio": -1.0}, {"ratio": 1e9}, {"ceiling_bytes": -5}, {"predicted_bytes": 1 << 62}]
)
def test_a_lesson_that_no_server_teaches_is_damage(own: Settings, wrong: dict[str, float]) -> None:
    values = {"runtime": "llama.cpp", "device": "host", "device_key": "host", "plan": "p-0000aa", "code": "x"}
    lesson = MemoryLesson(**({**values, "predicted_bytes": 9} | wrong))  # type: ignore[arg-type]
    measurements.add(own, MACHINE, memory=lambda kept: (lesson,))
    found = measurements.load(own, MACHINE)
    assert found.kept.memory == ()
    assert [w.code for w in found.warnings] == ["measurements-damaged"]
