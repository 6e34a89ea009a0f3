"""A bounded reader of GGUF headers.

The file is not trusted: every count, length, dimension and offset is held against a limit and against what is left of
the file before anything is allocated or looped over. Tensor data is never read; long arrays and strings are stepped
over. The format is the GGUF specification of ggml, versions 2 and 3, little endian.
"""

from __future__ import annotations

import math
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, NoReturn

from advisor.errors import AdvisorError
from advisor.facts.ggml_types import BLOCKS, IDS
from advisor.facts.text import clean

MAX_KEYS: Final = 65_536
MAX_TENSORS: Final = 1_000_000
MAX_STRING: Final = 16 << 20
MAX_KEY_NAME: Final = 1024
MAX_TENSOR_NAME: Final = 64  # ggml's own bound, GGML_MAX_NAME
MAX_ARRAY: Final = 4_000_000
MAX_DIMS: Final = 4
MAX_ALIGNMENT: Final = 1 << 20
MAX_HEADER: Final = 256 << 20
KEEP_STRING: Final = 4096
KEEP_ARRAY: Final = 4096
KEEP_TOTAL: Final = 8 << 20
DEFAULT_ALIGNMENT: Final = 32

_SCALARS: Final[dict[int, tuple[str, str]]] = {
    0: ("u8", "<B"),
    1: ("i8", "<b"),
    2: ("u16", "<H"),
    3: ("i16", "<h"),
    4: ("u32", "<I"),
    5: ("i32", "<i"),
    6: ("f32", "<f"),
    7: ("bool", "<B"),
    10: ("u64", "<Q"),
    11: ("i64", "<q"),
    12: ("f64", "<d"),
}
_STRING: Final = 8
_ARRAY: Final = 9
_WINDOW: Final = 1 << 20


class Skipped(NamedTuple):
    """A metadata value that was stepped over: ``kind`` is ``string`` or ``array of TYPE``, ``length`` its count."""

    kind: str
    length: int


Scalar = int | float | bool | str
Value = Scalar | tuple[Scalar, ...] | Skipped


class GgufTensor(NamedTuple):
    """``shape`` is (rows, columns), or (experts, rows, columns); ``offset`` is bytes from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """``data_offset`` is where tensor data starts in the file, ``file_bytes`` the size of the whole file."""

    version: int
    metadata: dict[str, Value]
    tensors: tuple[GgufTensor, ...]
    data_offset: int
    file_bytes: int
    alignment: int

    def integer(self, key: str) -> int | None:
        """The whole number under ``key``; ``None`` where it is absent or something else."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def text(self, key: str) -> str | None:
        """The string under ``key``, made safe to show; ``None`` where it is absent, long or something else."""
        value = self.metadata.get(key)
        return clean(value) if isinstance(value, str) else None

    def length(self, key: str) -> int | None:
        """Number of elements of the array (or characters of the string) under ``key``."""
        value = self.metadata.get(key)
        if isinstance(value, Skipped):
            return value.length
        return len(value) if isinstance(value, tuple | str) else None


class _Reader:
    """Little-endian reads that never pass the end of the file or of the largest header."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self.file = file
        self.size = size
        self.name = name
        self.at = 0
        self.kept = 0

    def fail(self, what: str, value: object, at: int | None = None) -> NoReturn:
        offset = self.at if at is None else at
        raise AdvisorError(
            "untrusted-model-header",
            f"{self.name} is not a usable GGUF file: at byte {offset} {what}.",
            context=(f"file size {self.size} bytes",),
            data={"offset": offset, "value": value if isinstance(value, int | str) else str(value)},
        )

    def need(self, n: int, what: str) -> None:
        if n > self.size - self.at:
            self.fail(f"{what} needs {n} bytes, but the file has {self.size - self.at} left", n)
        if self.at + n > MAX_HEADER:
            self.fail(f"{what} makes the header longer than {MAX_HEADER} bytes", n)

    def take(self, n: int, what: str) -> bytes:
        self.need(n, what)
        raw = self.file.read(n)
        if len(raw) != n:
            self.fail(f"the file ended inside {what}", len(raw))
        self.at += n
        return raw

    def skip(self, n: int, what: str) -> None:
        self.need(n, what)
        self.file.seek(n, 1)
        self.at += n

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def bounded(self, what: str, limit: int) -> int:
        at = self.at
        n = self.u64(what)
        if n > limit:
            self.fail(f"{what} is {n}, more than the {limit} allowed", n, at)
        return n

    def string(self, what: str, limit: int) -> str:
        return self.take(self.bounded(f"the length of {what}", limit), what).decode("utf-8", "replace")

    def skip_strings(self, count: int, what: str) -> None:
        """Step over ``count`` length-prefixed strings through a window, without a read for each."""
        if count * 8 > self.size - self.at:
            self.fail(f"{what} of {count} strings needs at least {count * 8} bytes, more than the file has left", count)
        at, size = self.at, self.size
        window, start, end = b"", at, at
        for _ in range(count):
            if at + 8 > end:
                self.file.seek(at)
                window = self.file.read(_WINDOW)
                start, end = at, at + len(window)
                if at + 8 > end or at > MAX_HEADER:
                    self.fail(f"the file or the largest header ends inside {what}", count, at)
            rel = at - start
            n = int.from_bytes(window[rel : rel + 8], "little")
            if n > MAX_STRING or n > size - at - 8:
                self.fail(f"the length of a string of {what} is {n}, more than the file or the limit allows", n, at)
            at += 8 + n
        self.at = at
        self.need(0, what)
        self.file.seek(at)


def _value(r: _Reader, key: str) -> Value:
    at = r.at
    kind = r.u32(f"the type of {key}")
    if kind == _STRING:
        n = r.bounded(f"the length of {key}", MAX_STRING)
        if n > KEEP_STRING or r.kept + n > KEEP_TOTAL:
            r.skip(n, key)
            return Skipped("string", n)
        r.kept += n
        return r.take(n, key).decode("utf-8", "replace")
    if kind == _ARRAY:
        return _array(r, key)
    if kind not in _SCALARS:
        r.fail(f"the type of {key} is {kind}, which GGUF does not have", kind, at)
    return _scalar(r, kind, r.take(struct.calcsize(_SCALARS[kind][1]), key), key)


def _scalar(r: _Reader, kind: int, raw: bytes, key: str) -> Scalar:
    name, code = _SCALARS[kind]
    value: int | float = struct.unpack(code, raw)[0]
    if name == "bool":
        if value not in (0, 1):
            r.fail(f"the truth value {key} is {value}, neither 0 nor 1", int(value), r.at - 1)
        return bool(value)
    return value


def _array(r: _Reader, key: str) -> Value:
    at = r.at
    kind = r.u32(f"the element type of {key}")
    if kind != _STRING and kind not in _SCALARS:
        what = "an array of arrays" if kind == _ARRAY else f"an array of type {kind}"
        r.fail(f"{key} is {what}, which is not allowed", kind, at)
    n = r.bounded(f"the element count of {key}", MAX_ARRAY)
    if kind == _STRING:
        r.skip_strings(n, key)
        return Skipped("array of string", n)
    name, code = _SCALARS[kind]
    width = struct.calcsize(code)
    if n > KEEP_ARRAY or r.kept + n * 64 > KEEP_TOTAL:
        r.skip(n * width, key)
        return Skipped(f"array of {name}", n)
    r.kept += n * 64
    raw = r.take(n * width, key)
    return tuple(_scalar(r, kind, raw[i * width : (i + 1) * width], key) for i in range(n))


def _metadata(r: _Reader, count: int) -> dict[str, Value]:
    out: dict[str, Value] = {}
    for _ in range(count):
        at = r.at
        raw = r.string("a metadata key", MAX_KEY_NAME)
        shown = f'"{clean(raw, 80)}"'
        if raw in out:
            r.fail(f"the metadata key {shown} appears a second time", clean(raw, 80), at)
        out[raw] = _value(r, shown)
    return out


def _alignment(r: _Reader, metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
        shown = clean(str(value), 40)
        r.fail(f"general.alignment is {shown}, not a power of two up to {MAX_ALIGNMENT}", shown)
    return value


def _tensor(r: _Reader, seen: set[str], alignment: int) -> GgufTensor:
    at = r.at
    raw = r.string("a tensor name", MAX_TENSOR_NAME - 1)
    name = f'"{clean(raw, 80)}"'
    if raw in seen:
        r.fail(f"the tensor {name} appears a second time", clean(raw, 80), at)
    seen.add(raw)
    at = r.at
    dims = r.u32(f"the dimension count of {name}")
    if not 1 <= dims <= MAX_DIMS:
        r.fail(f"{name} has {dims} dimensions, not 1 to {MAX_DIMS}", dims, at)
    at = r.at
    sizes = struct.unpack(f"<{dims}Q", r.take(8 * dims, f"the dimensions of {name}"))
    elements = math.prod(sizes)
    if not 0 < elements < 1 << 63:
        r.fail(f"{name} has {elements} elements ({' x '.join(map(str, sizes))})", elements, at)
    at = r.at
    number = r.u32(f"the type of {name}")
    if number not in IDS:
        r.fail(f"the type of {name} is {number}, which ggml does not have", number, at)
    kind = IDS[number]
    block, block_bytes = BLOCKS[kind]
    if sizes[0] % block:
        r.fail(f"a row of {name} has {sizes[0]} elements, not whole {kind} blocks of {block}", sizes[0], at)
    at = r.at
    offset = r.u64(f"the offset of {name}")
    if offset % alignment:
        r.fail(f"the offset of {name} is {offset}, not a multiple of the alignment {alignment}", offset, at)
    return GgufTensor(raw, tuple(reversed(sizes)), kind, offset, elements // block * block_bytes)


def _check_extents(r: _Reader, tensors: list[GgufTensor], data_offset: int) -> None:
    end_before = 0
    before = ""
    for t in sorted(tensors, key=lambda t: (t.offset, t.nbytes)):
        name = f'"{clean(t.name, 80)}"'
        if t.offset + t.nbytes > r.size - data_offset:
            r.fail(
                f"the data of {name} would end at {data_offset + t.offset + t.nbytes}, but the file ends at {r.size}: "
                "it is cut short, or not what it says",
                t.offset,
                data_offset + t.offset,
            )
        if t.offset < end_before:
            r.fail(f"the data of {name} overlaps that of {before}", t.offset, data_offset + t.offset)
        end_before, before = t.offset + t.nbytes, name


def open_regular(path: Path) -> tuple[BinaryIO, int]:
    """Open a regular file for reading and return it with its size.

    Raises:
        AdvisorError: ``file-not-found``, or ``file-unreadable`` for folders, pipes, devices and lacking permission.
    """
    shown = clean(str(path))
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):  # opening a pipe would wait for ever
            raise AdvisorError("file-unreadable", f"{shown} is not a regular file.")
        return path.open("rb"), info.st_size
    except FileNotFoundError as e:
        raise AdvisorError("file-not-found", f"There is no file {shown}.") from e
    except (OSError, ValueError) as e:
        raise AdvisorError("file-unreadable", f"{shown} cannot be read: {clean(str(e))}.") from e


def read_header(path: Path, *, size: int | None = None) -> GgufHeader:
    """Read and check the header of a GGUF file.

    Args:
        path: a single file; of a split model, one part.
        size: bytes of the whole file, where ``path`` holds only its beginning.

    Returns:
        Metadata (long strings and arrays as ``Skipped``), tensors in file order, and where the data starts.

    Raises:
        AdvisorError: ``untrusted-model-header`` with the byte offset and the value seen, ``file-not-found`` or
            ``file-unreadable``.
    """
    file, held = open_regular(path)
    return read_header_from(file, held if size is None else size, clean(path.name))


def read_header_from(file: BinaryIO, size: int, name: str) -> GgufHeader:
    """As ``read_header``, of an open file of ``size`` bytes, which is closed. It may be one that is fetched as it is
    read."""
    with file:
        r = _Reader(file, size, name)
        try:
            return _read(r)
        except OSError as e:
            raise AdvisorError("file-unreadable", f"{r.name} cannot be read: {clean(str(e))}.") from e


def _read(r: _Reader) -> GgufHeader:
    magic = r.take(4, "the magic number")
    if magic != b"GGUF":
        r.fail(f"it starts with {magic!r} instead of b'GGUF'", repr(magic), 0)
    version = r.u32("the version")
    if version & 0xFFFF == 0 and version:
        r.fail(f"the version is {version:#x}: a big-endian file, which cannot be used", version, 4)
    if version not in (2, 3):
        r.fail(f"the version is {version}; versions 2 and 3 can be read", version, 4)
    tensor_count = r.bounded("the tensor count", MAX_TENSORS)
    key_count = r.bounded("the metadata count", MAX_KEYS)
    # The smallest metadata entry has 13 bytes and the smallest tensor entry 32; refuse before looping.
    if key_count * 13 + tensor_count * 32 > r.size - r.at:
        r.fail(
            f"{key_count} metadata entries and {tensor_count} tensors do not fit in the {r.size - r.at} bytes left",
            max(key_count, tensor_count),
            8,
        )
    metadata = _metadata(r, key_count)
    alignment = _alignment(r, metadata)
    seen: set[str] = set()
    tensors = [_tensor(r, seen, alignment) for _ in range(tensor_count)]
    data_offset = -(-r.at // alignment) * alignment
    _check_extents(r, tensors, data_offset)
    return GgufHeader(version, metadata, tuple(tensors), data_offset, r.size, alignment)
