"""Types of named tensors that a person asks for (``ffn_down=q6_k``): read, and held against a model's tensors.

Names are regular expressions that are found in a tensor's name, as ``llama-quantize --tensor-type`` takes them. Which
of two patterns wins is promised nowhere; so two that disagree about a tensor are refused, and their order says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from advisor.cost.gguf_mix import makes_imatrix, quantized, split
from advisor.cost.gguf_rules import DEFAULTS
from advisor.errors import AdvisorError, did_you_mean
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.text import clean, shell_word
from advisor.facts.words import mixed

# MXFP4 is what experts were published in; no other weights are made of it.
TYPES: Final = tuple(sorted(set(DEFAULTS.values()) - {"mxfp4"}))
_WHOLE: Final = ("f16", "bf16", "f32", "mxfp4")
# llama-quantize lowers names, which turns \S into \s; a comma separates names in a format's word.
_NAME: Final = re.compile(r"[a-z0-9_.\-\[\](){}|*+?^$\\]+")
_EXAMPLE: Final = "ffn_down=q6_k"
_SHOWN: Final = 24


def read(words: Sequence[str], model: str) -> tuple[str, ...]:
    """``NAME=TYPE`` words in one spelling and order, each once. ``model``: as it was named, for hints.

    Raises:
        AdvisorError: ``bad-option`` for what is not of that form, an unknown type, or a name that is no pattern.
    """
    out = set()
    for word in words:
        name, equals, kind = word.strip().rpartition("=")
        name, kind = name if "\\" in name else name.lower(), kind.lower()
        if not equals or not _NAME.fullmatch(name):
            raise _bad(f'"{clean(word, 80)}" does not name tensors and their type, as {_EXAMPLE} does.', model)
        if kind not in TYPES:
            near = did_you_mean(kind, list(TYPES))
            known = f"types: {', '.join(TYPES)}"
            raise _bad(f'"{clean(kind, 40)}" is no type that tensors are given.{near}', model, known)
        out.add(f"{name}={kind}")
    found = tuple(sorted(out))
    split(mixed("q4_k_m", found))  # refuses what is no regular expression
    return found


def check(model: ModelFacts, tensors: Sequence[TensorSpec], method: str, fmt: str, types: Sequence[str]) -> None:
    """Refuse types of named tensors that mean nothing for this model in ``fmt`` of ``method``.

    Raises:
        AdvisorError: ``contradictory-options`` where nothing is quantized to GGUF types, or where two names disagree
            about a tensor; ``bad-option`` for a name in no tensor that is quantized.
    """
    if not types:
        return
    if method != "gguf" or fmt in _WHOLE:
        what = "16-bit files are converted, and MXFP4 is kept as it was published" if method == "gguf" else "not GGUF"
        raise AdvisorError(
            "contradictory-options",
            f"--tensor-type does not go with {fmt}: {what}.",
            hint=f"advisor quantize {shell_word(model.ref)} --format q4_k_m --tensor-type {shell_word(types[0])}",
        )
    names = [t.name for t in quantized(tensors)]  # none: they are known once the weights are here
    patterns = split(mixed(fmt, tuple(types)))[1]
    for pattern, _ in patterns:
        if names and not any(pattern.search(name) for name in names):
            kinds = sorted({re.sub(r"^blk\.\d+\.|\.weight$", "", name) for name in names})
            near = did_you_mean(pattern.pattern, kinds)
            listed = ", ".join(kinds[:_SHOWN]) + (", ..." if len(kinds) > _SHOWN else "")
            raise _bad(
                f'"{clean(pattern.pattern, 80)}" is in the name of no tensor that is quantized.{near}',
                model.ref,
                f"tensors of {clean(model.name, 80)}: {clean(listed, 800)}",
            )
    for name in names:
        wanted = {kind: pattern.pattern for pattern, kind in patterns if pattern.search(name)}
        if len(wanted) > 1:
            both = " and by ".join(f"{clean(p, 60)}={kind}" for kind, p in sorted(wanted.items()))
            raise AdvisorError(
                "contradictory-options",
                f"{clean(name, 80)} is named by {both}.",
                context=("llama.cpp does not promise which one wins: name each tensor once.",),
                hint=f"advisor quantize {shell_word(model.ref)} --format {fmt} --tensor-type {shell_word(types[0])}",
            )


def wants_imatrix(fmt: str) -> bool:
    """Whether an importance matrix is made when nobody says; ``fmt`` with or without types of named tensors."""
    base, own = split(fmt)
    return makes_imatrix(base) or any(makes_imatrix(kind) for _, kind in own)


def _bad(message: str, model: str, *context: str) -> AdvisorError:
    hint = f"advisor quantize {shell_word(model)} --format q4_k_m --tensor-type {_EXAMPLE}"
    return AdvisorError("bad-option", message, context=context, hint=hint)
