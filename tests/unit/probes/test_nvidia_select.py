"""Which devices a CUDA program sees: numbers, UUIDs, slices, and orders that cannot be known."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.probes.sanity import Notes
from advisor.probes.vendors.nvidia_select import HIDDEN, ONE_SLICE, Entry, select


def entry(number: int, name: str = "NVIDIA GeForce RTX 3090", reason: str | None = None) -> Entry:
    uuid = f"GPU-{number:08d}-aaaa"
    return Entry(number, {"name": name, "uuid": uuid}, uuid, None, reason)


def split(number: int, parts: int) -> list[Entry]:
    whole: dict[str, Any] = {"name": "NVIDIA A100-SXM4-40GB", "uuid": f"GPU-{number:08d}-bbbb"}
    return [Entry(number, {"name": "part"}, f"MIG-{number}{n}-cccc", whole, None) for n in range(parts)]


def look(entries: list[Entry], visible: str | None, **environment: str) -> tuple[list[str], list[str], list[str]]:
    """UUIDs of what is shown, reasons of the rest, notes."""
    notes = Notes()
    chosen = select(entries, ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) | environment, notes)
    assert len(chosen) == len(entries)
    assert sorted(e.uuid for e in chosen) == sorted(e.uuid for e in entries)
    shown = [e.uuid for e in chosen if e.reason is None]
    assert [e.reason is None for e in chosen] == [True] * len(shown) + [False] * (len(chosen) - len(shown))
    return shown, [str(e.reason) for e in chosen if e.reason], [str(n.note) for n in notes.entries]


@pytest.mark.parametrize(
    ("visible", "shown"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        ("0,2,-1,1", [0, 2]),
        ("1,7,0", [1]),
        ("1,1,0", [1]),
        ("GPU-00000002", [2]),
        ("GPU-0000000", []),
        ("gpu-00000001-AAAA", [1]),
        ("GPU-00000001,0", [1, 0]),
        ("NoDevFiles", []),
        (" 1 , 0 ", [1, 0]),
        ("٢", []),
        ("0x1", []),
        ("99999999999999999999", []),
    ],
)
def test_visible_devices(visible: str | None, shown: list[int]) -> None:
    found, reasons, notes = look([entry(n) for n in range(3)], visible)
    assert found == [f"GPU-{n:08d}-aaaa" for n in shown]
    assert reasons == [HIDDEN] * (3 - len(shown))
    assert not any(n.startswith("ambiguous") for n in notes)


@pytest.mark.parametrize(
    ("visible", "words"),
    [
        ("1,7", "entry 2 names no single device"),
        ("0,0", "entry 2 is there twice"),
        ("GPU-0", "entry 1 names no single"),
    ],
)
def test_what_a_selection_gets_wrong_is_noted(visible: str, words: str) -> None:
    assert any(words in n for n in look([entry(0), entry(1)], visible)[2])


def test_a_number_among_different_devices_is_ambiguous() -> None:
    cards = [entry(0), entry(1, "Tesla T4")]
    shown, _, notes = look(cards, "0")
    assert shown == [cards[0].uuid]
    assert any(n.startswith("ambiguous") and "CUDA_DEVICE_ORDER=PCI_BUS_ID" in n for n in notes)


@pytest.mark.parametrize(
    ("visible", "environment"),
    [("0", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}), ("GPU-00000000", {}), ("1,0", {}), ("", {})],
)
def test_no_ambiguity_where_the_order_is_said_or_makes_no_difference(visible: str, environment: dict[str, str]) -> None:
    notes = look([entry(0), entry(1, "Tesla T4")], visible, **environment)[2]
    assert not any(n.startswith("ambiguous") for n in notes)


def test_a_lost_device_does_not_make_the_others_different() -> None:
    notes = look([entry(0), entry(1, "?", "it is lost")], "0")[2]
    assert not any(n.startswith("ambiguous") for n in notes)


def test_different_devices_without_a_selection_are_noted_only() -> None:
    shown, _, notes = look([entry(0), entry(1, "Tesla T4")], None)
    assert len(shown) == 2
    assert [n.startswith("not set") for n in notes] == [True]


@pytest.mark.parametrize("visible", ["0", "MIG-00", "MIG-00,MIG-01", "MIG-00,GPU-00000001", "GPU-00000000"])
def test_a_process_sees_one_slice_and_nothing_beside_it(visible: str) -> None:
    shown, reasons, _ = look([*split(0, 2), entry(1)], visible)
    assert shown == ["MIG-00-cccc"]
    assert (ONE_SLICE in reasons) == ("," in visible)


def test_without_a_selection_all_slices_are_there_and_the_rule_is_noted() -> None:
    shown, _, notes = look([*split(0, 2), entry(1)], None)
    assert len(shown) == 3
    assert any(ONE_SLICE in n for n in notes)


def test_a_slice_by_number_and_by_its_old_name() -> None:
    parts = [p._replace(uuid=f"MIG-GPU-00000000-bbbb/{n}/0") for n, p in enumerate(split(0, 2))]
    assert look(parts, "MIG-GPU-00000000-bbbb/1/0")[0] == ["MIG-GPU-00000000-bbbb/1/0"]
    assert look(parts, "MIG-GPU-00000000-bbbb")[0] == []


def test_slices_without_uuid_are_told_apart() -> None:
    parts = [p._replace(uuid="") for p in split(0, 2)]
    chosen = select(parts, {"CUDA_VISIBLE_DEVICES": "0"}, Notes())
    assert [e.reason for e in chosen] == [None, HIDDEN]


def test_a_device_that_cannot_be_used_keeps_its_own_reason() -> None:
    assert look([entry(0, reason="it is lost")], "0")[1] == ["it is lost"]
    assert look([entry(0, reason="it is lost")], "")[1] == ["it is lost"]


@given(
    st.lists(st.sampled_from([entry(0), entry(1, "T4"), *split(2, 2)]), unique_by=lambda e: e.uuid),
    st.none()
    | st.text(max_size=20)
    | st.lists(st.sampled_from(["0", "1", "2", "-1", "GPU", "MIG-2", ""])).map(",".join),
)
def test_nothing_is_lost_or_doubled(entries: list[Entry], visible: str | None) -> None:
    look(entries, visible)
