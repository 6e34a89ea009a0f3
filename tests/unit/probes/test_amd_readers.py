"""Whatever stands in the files of AMD's drivers and in the device selection, it is read or left out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.facts.machine import Machine
from advisor.probes.detect import detect
from advisor.probes.sanity import Notes
from advisor.probes.vendors.amd_kfd import gfx_name, overridden, properties, read_nodes
from advisor.probes.vendors.amd_select import select
from tests.unit.probes.amd_fakes import NODES, pair
from tests.unit.probes.fake import FakeSource


@pytest.mark.parametrize(
    ("version", "name"),
    [
        (110501, "gfx1151"),
        (110000, "gfx1100"),
        (90010, "gfx90a"),
        (90402, "gfx942"),
        (90006, "gfx906"),
        (80003, "gfx803"),
        (120001, "gfx1201"),
        (0, None),
        (99999999, None),
        (111600, None),
    ],
)
def test_names_of_architectures(version: int, name: str | None) -> None:
    assert gfx_name(version) == name


@pytest.mark.parametrize(
    ("value", "name"),
    [("10.3.0", "gfx1030"), ("11.0.0 ", "gfx1100"), ("9.0.10", "gfx90a"), ("gfx1030", None), ("", None)],
)
def test_overridden_architectures(value: str, name: str | None) -> None:
    assert overridden(value) == name


@settings(deadline=None)
@given(st.text(max_size=400))
def test_any_text_has_properties(text: str) -> None:
    for name, value in properties(text).items():
        assert name.isascii()
        assert 0 <= value < 10**20


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                *("vendor_id", "simd_count", "simd_per_cu", "gfx_target_version", "location_id", "domain"),
                *("drm_render_minor", "mem_banks_count", "heap_type"),
            ]
        ),
        st.integers(0, 1 << 64) | st.sampled_from([4098, 0, 1]),
    )
)
def test_any_numbers_make_a_node_or_none(known: dict[str, int]) -> None:
    source = FakeSource(
        {f"{NODES}/1/properties": "".join(f"{k} {v}\n" for k, v in known.items())}, names={NODES: ("0", "1", "x")}
    )
    for found in read_nodes(source):
        assert len(found.address) >= 12
        assert found.compute_units is None or 0 < found.compute_units <= 1 << 16
    check(detect(source).machine)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"]),
        st.lists(st.sampled_from(["0", "1", "2", "-1", "GPU-8f", "", "x", "٣", "9" * 30]) | st.text(max_size=6)).map(
            ",".join
        ),
    ),
    st.booleans(),
)
def test_any_selection_shows_a_part(environment: dict[str, str], cuda: bool) -> None:
    found = select(("8f1e", "0a1b", ""), environment, Notes(), cuda=cuda)
    assert sorted({*found.order, *found.hidden}) == [0, 1, 2]
    assert not set(found.order) & set(found.hidden)
    assert len(set(found.order)) == len(found.order)


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_any_text_in_any_file(data: st.DataObject) -> None:
    source = pair()
    path = data.draw(st.sampled_from(sorted(source.files)))
    source.files[path] = data.draw(st.text(max_size=60) | st.sampled_from(["", "0", "-1", "9" * 25, "0x", "\x1b[2J"]))
    check(detect(source).machine)


def check(machine: Machine) -> None:
    for device in machine.devices:
        assert device.memory.total_bytes is None or 1 << 20 <= device.memory.total_bytes <= 1 << 50
        assert device.unusable is not None or device.memory.total_bytes is not None
        assert "\x1b" not in device.name
