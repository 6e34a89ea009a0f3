"""Whether a GGUF file that a tool wrote is what was asked for: whole, with tensors, of the wanted types."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from advisor.cost.gguf_mix import split
from advisor.errors import AdvisorError
from advisor.facts.text import clean
from advisor.model.gguf import GgufHeader, read_header

FLOATS: Final = frozenset(("f32", "f16", "bf16", "f64"))
_STRAY_SHARE: Final = 0.05


def sound(path: Path) -> GgufHeader:
    """The header of a GGUF file that has tensors and is as long as they say.

    Raises:
        AdvisorError: ``artifact-invalid``.
    """
    nonempty(path)
    try:
        header = read_header(path)
    except AdvisorError as e:
        raise AdvisorError(
            "artifact-invalid", f"{path.name} is not a usable GGUF file: {e.message}", context=e.context
        ) from e
    if not header.tensors:
        raise AdvisorError("artifact-invalid", f"{path.name} has no tensors.")
    end = max(t.offset + t.nbytes for t in header.tensors)
    have = header.file_bytes - header.data_offset
    if not end <= have < end + max(header.alignment, 1):
        raise AdvisorError("artifact-invalid", f"{path.name} has {have:,} bytes of tensors; its header says {end:,}.")
    return header


def nonempty(path: Path) -> None:
    """Refuse a file that was not written.

    Raises:
        AdvisorError: ``artifact-invalid``.
    """
    if not path.is_file() or path.stat().st_size == 0:
        raise AdvisorError("artifact-invalid", f"{path.name} was not written, or is empty.")


def check_types(header: GgufHeader, wanted: Mapping[str, str], fmt: str, *, exactly: bool) -> list[str]:
    """Hold the types in a file against the wanted ones; return notes on small differences.

    A quantizer that chooses types itself may differ in a few tensors from one release to the next; one that leaves
    matrices in 16 bits, differs in more than a twentieth of them, or in one whose type ``fmt`` names, did not do what
    was asked.

    Raises:
        AdvisorError: ``artifact-invalid``.
    """
    found = {t.name: t.type for t in header.tensors}
    if set(found) != set(wanted):
        lost = sorted(set(wanted) ^ set(found))
        raise AdvisorError(
            "artifact-invalid", f"The file has other tensors than the model: {clean(', '.join(lost[:5]))}."
        )
    stray = [n for n, t in found.items() if t != wanted[n]]
    own = [pattern for pattern, _ in split(fmt)[1]]
    left = [n for n in stray if any(p.search(n) for p in own) or (found[n] in FLOATS and wanted[n] not in FLOATS)]
    if left or (stray and exactly) or len(stray) > _STRAY_SHARE * len(found):
        name = (left or stray)[0]
        raise AdvisorError(
            "artifact-invalid",
            f"{fmt} was asked for, but {len(stray)} of {len(found)} tensors have other types: "
            f"{clean(name)} is {found[name]}, not {wanted[name]}.",
        )
    return [f"{clean(n)} is {found[n]}; {wanted[n]} was predicted" for n in sorted(stray)]
