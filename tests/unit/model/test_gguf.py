from __future__ import annotations

import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.facts.ggml_types import BLOCKS, IDS, NUMBERS
from advisor.model import gguf
from advisor.model.gguf import Skipped, read_header
from tests.support import gguf_writer as w

TENSORS: list[tuple[str, tuple[int, ...], str]] = [
    ("token_embd.weight", (8, 32), "q8_0"),
    ("output_norm.weight", (32,), "f32"),
    ("blk.0.ffn_up_exps.weight", (2, 4, 256), "q4_k"),
]
META: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "flag": True,
    "big": 2**40,
    "negative": -5,
    "ratio": 0.5,
    "heads": [4, 8],
    "tokenizer.ggml.tokens": ["a", "bc", ""],
}


def refused(path: Path) -> AdvisorError:
    with pytest.raises(AdvisorError) as e:
        read_header(path)
    assert e.value.code == "untrusted-model-header"
    assert e.value.exit_code == 7
    return e.value


def raw_file(tmp_path: Path, raw: bytes) -> Path:
    path = tmp_path / "x.gguf"
    path.write_bytes(raw)
    return path


def head(tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def test_reads_what_the_writer_wrote(tmp_path: Path) -> None:
    path = w.write_gguf(tmp_path / "m.gguf", META, TENSORS)
    h = read_header(path)
    assert h.metadata == {
        **META,
        "heads": (4, 8),
        "tokenizer.ggml.tokens": Skipped("array of string", 3),
    }
    assert [(t.name, t.shape, t.type) for t in h.tensors] == TENSORS
    assert [t.nbytes for t in h.tensors] == [8 * 34, 128, 2 * 4 * 144]
    assert [t.offset for t in h.tensors] == [0, 288, 416]
    assert h.data_offset % 32 == 0
    assert h.file_bytes == path.stat().st_size
    assert h.length("tokenizer.ggml.tokens") == 3
    assert h.length("heads") == 2
    assert h.length("flag") is None
    assert h.integer("llama.block_count") == 1
    assert h.integer("flag") is None
    assert h.text("general.architecture") == "llama"
    assert h.text("big") is None


def test_version_2_and_other_alignment(tmp_path: Path) -> None:
    meta = {"general.alignment": 64, **META}
    raw, body = w.header(meta, TENSORS, version=2)
    h = read_header(raw_file(tmp_path, raw + b"\0" * body))
    assert h.version == 2
    assert h.alignment == 64
    assert all(t.offset % 64 == 0 for t in h.tensors)


def test_block_table_is_consistent() -> None:
    assert set(NUMBERS) == set(BLOCKS) == set(IDS.values())
    # bits a weight, as the format documents of ggml give them
    assert {
        k: BLOCKS[k][1] * 8 / BLOCKS[k][0] for k in ("q4_0", "q8_0", "q4_k", "q6_k", "iq4_xs", "mxfp4", "nvfp4")
    } == {
        "q4_0": 4.5,
        "q8_0": 8.5,
        "q4_k": 4.5,
        "q6_k": 6.5625,
        "iq4_xs": 4.25,
        "mxfp4": 4.25,
        "nvfp4": 4.5,
    }


def test_every_type_is_read(tmp_path: Path) -> None:
    tensors = [(f"t.{name}", (2, BLOCKS[name][0]), name) for name in BLOCKS]
    h = read_header(w.write_gguf(tmp_path / "all.gguf", {"general.architecture": "x"}, tensors))
    assert {t.type: t.nbytes for t in h.tensors} == {name: 2 * BLOCKS[name][1] for name in BLOCKS}


def hostile_array() -> bytes:
    """49 bytes: one key whose array claims 2^63 elements."""
    raw = head(keys=1) + w.string("a") + struct.pack("<IIQ", w.ARRAY, w.U32, 2**63)
    return raw.ljust(49, b"\0")


@pytest.mark.parametrize(
    ("raw", "offset", "seen"),
    [
        (hostile_array(), 41, 2**63),
        (head(keys=2**63).ljust(49, b"\0"), 16, 2**63),
        (head(tensors=2**63).ljust(49, b"\0"), 8, 2**63),
        (head(keys=1) + struct.pack("<Q", 2**63) + b"\0" * 17, 24, 2**63),
        (head(keys=1) + w.string("a") + struct.pack("<IQ", w.STRING, 2**63) + b"\0" * 9, 37, 2**63),
        (head(keys=1) + w.string("a") + struct.pack("<IIQ", w.ARRAY, w.ARRAY, 1) + b"\0" * 40, 37, w.ARRAY),
        (head(keys=1) + w.string("a") + struct.pack("<IIQ", w.ARRAY, 77, 1) + b"\0" * 40, 37, 77),
        (head(keys=1) + w.string("a") + struct.pack("<I", 13) + b"\0" * 40, 33, 13),
        (head(keys=1) + w.string("a") + struct.pack("<IB", w.BOOL, 2) + b"\0" * 40, 37, 2),
        (head(version=1).ljust(49, b"\0"), 4, 1),
        (head(version=4).ljust(49, b"\0"), 4, 4),
        (b"GGML" + b"\0" * 45, 0, "b'GGML'"),
        (head(keys=70_000) + b"\0" * 2_000_000, 16, 70_000),
        (head(tensors=1_000_001) + b"\0" * 100, 8, 1_000_001),
    ],
)
def test_hostile_headers_are_refused_with_offset_and_value(
    tmp_path: Path, raw: bytes, offset: int, seen: int | str
) -> None:
    error = refused(raw_file(tmp_path, raw))
    assert error.data == {"offset": offset, "value": seen}
    assert f"at byte {offset}" in error.message


def test_big_endian_is_named(tmp_path: Path) -> None:
    assert "big-endian" in refused(raw_file(tmp_path, b"GGUF" + struct.pack(">IQQ", 3, 0, 0))).message


def test_hostile_array_of_strings_takes_no_memory(tmp_path: Path) -> None:
    raw = head(keys=1) + w.string("a") + struct.pack("<IIQ", w.ARRAY, w.STRING, 3_999_999)
    path = raw_file(tmp_path, raw.ljust(49, b"\0"))
    tracemalloc.start()
    try:
        refused(path)
        refused(raw_file(tmp_path, hostile_array()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_hostile_file_under_a_small_address_space(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from advisor.model.gguf import read_header; "
        "from advisor.errors import AdvisorError\n"
        "linux = sys.platform == 'linux'\n"
        "now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() if linux else 0\n"
        "if now: resource.setrlimit(resource.RLIMIT_AS, (now + (50 << 20), now + (50 << 20)))\n"
        "try: read_header(Path(sys.argv[1]))\n"
        "except AdvisorError as e: print(e.code)\n"
    )
    path = raw_file(tmp_path, hostile_array())
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert out.stdout.strip() == "untrusted-model-header", out.stderr


def tensor_entry(name: str, dims: list[int], kind: int, offset: int) -> bytes:
    return w.string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([tensor_entry("a", [2**32, 2**32], 0, 0)], "elements"),
        ([tensor_entry("a", [2**62], 0, 0)], "the file ends at"),
        ([tensor_entry("a", [0, 4], 0, 0)], "0 elements"),
        ([tensor_entry("a", [], 0, 0)], "0 dimensions"),
        ([tensor_entry("a", [1] * 5, 0, 0)], "5 dimensions"),
        ([tensor_entry("a", [33], 2, 0)], "whole q4_0 blocks"),
        ([tensor_entry("a", [32], 4, 0)], "the type of"),
        ([tensor_entry("a", [32], 0, 31)], "multiple of the alignment"),
        ([tensor_entry("a", [32], 0, 2**63)], "the file ends at"),
        ([tensor_entry("a", [32], 0, 0), tensor_entry("a", [32], 0, 128)], "second time"),
        ([tensor_entry("a", [32], 0, 0), tensor_entry("b", [32], 0, 96)], "overlaps"),
        ([tensor_entry("n" * 64, [32], 0, 0)], "more than the 63 allowed"),
    ],
)
def test_hostile_tensors_are_refused(tmp_path: Path, entries: list[bytes], words: str) -> None:
    raw = head(tensors=len(entries)) + b"".join(entries) + b"\0" * 512
    assert words in refused(raw_file(tmp_path, raw)).message


@pytest.mark.parametrize("alignment", [0, 3, 2**21, "32", True])
def test_bad_alignment_is_refused(tmp_path: Path, alignment: Any) -> None:
    raw = head(keys=1) + w.key_value("general.alignment", alignment)
    assert "general.alignment" in refused(raw_file(tmp_path, raw)).message


def test_duplicate_keys_are_refused(tmp_path: Path) -> None:
    raw = head(keys=2) + w.key_value("k", 1) + w.key_value("k", 2)
    assert "second time" in refused(raw_file(tmp_path, raw)).message


def test_escapes_in_names_are_not_shown(tmp_path: Path) -> None:
    raw = head(keys=2) + w.key_value("\x1b[31mk\u202e", 1) * 2
    error = refused(raw_file(tmp_path, raw))
    assert "\x1b" not in error.message
    assert "\u202e" not in error.message


def test_long_values_are_stepped_over(tmp_path: Path) -> None:
    meta = {
        "tokenizer.chat_template": "x" * 100_000,
        "scores": [0.0] * 5000,
        "tokenizer.ggml.tokens": [f"token-{i}" for i in range(200_000)],
        "after": 7,
    }
    h = read_header(w.write_gguf(tmp_path / "long.gguf", meta, []))
    assert h.metadata["tokenizer.chat_template"] == Skipped("string", 100_000)
    assert h.metadata["scores"] == Skipped("array of f32", 5000)
    assert h.length("tokenizer.ggml.tokens") == 200_000
    assert h.integer("after") == 7


def test_header_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "MAX_HEADER", 1000)
    path = w.write_gguf(tmp_path / "long.gguf", {"a": "x" * 2000}, [])
    assert "longer than" in refused(path).message
    path = w.write_gguf(tmp_path / "long.gguf", {"a": ["x" * 500] * 4}, [])
    assert "longer than" in refused(path).message


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_every_truncation_is_a_typed_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    raw, body = w.header(META, TENSORS)
    whole = raw + b"\0" * body
    cut = data.draw(st.integers(0, len(whole) - 65))
    path = tmp_path_factory.getbasetemp() / "cut.gguf"
    path.write_bytes(whole[:cut])
    refused(path)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_flipped_bytes_never_escape_as_another_exception(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw, body = w.header(META, TENSORS)
    whole = bytearray(raw + b"\0" * body)
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "flipped.gguf"
    path.write_bytes(whole)
    try:
        h = read_header(path)
    except AdvisorError as e:
        assert e.code == "untrusted-model-header"
    else:
        assert all(h.data_offset + t.offset + t.nbytes <= h.file_bytes for t in h.tensors)


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_noise_after_a_true_start(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.gguf"
    path.write_bytes(head(tensors=1, keys=2) + noise)
    refused(path)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for name, code in (("pipe.gguf", "file-unreadable"), (".", "file-unreadable"), ("no.gguf", "file-not-found")):
        with pytest.raises(AdvisorError) as e:
            read_header(tmp_path / name)
        assert e.value.code == code
