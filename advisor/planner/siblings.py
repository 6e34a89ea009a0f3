"""Smaller models of the same family, the largest first: what to take where a model itself does not fit."""

from __future__ import annotations

import re
from typing import Final

from advisor.facts.model import ModelFacts
from advisor.planner.generations import generation

_SIZE: Final = re.compile(r"(?:\d+x)?\d+(?:\.\d+)?[bmk]|[ae]\d+(?:\.\d+)?b|\d+e")
_VERSION: Final = re.compile(r"v?\d+(?:\.\d+)*|\d{4}")
_SIZE_WORDS: Final = ("nano", "micro", "tiny", "mini", "small", "medium", "large", "super", "ultra")
_SEPARATORS: Final = re.compile(r"[-_ ]+")
_LETTERS: Final = re.compile(r"([a-z]+)v?\d+(?:\.\d+)*")
_MAKERS: Final = ("meta-",)
# A sibling is this much smaller at least: below that it would hardly fit where the model does not.
_SMALLER: Final = 0.9
# Sizes that are published most, dense and mixtures of experts, for a model that is named by its size alone.
_SIZES: Final = ("70B", "32B", "14B", "8B", "3B", "1B", "0.5B")
_MIXTURES: Final = ("671B:37B", "235B:22B", "120B:5B", "30B:3B")


def kin(ref: str) -> frozenset[str]:
    """What siblings' names share: the words without sizes and versions (``{"llama", "instruct"}``)."""
    name = ref.lower().rpartition("/")[2]
    for maker in _MAKERS:
        name = name.removeprefix(maker)
    out = set()
    for token in _SEPARATORS.split(name):
        if token in _SIZE_WORDS or _SIZE.fullmatch(token) or _VERSION.fullmatch(token):
            continue
        found = _LETTERS.fullmatch(token)
        out.add(found[1] if found is not None else token)
    return frozenset(out)


def siblings(model: ModelFacts) -> tuple[ModelFacts, ...]:
    """Bundled models of the same maker and family that are smaller, or typical models of smaller sizes for a bare size.

    Largest first; of one size the newest.
    """
    from advisor.model import bundled, sizes

    if model.kind == "size":
        ladder = _SIZES if model.active_params >= 0.75 * model.params else (*_MIXTURES, *_SIZES)
        smaller = [f for word in ladder if (f := sizes.facts(word)).params < _SMALLER * model.params]
        return tuple(sorted(smaller, key=lambda f: (-f.params, f.ref)))
    found = bundled.find(model.ref) or bundled.find(model.name)
    if found is None:
        return ()
    own = found.hub_id
    mine, words = generation(own), kin(own)
    alike = [
        (entry.params, generation(ref).number, ref)
        for ref, entry in bundled.listed().items()
        if entry.params < _SMALLER * model.params
        and "/" in ref
        and generation(ref).family == mine.family
        and kin(ref) == words
    ]
    same = [e for e in alike if int(e[1]) == int(mine.number)]  # of another generation only where there is no other
    alike = sorted(same or alike, key=lambda e: (-e[0], -e[1], e[2]))
    kept: list[ModelFacts] = []
    for params, _, ref in alike:
        if kept and params > 0.97 * kept[-1].params:
            continue
        facts = bundled.get(ref)
        if facts is not None:
            kept.append(facts)
    return tuple(kept)
