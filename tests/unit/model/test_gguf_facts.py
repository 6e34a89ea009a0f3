from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advisor.errors import AdvisorError
from advisor.model.gguf_facts import dominant, facts, load
from advisor.model.tensors import computed, tensors
from tests.support.gguf_writer import header, llama_like, write_gguf


def test_facts_and_tensors_come_from_the_header(tmp_path: Path) -> None:
    path = llama_like(tmp_path / "tiny.gguf", types={"": "q4_k", "attn_v": "q6_k"}, extra={"general.license": "mit"})
    f = facts(path, ref="tiny.gguf")
    assert (f.kind, f.architecture, f.layers, f.hidden, f.heads, f.kv_heads, f.head_dim) == (
        "gguf",
        "llama",
        2,
        256,
        4,
        2,
        64,
    )
    assert (f.vocab, f.context_max, f.intermediate, f.tie_embeddings, f.license) == (320, 2048, 512, False, "mit")
    assert (f.weights_format, f.weights_dtype, f.confidence, f.chat_template) == ("gguf", "q4_k", "exact", False)
    assert f.weights_bytes == path.stat().st_size
    assert set(f.source_types) == {"f32", "q4_k", "q6_k"}
    assert f.params == sum(t.elements for t in tensors(f))
    assert {t.gguf_type for t in tensors(f)} == {"f32", "q4_k", "q6_k"}
    # What is computed without the file agrees in names and shapes.
    assert {(t.name, t.shape, t.role, t.layer) for t in tensors(f)} == {
        (t.name, t.shape, t.role, t.layer) for t in computed(f)
    }


def test_tensors_are_computed_where_the_file_is_gone(tmp_path: Path) -> None:
    path = llama_like(tmp_path / "tiny.gguf")
    f = facts(path, ref="tiny.gguf")
    there = {t.name for t in tensors(f)}
    path.unlink()
    assert {t.name for t in tensors(f)} == there


def test_chat_template_is_seen_and_not_kept(tmp_path: Path) -> None:
    path = llama_like(tmp_path / "t.gguf", extra={"tokenizer.chat_template": "{{ 1/0 }}" * 100_000})
    assert facts(path, ref="t").chat_template is True


def test_name_that_lies_about_the_size(tmp_path: Path) -> None:
    path = llama_like(tmp_path / "x.gguf", name="Nice \x1b[31mModel 7B")
    f = facts(path, ref="x")
    assert f.name == "Nice Model 7B"
    assert [n for n in f.notes if n.startswith("mismatch:")]
    assert "1.34M" in f.notes[0]
    assert not facts(llama_like(tmp_path / "honest-1.3M.gguf", name="honest 1.3M"), ref="x").notes


def test_metadata_arrays_by_layer(tmp_path: Path) -> None:
    path = llama_like(tmp_path / "a.gguf", extra={"llama.attention.head_count_kv": [2, 2]})
    assert facts(path, ref="a").kv_heads == 2
    assert not facts(path, ref="a").notes
    path = llama_like(tmp_path / "b.gguf", extra={"llama.attention.head_count_kv": [2, 4]})
    f = facts(path, ref="b")
    assert f.kv_heads == 4
    assert f.confidence == "low"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [(None, 6), (3, 3), ([True, True, False, True], 3)],
)
def test_window_pattern(tmp_path: Path, pattern: Any, expected: int) -> None:
    extra: dict[str, Any] = {"gemma3.attention.sliding_window": 512}
    if pattern:
        extra["gemma3.attention.sliding_window_pattern"] = pattern
    f = facts(llama_like(tmp_path / "g.gguf", arch="gemma3", extra=extra), ref="g")
    assert (f.sliding_window, f.sliding_pattern) == (512, expected)


def test_window_that_the_engine_ignores(tmp_path: Path) -> None:
    f = facts(llama_like(tmp_path / "g.gguf", extra={"llama.attention.sliding_window": 512}), ref="g")
    assert f.sliding_window is None


def test_unknown_architecture_is_exact_in_sizes_only(tmp_path: Path) -> None:
    f = facts(llama_like(tmp_path / "u.gguf", arch="banana"), ref="u")
    assert f.confidence == "low"
    assert "unknown architecture banana" in f.notes[0]


def test_experts(tmp_path: Path) -> None:
    meta = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 4,
        "llama.feed_forward_length": 128,
        "llama.expert_count": 8,
        "llama.expert_used_count": 2,
    }
    shapes: list[tuple[str, tuple[int, ...], str]] = [("token_embd.weight", (100, 64), "f16")]
    shapes += [("blk.0.ffn_up.weight", (128, 64), "f16"), ("blk.1.ffn_gate_inp.weight", (8, 64), "f32")]
    shapes += [("blk.1.ffn_up_exps.weight", (8, 128, 64), "f16")]
    f = facts(write_gguf(tmp_path / "moe.gguf", meta, shapes), ref="moe")
    assert (f.experts, f.experts_used, f.expert_intermediate, f.dense_layers) == (8, 2, 128, 1)
    assert f.params - f.active_params == 6 * 128 * 64
    assert f.tie_embeddings


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"llama.block_count": 10**9}, "1000000000"),
        ({"llama.block_count": "2"}, "block_count"),
        ({"llama.block_count": 1}, "blk.1"),
        ({"llama.embedding_length": 0}, "embedding_length"),
        ({"general.architecture": ""}, "general.architecture"),
    ],
)
def test_metadata_out_of_range(tmp_path: Path, extra: dict[str, Any], words: str) -> None:
    with pytest.raises(AdvisorError) as e:
        facts(llama_like(tmp_path / "m.gguf", extra=extra), ref="m")
    assert e.value.code == "untrusted-model-header"
    assert words in e.value.message


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"general.type": "adapter"}, "base model"),
        ({"general.type": "mmproj"}, "language model"),
        ({"general.type": "imatrix"}, "importance matrix"),
    ],
)
def test_files_that_are_only_a_part(tmp_path: Path, extra: dict[str, Any], words: str) -> None:
    with pytest.raises(AdvisorError) as e:
        facts(llama_like(tmp_path / "m.gguf", extra=extra), ref="m")
    assert (e.value.code, e.value.exit_code) == ("missing-part", 4)
    assert words in e.value.message


def split(folder: Path, *, parts: int = 3, **changes: Any) -> list[Path]:
    whole = llama_like(folder / "whole.gguf")
    loaded = load(whole)
    every = [(t.name, t.shape, t.gguf_type or "") for t in loaded.tensors]
    whole.unlink()
    out = []
    for i in range(parts):
        meta: dict[str, Any] = {"split.no": i, "split.count": parts, "split.tensors.count": len(every)}
        if i == 0:
            meta = {**{k: v for k, v in loaded.header.metadata.items() if isinstance(v, int | str | float)}, **meta}
        meta.update(changes)
        path = folder / f"big-{i + 1:05d}-of-{parts:05d}.gguf"
        out.append(write_gguf(path, meta, every[i::parts]))
    return out


def test_any_part_stands_for_the_whole(tmp_path: Path) -> None:
    parts = split(tmp_path)
    f = facts(parts[2], ref="big")
    assert f.params == 1_344_768
    assert f.path == str(parts[0])
    assert f.weights_bytes == sum(p.stat().st_size for p in parts)
    assert len(tensors(f)) == 21


def test_missing_parts_are_named(tmp_path: Path) -> None:
    parts = split(tmp_path)
    parts[1].unlink()
    with pytest.raises(AdvisorError) as e:
        facts(parts[0], ref="big")
    assert e.value.code == "missing-part"
    assert "big-00002-of-00003.gguf" in e.value.message
    assert e.value.data == {"missing": ["big-00002-of-00003.gguf"]}


def test_renamed_part_is_noticed(tmp_path: Path) -> None:
    part = split(tmp_path)[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(AdvisorError) as e:
        facts(part, ref="renamed")
    assert e.value.code == "missing-part"
    assert "3 parts" in e.value.message


@pytest.mark.parametrize(
    ("changes", "code"), [({"split.no": 7}, "untrusted-model-header"), ({"split.tensors.count": 99}, "missing-part")]
)
def test_parts_that_do_not_belong_together(tmp_path: Path, changes: dict[str, int], code: str) -> None:
    parts = split(tmp_path, **changes)
    with pytest.raises(AdvisorError) as e:
        facts(parts[0], ref="big")
    assert e.value.code == code


def test_absurd_part_numbers(tmp_path: Path) -> None:
    with pytest.raises(AdvisorError) as e:
        facts(tmp_path / "big-00000-of-99999.gguf", ref="big")
    assert e.value.code == "untrusted-model-header"


def test_file_without_tensors(tmp_path: Path) -> None:
    raw, _ = header({"general.architecture": "llama"}, [])
    (tmp_path / "vocab.gguf").write_bytes(raw)
    with pytest.raises(AdvisorError) as e:
        facts(tmp_path / "vocab.gguf", ref="vocab")
    assert e.value.code == "missing-part"


def test_dominant_type() -> None:
    assert dominant({"q4_k": 60, "q6_k": 40}) == "q4_k"
    assert dominant({"q4_k": 40, "q6_k": 30, "f16": 30}) == "mixed"
    assert dominant({}) is None
