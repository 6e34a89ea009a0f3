"""Whatever stands in the files of the kernel, the probe gives a machine."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.probes.bundle import BundleSource
from advisor.probes.detect import detect
from tests.unit.probes.fake import MACHINES, FakeSource

BUNDLES = ("cgroup-v1-limit-and-quota", "cgroup-v2-limit", "rtx-4090-desktop")


@functools.cache
def inputs(name: str) -> tuple[BundleSource, dict[str, str]]:
    source = BundleSource(MACHINES / name)
    root = MACHINES / name / "files"
    return source, {f"/{p.relative_to(root)}": p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}


def with_files(name: str, files: dict[str, str]) -> FakeSource:
    source, recorded = inputs(name)
    bundle = source.bundle
    return FakeSource(
        recorded | files,
        names={k: v for k, v in bundle.names.items() if v is not None},
        present=bundle.present,
        affinity=bundle.affinity,
        platform=bundle.platform,
        replies=bundle.replies,
    )


@pytest.mark.parametrize("name", BUNDLES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_bytes_in_any_file(name: str, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(inputs(name)[1])))
    text = data.draw(st.binary(max_size=300)).decode("utf-8", "replace")
    check(with_files(name, {path: text}))


@pytest.mark.parametrize("name", BUNDLES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_file_with_a_piece_replaced(name: str, data: st.DataObject) -> None:
    files = inputs(name)[1]
    path = data.draw(st.sampled_from(sorted(files)))
    text = files[path]
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    piece = data.draw(
        st.sampled_from(["", "-1", "0", "9" * 25, "max", ":", " - ", "\n", "\\777", "..", "\x1b[2J", "١٢"])
    )
    check(with_files(name, {path: text[:start] + piece + text[end:]}))


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["/proc/cpuinfo", "/proc/meminfo", "/proc/self/cgroup", "/proc/self/mountinfo"]),
        st.text(max_size=300),
    )
)
def test_random_text_in_several_files(files: dict[str, str]) -> None:
    check(with_files("cgroup-v2-limit", files))


def check(source: FakeSource) -> None:
    machine = detect(source).machine
    assert detect(source).machine == machine
    host = machine.host
    assert host.memory.total_bytes >= 1 << 20
    assert host.memory.limit_bytes is None or 1 << 20 <= host.memory.limit_bytes < host.memory.total_bytes
    assert host.memory.available_bytes is None or 0 <= host.memory.available_bytes <= host.memory.total_bytes
    assert 1 <= host.cpu.cores_logical <= 1 << 16
    assert 0.01 <= host.cpu.cores_granted <= 1 << 16
    assert "\x1b" not in host.cpu.name
