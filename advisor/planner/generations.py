"""What a model's name tells: which family it is of, which generation, and whether it is made for something special.

Bundled facts have no dates and no benchmarks, but makers number their models: of one family the newest of about a size
stands for the older ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

_TOKENS: Final = re.compile(r"[-_ ]+")
_NUMBERED: Final = re.compile(r"([a-z]*?)v?(\d+(?:\.\d+)?)(?![\d.]*[bmx])")
_DATED: Final = re.compile(r"2\d(?:0[1-9]|1[0-2])")  # 2409: September 2024
_TRAINED: Final = ("instruct", "chat", "it")
_MAKERS: Final = ("meta-", "nvidia-", "mistral-community-")
_CODE: Final = re.compile(r"(?:^|[-_/])code(?:r)?(?:[-_\d.]|$)|codellama|starcoder|devstral|codestral")
_OTHER: Final = re.compile(r"(?:^|[-_/])(?:vl|vision|math|ocr|guard|embedding|reranker|base)(?:[-_\d.]|$)")


class Generation(NamedTuple):
    """``family`` is the maker and the name up to its number; ``number`` is 0 for a name without one, and below 1 for a
    name with a date alone, so that any numbered model of the family is newer."""

    family: str
    number: float


def generation(ref: str) -> Generation:
    """``Generation("qwen/qwen", 2.5)`` of ``Qwen/Qwen2.5-7B-Instruct``; sizes (``7B``, ``8x7B``) do not count.

    ``Generation("mistralai/mistral-small", 0.2409)`` of ``mistralai/Mistral-Small-Instruct-2409``.
    """
    owner, _, name = ref.lower().rpartition("/")
    for maker in _MAKERS:
        name = name.removeprefix(maker)
    stem: list[str] = []
    tokens = _TOKENS.split(name)
    for token in tokens:
        if stem and token in _TRAINED:
            continue
        found = _NUMBERED.match(token)
        if found is not None and not (stem and _DATED.fullmatch(token)):
            return Generation(f"{owner}/{'-'.join([*stem, found[1]]).strip('-')}", float(found[2]))
        if any(c.isdigit() for c in token):
            break
        stem.append(token)
    dates = [int(token) for token in tokens[1:] if _DATED.fullmatch(token)]
    return Generation(f"{owner}/{'-'.join(stem)}", max(dates, default=0) / 10_000)


def is_special(ref: str, goal: str) -> bool:
    """Whether the name says that the model is made for something else than ``goal``: for code where the goal is not
    coding, for pictures, mathematics or moderation, or to be trained further."""
    name = ref.lower()
    return _OTHER.search(name) is not None or (goal != "coding" and _CODE.search(name) is not None)


def newest(refs: Sequence[str], class_of: Mapping[str, str]) -> frozenset[str]:
    """Of each family and size class the models of the highest number."""
    highest: dict[tuple[str, str, bool], float] = {}
    placed = []
    for ref in refs:
        found = generation(ref)
        key = (found.family, class_of[ref], _CODE.search(ref.lower()) is not None)
        highest[key] = max(highest.get(key, 0.0), found.number)
        placed.append((ref, key, found.number))
    return frozenset(ref for ref, key, number in placed if number == highest[key])
