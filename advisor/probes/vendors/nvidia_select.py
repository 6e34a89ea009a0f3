"""Which NVIDIA devices a CUDA program would see, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from advisor.probes.sanity import Notes

_WHAT: Final = "devices.nvidia"
_VARIABLE: Final = "CUDA_VISIBLE_DEVICES"
HIDDEN: Final = "hidden by CUDA_VISIBLE_DEVICES"
ONE_SLICE: Final = "CUDA shows a process one MIG slice and no other device beside it"


class Entry(NamedTuple):
    """One device of the driver's reply, or one slice of it.

    ``number``: the driver's number of the whole device, which is its place on the PCI bus. ``parent``: of a slice, the
    reply for the whole device. ``reason``: why it cannot be used.
    """

    number: int
    raw: dict[str, Any]
    uuid: str
    parent: dict[str, Any] | None
    reason: str | None


def select(entries: list[Entry], environment: Mapping[str, str], notes: Notes) -> list[Entry]:
    """Order and hide devices as CUDA does: by index or by the start of a UUID, up to the first that is not there.

    Hidden devices are kept, with the reason. CUDA numbers devices fastest first unless ``CUDA_DEVICE_ORDER`` is
    ``PCI_BUS_ID``; what it takes for fast is not documented. With devices of one kind that makes no difference. With
    different ones the driver's order is taken, and a note begins with "ambiguous" where a number may mean another one.

    Source: CUDA Programming Guide, "CUDA Environment Variables"; MIG User Guide, "CUDA Device Enumeration".
    """
    visible = environment.get(_VARIABLE)
    ordered = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    differ = len({_kind(e) for e in entries if e.reason is None}) > 1
    slices = sum(e.parent is not None for e in entries)
    if visible is None:
        if differ and not ordered:
            notes.add(_WHAT, "CUDA_DEVICE_ORDER", "not set: CUDA may number these different devices in another order")
        if slices and len(entries) > 1:
            notes.add(_WHAT, _VARIABLE, f"not set: {ONE_SLICE}; it takes the first, others are chosen by UUID")
        return entries
    shown: list[int] = []
    numbered = False
    words = visible.split(",")[:256] if visible.strip() else []
    for n, part in enumerate(words, 1):
        word = part.strip()
        numbered = numbered or word.isdecimal()
        found = _named(entries, word)
        if found is None or found in shown:
            what = "names no single device" if found is None else "is there twice"
            notes.add(_WHAT, _VARIABLE, f"entry {n} {what}; it and what follows is left out")
            break
        shown.append(found)
    if numbered and differ and not ordered and len(shown) < len(entries):
        notes.add(
            _WHAT,
            _VARIABLE,
            "ambiguous: numbers are taken in the order of the PCI bus, CUDA may take these different devices fastest"
            " first; set CUDA_DEVICE_ORDER=PCI_BUS_ID or name UUIDs",
        )
    beside: list[int] = []
    first = next((i for i in shown if entries[i].parent is not None and entries[i].reason is None), None)
    if first is not None:
        shown, beside = [first], [i for i in shown if i != first]
    hidden = [i for i in range(len(entries)) if i not in shown and i not in beside]
    return (
        [entries[i] for i in shown]
        + [entries[i]._replace(reason=entries[i].reason or ONE_SLICE) for i in beside]
        + [entries[i]._replace(reason=entries[i].reason or HIDDEN) for i in hidden]
    )


def _named(entries: list[Entry], word: str) -> int | None:
    """Which entry a word of the list means: a number, the start of a UUID; ``None`` where it means none or many.

    A number or the UUID of a split device means its first slice.
    """
    if word.isdecimal() and word.isascii():
        return next((i for i, e in enumerate(entries) if e.number == int(word[:6])), None)
    if not word:
        return None
    matching = [i for i, e in enumerate(entries) if _starts(e.uuid, word)]
    if not matching:
        parents = {e.number for e in entries if e.parent is not None and _starts(e.parent.get("uuid"), word)}
        return next((i for i, e in enumerate(entries) if e.number in parents), None) if len(parents) == 1 else None
    return matching[0] if len(matching) == 1 else None


def _starts(uuid: object, word: str) -> bool:
    return isinstance(uuid, str) and uuid.lower().startswith(word.lower())


def _kind(entry: Entry) -> str:
    return str((entry.parent or entry.raw).get("name"))
