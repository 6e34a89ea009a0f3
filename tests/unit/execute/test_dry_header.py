"""Metadata of headers without weights: what the engine wants for each kind of architecture."""

from __future__ import annotations

from typing import Any

import pytest

from advisor.execute.dry_header import header
from advisor.execute.oracle import dry_request
from advisor.execute.runners import gguf_min
from advisor.facts.plan import Settings
from advisor.model.gguf import read_header
from advisor.model.tensors import computed
from tests.support.architectures import FIXTURES, facts


def keys(name: str) -> dict[str, Any]:
    model = facts(name)
    found = header(model, computed(model))
    assert found["general.architecture"] == model.architecture
    return {k.removeprefix(f"{model.architecture}."): v for k, v in found.items()}


def test_heads_are_listed_where_layers_differ() -> None:
    granite = keys("ibm-granite/granite-4.0-h-tiny")
    assert granite["attention.head_count_kv"].count(4) == 4
    assert granite["attention.head_count_kv"].count(0) == 36
    assert granite["ssm.inner_size"] == 3072
    nemotron = keys("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")
    heads, networks = nemotron["attention.head_count_kv"], nemotron["feed_forward_length"]
    assert len(heads) == len(networks) == nemotron["block_count"]
    assert not any(h and n for h, n in zip(heads, networks, strict=True))
    gemma = keys("google/gemma-4-31b-it")
    assert gemma["attention.head_count_kv"][:6] == [16, 16, 16, 16, 16, 4]
    assert gemma["attention.sliding_window_pattern"][:6] == [True, True, True, True, True, False]
    assert gemma["attention.value_length_swa"] == 256
    assert keys("meta-llama/Llama-3.1-8B-Instruct")["attention.head_count_kv"] == 8


def test_layers_that_read_anothers_cache() -> None:
    small = keys("google/gemma-4-E2B-it")
    assert small["attention.shared_kv_layers"] == 20
    assert len(small["attention.sliding_window_pattern"]) == 35
    assert all(heads > 0 for heads in small["attention.head_count_kv"])


def test_an_activation_with_parameters_has_them_by_layer() -> None:
    model = facts("swiss-ai/Apertus-8B-Instruct-2509")
    found = header(model)
    for name in ("alpha_n", "alpha_p", "beta", "eps"):
        assert len(found[f"xielu.{name}"]) == model.layers


def test_recurrent_layers_and_blocks_ahead() -> None:
    found = keys("Qwen/Qwen3.5-9B")
    assert found["block_count"] == 33
    assert found["nextn_predict_layers"] == 1
    assert found["attention.recurrent_layers"] == [True, True, True, False] * 8 + [False]
    assert found["rope.dimension_sections"] == [11, 11, 10, 0]
    assert found["rope.dimension_count"] == 64


def test_routers_that_are_corrected_use_the_sigmoid() -> None:
    assert keys("LiquidAI/LFM2-8B-A1B")["expert_gating_func"] == 2
    assert keys("Qwen/Qwen3-30B-A3B")["expert_gating_func"] == 1


@pytest.mark.parametrize("name", sorted({f.model for f in FIXTURES}))
def test_what_is_written_is_read_again(name: str, tmp_path: Any) -> None:
    request = dry_request(facts(name), "q8_0", Settings(context=4096))
    tensors = [(n, tuple(shape), kind) for n, shape, kind in request["tensors"]]
    gguf_min.write_sparse(tmp_path / "dry.gguf", request["metadata"], tensors)
    found = read_header(tmp_path / "dry.gguf")
    assert [t.name for t in found.tensors] == [n for n, _, _ in tensors]
    for key, value in request["metadata"].items():
        seen = found.metadata[key]
        assert (list(seen) if isinstance(value, list) else seen) == pytest.approx(value), key
