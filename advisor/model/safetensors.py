"""A bounded reader of safetensors headers: names, types, shapes and extents, never tensor data.

Format: 8 bytes little-endian header length, that many bytes of JSON, then the data without gaps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, NoReturn

from advisor.errors import AdvisorError
from advisor.facts.text import clean
from advisor.model.gguf import open_regular
from advisor.model.jsonfile import parse

MAX_HEADER: Final = 64 << 20
MAX_TENSORS: Final = 200_000  # the largest published checkpoints have half as many, in all their files together
MAX_DIMS: Final = 16
CODE: Final = "untrusted-model-header"

_Fail = Callable[[str], NoReturn]

# bits of one element
DTYPE_BITS: Final[dict[str, int]] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


class SafeTensor(NamedTuple):
    """``begin`` and ``end`` are bytes from the start of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """``data_offset`` is where the data starts in the file of ``file_bytes`` bytes."""

    tensors: dict[str, SafeTensor]
    metadata: dict[str, str]
    data_offset: int
    file_bytes: int


def read_header(path: Path, *, size: int | None = None) -> SafetensorsHeader:
    """Read and check the header of a safetensors file.

    ``size``: bytes of the whole file, where ``path`` holds only its beginning.

    Raises:
        AdvisorError: ``untrusted-model-header`` naming what was seen where, ``file-not-found``, ``file-unreadable``.
    """
    file, held = open_regular(path)
    return read_header_from(file, held if size is None else size, clean(path.name))


def read_header_from(file: BinaryIO, size: int, name: str) -> SafetensorsHeader:
    """As ``read_header``, of an open file of ``size`` bytes, which is closed. It may be one that is fetched as it is
    read."""

    def fail(why: str) -> NoReturn:
        raise AdvisorError(CODE, f"{name} is not a usable safetensors file: {why}.")

    with file:
        try:
            start = file.read(8)
            if len(start) < 8:
                fail(f"it has {size} bytes, too few for the header length at byte 0")
            length = int.from_bytes(start, "little")
            if length > MAX_HEADER:
                fail(f"the header length at byte 0 is {length}, more than the {MAX_HEADER} allowed")
            if length > size - 8:
                fail(f"the header length at byte 0 is {length}, but the file has {size - 8} bytes left")
            raw = file.read(length)
            if len(raw) < length:
                fail(f"it ends at byte {8 + len(raw)}, inside the header of {length} bytes")
        except OSError as e:
            raise AdvisorError("file-unreadable", f"{name} cannot be read: {clean(str(e))}.") from e
    if not raw.startswith(b"{"):
        fail(f"the header at byte 8 starts with {raw[:1]!r} instead of an object")
    found = parse(raw, code=CODE, what=name, max_depth=4, max_containers=3 * MAX_TENSORS + 2)
    if len(found) > MAX_TENSORS + 1:
        fail(f"it has {len(found)} tensors, more than the {MAX_TENSORS} allowed")
    metadata = _metadata(found.pop("__metadata__", {}), fail)
    data_bytes = size - 8 - length
    tensors = {key: _tensor(key, value, data_bytes, fail) for key, value in found.items()}
    _check_cover(tensors, data_bytes, fail)
    return SafetensorsHeader(tensors, metadata, 8 + length, size)


def _metadata(found: object, fail: _Fail) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        fail("__metadata__ is not an object of strings")
    return found


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _tensor(key: str, value: object, data_bytes: int, fail: _Fail) -> SafeTensor:
    name = f'"{clean(key, 80)}"'
    if not isinstance(value, Mapping) or set(value) != {"dtype", "shape", "data_offsets"}:
        fail(f"{name} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        fail(f"the dtype of {name} is {clean(str(dtype), 40)}, which safetensors does not have")
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(_whole(d) for d in shape):
        fail(f"the shape of {name} is {clean(str(shape), 80)}, not up to {MAX_DIMS} whole numbers")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_whole(o) for o in offsets):
        fail(f"the data_offsets of {name} are {clean(str(offsets), 80)}, not two whole numbers")
    begin, end = offsets
    if begin > end or end > data_bytes:
        fail(f"the data of {name} is bytes {begin} to {end}, but the file has {data_bytes} bytes of data")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits != (end - begin) * 8:
        fail(f"{name} is {dtype} {clean(str(shape), 80)}, {bits / 8:g} bytes, but has {end - begin} bytes of data")
    return SafeTensor(dtype, tuple(shape), begin, end)


def _check_cover(tensors: dict[str, SafeTensor], data_bytes: int, fail: _Fail) -> None:
    at, before = 0, "the start"
    for key, t in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        name = f'"{clean(key, 80)}"'
        if t.begin < at:
            fail(f"the data of {name} begins at {t.begin} and overlaps that of {before}, which ends at {at}")
        if t.begin > at:
            fail(f"there is a hole of {t.begin - at} bytes at {at}, between {before} and {name}")
        at, before = t.end, name
    if at != data_bytes:
        fail(f"the tensors end at {at}, but the file has {data_bytes} bytes of data")
