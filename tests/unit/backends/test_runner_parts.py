"""Parts of the runners that need no managed environment: headers, log reading, refusals, the protocol."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.execute.envs import Env
from advisor.execute.proc import run_runner
from advisor.facts.ggml_types import BLOCKS
from advisor.model.gguf import read_header
from tests.unit.backends.support import runner

MIN = runner("gguf_min")
DRY = runner("dryload")
PROTOCOL = runner("protocol")
CONVERT = runner("convert")
HERE = Env(name="here", path=sys.prefix, python=sys.executable)

SERVER_LOG = """\
llama_context:        CPU  output buffer size =     0.38 MiB
llama_kv_cache:        CPU KV buffer size =     0.00 MiB
llama_kv_cache: size =   45.00 MiB (  1024 cells,  30 layers,  2/2 seqs), K (f16):   22.50 MiB, V (f16):   22.50 MiB
sched_reserve:        CPU compute buffer size =     7.82 MiB
"""
WINDOW_LOG = """\
llama_kv_cache: size =   32.00 MiB (  8192 cells,   4 layers,  1/1 seqs), K (q8_0):   16.00 MiB, V (q8_0):   16.00 MiB
llama_kv_cache: size =   22.00 MiB (  1024 cells,  22 layers,  1/1 seqs), K (q8_0):   11.00 MiB, V (q8_0):   11.00 MiB
llama_memory_recurrent: size =    1.50 MiB (     1 cells,  24 layers,  1 seqs), R (f32):    1.00 MiB
sched_reserve:        CPU compute buffer size =    60.78 MiB
"""


def test_sizes_are_read_from_the_log_of_a_server() -> None:
    assert DRY.parse(SERVER_LOG) == {
        "kv_cache_bytes": 45 << 20,
        "state_bytes": 0,
        "compute_bytes": round(7.82 * (1 << 20)),
        "output_bytes": round(0.38 * (1 << 20)),
        "cells": 1024,
    }


def test_window_caches_and_recurrent_state_add_up() -> None:
    found = DRY.parse(WINDOW_LOG)
    assert found["kv_cache_bytes"] == 54 << 20
    assert found["state_bytes"] == 3 << 19
    assert found["cells"] == 8192


def test_a_log_without_sizes_is_not_taken_for_zero() -> None:
    with pytest.raises(PROTOCOL.Failed) as e:
        DRY.parse("llama_kv_cache: nothing\n")
    assert e.value.code == "step-failed"


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4), st.sampled_from(sorted(MIN.BLOCKS))), max_size=6))
def test_headers_written_here_are_read_by_the_strict_reader(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int, str]]
) -> None:
    path = tmp_path_factory.mktemp("min") / "x.gguf"
    tensors = [(f"blk.{i}.w", (rows, blocks * MIN.BLOCKS[k][0]), k) for i, (rows, blocks, k) in enumerate(parts)]
    MIN.write_sparse(path, {"general.architecture": "llama", "a.b": 1.5, "c": True, "d": ["x", "y"]}, tensors)
    header = read_header(path)
    assert [(t.name, t.shape, t.type) for t in header.tensors] == tensors
    assert header.metadata["general.architecture"] == "llama"
    assert header.length("d") == 2
    assert all(t.nbytes == MIN.nbytes(t.shape, t.type) for t in header.tensors)


def test_block_sizes_agree_with_those_of_the_cost_model() -> None:
    assert {k: tuple(BLOCKS[k]) for k in MIN.BLOCKS} == MIN.BLOCKS


def test_the_tiny_model_is_a_whole_file(tmp_path: Path) -> None:
    MIN.write_tiny(tmp_path / "tiny.gguf")
    header = read_header(tmp_path / "tiny.gguf")
    assert len(header.tensors) == 21
    assert header.length("tokenizer.ggml.tokens") == 259


def test_a_row_that_does_not_divide_into_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="576"):
        MIN.nbytes((4, 576), "q4_k")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_folders_that_bring_code_are_refused_before_anything_is_loaded(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / name).write_text(json.dumps({"auto_map": {"AutoTokenizer": "evil.Tokenizer"}}))
    with pytest.raises(PROTOCOL.Failed) as e:
        CONVERT.refuse_code(tmp_path)
    assert e.value.code == "remote-code-refused"


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(PROTOCOL.Failed) as e:
        CONVERT.refuse_code(tmp_path)
    assert e.value.code == "pickle-refused"


@pytest.mark.parametrize("script", ["validate.py", "logits.py", "dryload.py", "health_llama.py"])
def test_an_environment_without_the_engine_is_named_as_such(tmp_path: Path, script: str) -> None:
    text = tmp_path / "t.txt"
    text.write_text("words")
    MIN.write_tiny(tmp_path / "tiny.gguf")
    path = str(tmp_path / "tiny.gguf")
    request = {"path": path, "models": [path], "text": str(text), "chunks": 1, "context": 256, "tensors": []}
    with pytest.raises(AdvisorError) as e:
        run_runner(HERE, script, request, step="s", log=tmp_path / "log")
    assert e.value.code in ("env-failed", "artifact-invalid", "step-failed")
    assert "xllamacpp" in e.value.message or "numpy" in e.value.message


@pytest.mark.parametrize("script", ["restore.py", "convert.py", "imatrix.py", "quantize.py", "health_convert.py"])
def test_an_environment_without_the_converter_is_named_as_such(tmp_path: Path, script: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    request = {
        "gguf": "x.gguf", "out": str(tmp_path / "o"), "folder": str(tmp_path), "text": "t", "chunks": 1,
        "source": "x.gguf", "format": "q4_0", "types": {},
    }  # fmt: skip
    with pytest.raises(AdvisorError) as e:
        run_runner(HERE, script, request, step="s", log=tmp_path / "log")
    assert e.value.code == "env-failed"
    assert "converter" in e.value.message
