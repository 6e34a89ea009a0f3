from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.model import safetensors
from advisor.model.safetensors import read_header
from tests.support.safetensors_writer import write_safetensors


def put(tmp_path: Path, header: bytes | dict[str, Any], data: int = 0, length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + b"\0" * data)
    return path


def refused(path: Path) -> str:
    with pytest.raises(AdvisorError) as e:
        read_header(path)
    assert e.value.code == "untrusted-model-header"
    assert e.value.exit_code == 7
    return e.value.message


def entry(dtype: str, shape: list[Any], begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_reads_what_the_writer_wrote(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", {"a": ("BF16", (2, 3)), "b": ("F32", ()), "c": ("F4", (4,))})
    h = read_header(path)
    assert {n: (t.dtype, t.shape, t.elements) for n, t in h.tensors.items()} == {
        "a": ("BF16", (2, 3), 6),
        "b": ("F32", (), 1),
        "c": ("F4", (4,), 4),
    }
    assert h.metadata == {"format": "pt"}
    assert h.file_bytes == path.stat().st_size == h.data_offset + 12 + 4 + 2


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (2**63, "9223372036854775808"),
        (99 << 20, "more than the 67108864 allowed"),
        (1 << 20, "bytes left"),
    ],
)
def test_header_lengths_beyond_the_file_or_the_limit(tmp_path: Path, length: int, words: str) -> None:
    message = refused(put(tmp_path, b"{}", length=length))
    assert words in message
    assert "byte 0" in message


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        ({"a": entry("F32", [2], 0, 4)}, 4, "8 bytes"),
        ({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, 12, "overlaps"),
        ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, 12, "hole"),
        ({"a": entry("F32", [1], 4, 8)}, 8, "hole"),
        ({"a": entry("F32", [1], 0, 4)}, 8, "end at 4"),
        ({"a": entry("F32", [2], 0, 8)}, 4, "file has 4 bytes"),
        ({"a": entry("F32", [1], 4, 0)}, 4, "bytes 4 to 0"),
        ({"a": entry("F32", [2**62, 2**62, 4], 0, 4)}, 4, "bytes, but has"),
        ({"a": entry("F32", [2**63], 0, 4)}, 4, "shape"),
        ({"a": entry("F32", [-1], 0, 4)}, 4, "shape"),
        ({"a": entry("F32", [1.0], 0, 4)}, 4, "shape"),
        ({"a": entry("F32", [True], 0, 4)}, 4, "shape"),
        ({"a": entry("F32", [1] * 17, 0, 4)}, 4, "shape"),
        ({"a": entry("F32", [1], "0", 4)}, 4, "data_offsets"),
        ({"a": entry("F33", [1], 0, 4)}, 4, "dtype"),
        ({"a": {"dtype": "F32", "shape": [1]}}, 4, "not described"),
        ({"a": [1]}, 4, "not described"),
        ({"a": entry("F4", [3], 0, 1)}, 1, "1.5 bytes"),
        ({"__metadata__": {"a": 1}}, 0, "__metadata__"),
        (b"[1]", 0, "instead of an object"),
        (b'{"a": NaN}', 0, "NaN"),
        (b'{"a":1,"a":2}', 0, "second time"),
        (b'{"a":{"dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4]}}', 4, "second time"),
        (b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", 0, "nests deeper"),
        (b'{"a"', 0, "not JSON"),
        (b'{"\xff":1}', 0, "UTF-8"),
    ],
)
def test_hostile_headers(tmp_path: Path, header: Any, data: int, words: str) -> None:
    assert words in refused(put(tmp_path, header, data))


def test_number_of_tensors_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors, "MAX_TENSORS", 3)
    header = {f"t{i}": entry("F32", [0], 0, 0) for i in range(5)}
    assert "more than" in refused(put(tmp_path, header))


def test_escapes_in_tensor_names_are_not_shown(tmp_path: Path) -> None:
    message = refused(put(tmp_path, {"\x1b]0;x\x07evil\u202e": entry("F32", [9], 0, 4)}, 4))
    assert "\x1b" not in message
    assert "\u202e" not in message
    assert "evil" in message


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_every_truncation_is_a_typed_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    whole = write_safetensors(path, {"a": ("BF16", (2, 3)), "b": ("F32", (4,))}).read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    refused(path)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_flipped_bytes_never_escape_as_another_exception(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    whole = bytearray(write_safetensors(path, {"a": ("BF16", (2, 3)), "b": ("F32", (4,))}).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        h = read_header(path)
    except AdvisorError as e:
        assert e.code == "untrusted-model-header"
    else:
        assert sum(t.end - t.begin for t in h.tensors.values()) == h.file_bytes - h.data_offset
