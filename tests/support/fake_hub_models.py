"""Small models for the fake hub: true headers, and bodies of random bytes, so that a mixed-up order shows."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from advisor.execute.hub import access
from advisor.execute.hub.access import Patience
from tests.support.gguf_writer import llama_like
from tests.support.safetensors_writer import llama_tensors, write_safetensors

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
QUICK = Patience(
    reply_s=2.0,
    window_s=1.0,
    window_bytes=16 << 10,
    document_s=5.0,
    tries=4,
    first_wait_s=0.01,
    most_wait_s=0.05,
    longest_wait_s=2.0,
)


def noise(path: Path, seed: int = 0) -> Path:
    """Fill the body of a safetensors or GGUF file with random bytes; its header stays."""
    from advisor.model import gguf, safetensors

    start = (gguf if path.suffix == ".gguf" else safetensors).read_header(path).data_offset
    size = path.stat().st_size - start
    with path.open("r+b") as f:
        f.seek(start)
        f.write(random.Random(seed).randbytes(size))
    return path


def checkpoint(folder: Path, *, shards: int = 0, seed: int = 0, ff: int = 128) -> Path:
    """A checkpoint of a small Llama: configuration, tokenizer stub, and weights in one file or in shards."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "intermediate_size": ff}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "generation_config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    tensors = llama_tensors(layers=2, hidden=64, heads=4, kv_heads=2, ff=ff, vocab=320, tied=True)
    if not shards:
        noise(write_safetensors(folder / "model.safetensors", tensors), seed)
        return folder
    names = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    placed = {t: names[i % shards] for i, t in enumerate(tensors)}
    for i, name in enumerate(names):
        mine = {t: tensors[t] for t in tensors if placed[t] == name}
        noise(write_safetensors(folder / name, mine), seed + i)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return folder


def gguf(path: Path, types: str = "f16", name: str = "small", seed: int = 0, **shape: Any) -> Path:
    """A GGUF file of a small Llama."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return noise(llama_like(path, types=types, name=name, vocab=320, sparse=False, **shape), seed)


def quantized(path: Path, types: str = "q8_0", **shape: Any) -> Path:
    """A GGUF file of the model that ``checkpoint`` writes."""
    like = {"layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2, "ff": 128, "tied": True}
    return gguf(path, types, **{**like, **shape})


@contextmanager
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Wait for nothing long."""
    monkeypatch.setattr(access, "TRANSFER", QUICK)
    monkeypatch.setattr(access, "BRIEF", QUICK)
    yield


def no_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever token the user of this machine has is none of these tests' business."""
    for name in list(os.environ):
        if name.startswith("HF_") or name == "HUGGING_FACE_HUB_TOKEN":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf home"))
