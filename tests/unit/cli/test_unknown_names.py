"""Words that nothing is called: an answer with what is near, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from advisor.api import listing

from .conftest import Outcome

Advise = Callable[..., Outcome]


@pytest.mark.parametrize(
    ("option", "word", "near"),
    [
        ("--method", "awqq", "awq"),
        ("--format", "q4_k", "q4_k_m"),
        ("--runtime", "vlm", "vllm"),
        ("--kv-type", "q8", "q8_0"),
        ("--quantizer", "llmcompresor", "llmcompressor"),
        ("--goal", "chatt", "chat"),
        ("--hardware", "rtx-3099", "rtx-3090"),
    ],
)
def test_an_unknown_name_is_exit_4_with_near_misses(
    advise: Advise, fake: Callable[..., None], option: str, word: str, near: str
) -> None:
    from advisor.api.planning import recommend

    fake(recommend=recommend)
    done = advise("recommend", "8B", option, word)
    assert done.code == 4, done.err
    assert f"{word!r}" in done.err or f'"{word}"' in done.err
    assert f'"{near}"' in done.err
    document = json.loads(advise("recommend", "8B", option, word, "--json").out)
    assert document["schema"] == "advisor/recommend/v1"
    assert document["error"]["code"].endswith("-not-found")


def test_an_unknown_format_lists_each_known_one_once(advise: Advise) -> None:
    known = json.loads(advise("recommend", "8B", "--format", "q9", "--json").out)["error"]["data"]["known"]
    assert len(known) == len(set(known)) > 20


@pytest.mark.parametrize("words", [("--format", "q9"), ("--method", "x"), ("--quantizer", "llama.cop")])
def test_quantize_knows_the_same_names(advise: Advise, fake: Callable[..., None], words: tuple[str, str]) -> None:
    from advisor.api.artifacts import quantize

    fake(quantize=quantize)
    assert json.loads(advise("quantize", "8B", *words, "--json").out)["error"]["code"] == "word-not-found"


def test_hardware_is_found_by_alias_and_name(advise: Advise, fake: Callable[..., None]) -> None:
    fake(hardware_show=listing.hardware_show)
    for word in ("RTX 4090", "nvidia geforce rtx 4090"):
        assert json.loads(advise("hardware", "show", word, "--json").out)["data"]["hardware"]["id"] == "rtx-4090"
    done = advise("hardware", "show", "rtx-4099")
    assert done.code == 4
    assert 'Did you mean "rtx-4090"' in done.err


def test_a_list_without_entries_says_so(advise: Advise, fake: Callable[..., None]) -> None:
    fake(hardware=listing.hardware)
    done = advise("hardware", "list", "no-such-word")
    assert done.code == 0
    assert "No known hardware is like that." in done.out
