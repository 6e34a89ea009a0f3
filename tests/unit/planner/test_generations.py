"""Names of models: family, generation, and what they are made for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.model import bundled
from advisor.planner.generations import generation, is_special, newest


@pytest.mark.parametrize(
    ("ref", "family", "number"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "qwen/qwen", 2.5),
        ("Qwen/Qwen3-0.6B", "qwen/qwen", 3.0),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "meta-llama/llama", 3.0),
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/llama", 3.1),
        ("google/gemma-2b-it", "google/gemma", 0.0),
        ("google/gemma-2-2b-it", "google/gemma", 2.0),
        ("google/gemma-3n-E2B-it", "google/gemma", 3.0),
        ("microsoft/phi-2", "microsoft/phi", 2.0),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistralai/mistral", 0.0),
        ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "mistralai/mistral-small", 3.2),
        ("mistralai/Mistral-Small-Instruct-2409", "mistralai/mistral-small", 0.2409),
        ("mistralai/Mistral-Nemo-Instruct-2407", "mistralai/mistral-nemo", 0.2407),
        ("mistralai/Ministral-8B-Instruct-2410", "mistralai/ministral", 0.241),
        ("mistralai/Mistral-Small-24B-Instruct-2501", "mistralai/mistral-small", 0.2501),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mistralai/mixtral", 0.0),
        ("tiiuae/Falcon-H1-7B-Instruct", "tiiuae/falcon-h", 1.0),
        ("deepseek-ai/DeepSeek-V3.2", "deepseek-ai/deepseek", 3.2),
        ("openai/gpt-oss-20b", "openai/gpt-oss", 0.0),
        ("phi", "/phi", 0.0),
    ],
)
def test_family_and_number(ref: str, family: str, number: float) -> None:
    assert generation(ref) == (family, number)


@given(st.text(max_size=80))
def test_any_name_has_a_family(ref: str) -> None:
    assert generation(ref).number >= 0


def test_of_a_family_and_size_the_newest_stays() -> None:
    refs = ["Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen3-8B", "Qwen/Qwen2.5-Coder-7B", "Qwen/Qwen2.5-0.5B", "a/Other-8B"]
    classes = dict(zip(refs, ["8B", "8B", "8B", "1B", "8B"], strict=True))
    assert newest(refs, classes) == frozenset(refs) - {"Qwen/Qwen2.5-7B-Instruct"}
    assert newest([], {}) == frozenset()


def test_a_date_is_older_than_a_number_and_than_a_later_date() -> None:
    small = ["mistralai/Mistral-Small-Instruct-2409", "mistralai/Mistral-Small-3.2-24B-Instruct-2506"]
    large = ["mistralai/Mistral-Large-Instruct-2407", "mistralai/Mistral-Large-Instruct-2411"]
    assert newest([*small, *large], dict.fromkeys((*small, *large), "32B")) == {small[1], large[1]}


def test_every_family_keeps_a_model_of_each_size() -> None:
    refs = bundled.names()
    kept = newest(refs, dict.fromkeys(refs, "8B"))
    assert {generation(r).family for r in kept} == {generation(r).family for r in refs}
    assert len(kept) < len(refs)


@pytest.mark.parametrize(
    ("ref", "goal", "special"),
    [
        ("Qwen/Qwen2.5-Coder-7B-Instruct", "chat", True),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", "coding", False),
        ("codellama/CodeLlama-7b-Instruct-hf", "chat", True),
        ("Qwen/Qwen3-VL-8B-Instruct", "coding", True),
        ("nvidia/Nemotron-H-56B-Base-8K", "chat", True),
        ("Qwen/Qwen3-8B", "chat", False),
        ("baseten/vlad-8B", "chat", False),
    ],
)
def test_what_a_model_is_made_for(ref: str, goal: str, special: bool) -> None:
    assert is_special(ref, goal) is special
