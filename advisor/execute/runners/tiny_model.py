"""What the health checks of the checkpoint backends share: a tiny random model, and which devices torch sees.

Imported by runners only; imports its environment's torch, transformers and tokenizers inside functions.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import protocol

WIDTH = 128
LAYERS = 2
_SPECIAL = ["<unk>", "<s>", "</s>"]
_NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
TEXT = "the cat sat on the mat and then it saw the old dog near the river by the red house"
WORDS = [*_SPECIAL, *_NUMBERS, *sorted(set(TEXT.split()))]


def write(folder: Path, *, dtype: str = "float16", width: int = WIDTH) -> int:
    """Write a random Llama of two layers with a word tokenizer to ``folder``; number of its linear modules.

    Widths are multiples of 128, so that the usual group sizes divide them.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=LAYERS,
        num_attention_heads=width // 32, num_key_value_heads=width // 64, max_position_embeddings=256, bos_token_id=1,
        eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    words = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "model_max_length": 256,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(words), encoding="utf-8")
    return 7 * LAYERS


def samples(number: int, length: int) -> list[list[int]]:
    """Token ids for calibration, ``number`` pieces of ``length``, each another part of the same text."""
    known = [WORDS.index(w) for w in TEXT.split()]
    return [[known[(3 * n + i) % len(known)] for i in range(length)] for n in range(number)]


def devices(variant: str) -> list[str]:
    """What torch sees, ``cpu`` always.

    Raises:
        protocol.Failed: the environment was made for devices that torch does not see.
    """
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    wanted = {"cuda": torch.version.cuda, "rocm": torch.version.hip}
    if variant in wanted:
        if wanted[variant] is None:
            raise protocol.Failed(
                "env-failed",
                f"The package index gave torch {torch.__version__}, a build without {variant.upper()}: point pip at "
                f"PyTorch's builds for {variant.upper()}.",
            )
        if len(found) == 1:
            raise protocol.Failed(
                "env-failed", f"torch {torch.__version__} is built for {variant.upper()}, but it sees no such device."
            )
    return found


def packed(folder: Path) -> int:
    """Number of tensors of the safetensors files in ``folder`` that hold packed integers.

    Raises:
        protocol.Failed: there is no such file, or a pickle beside it.
    """
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    pickles = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
    if not files or pickles:
        raise protocol.Failed("env-failed", f"Saved without safetensors or with pickles: {pickles or 'no weights'}.")
    count = 0
    for path in files:
        with safe_open(path, "pt") as tensors:
            count += sum(tensors.get_slice(n).get_dtype() in ("I8", "U8", "I32") for n in tensors.keys())  # noqa: SIM118
    return count


def report(names: tuple[str, ...], started: float, variant: str, **more: Any) -> dict[str, Any]:
    """The result of a health check: versions, devices, seconds since ``started`` (monotonic), peak memory in bytes."""
    return {
        "versions": {n: metadata.version(n) for n in names},
        "devices": devices(variant),
        "seconds": round(time.monotonic() - started, 1),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        **more,
    }
