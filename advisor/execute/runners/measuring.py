"""What the measuring runners have in common: the request, the text, the order of work, the result.

Request: ``{"model": folder, "recipe": {...} or null, "text": file, "chunks": n, "context": 512, "prompts": [...],
"max_tokens": n, "choices": [{"prompt", "choices": [...]}], "threads": n, "device": "cpu" | "cuda", "dtype": "auto",
"reference": file or null, "write": file or null}``. One model a process; ``write`` keeps what ``reference`` reads.

As llama-perplexity does it: chunks of ``context`` tokens that do not overlap, the first token replaced by the begin
token where the tokenizer adds one, and only the second half of each chunk scored.

Result: ``{"perplexity", "kld", "kld_max", "top1_agreement", "positions", "chunks", "non_finite", "prompts": [answers],
"choices": [[[log-likelihood, tokens, bytes], ...]], "blocks": {name: root of the mean square of its output},
"loaded": {"bytes", "dtype", "modules": {kind: count}, "quantized": matrices, "kept": [names of matrices in floating
point], "versions"}, "decode_tokens_per_s", "peak_bytes", "load_seconds",
"seconds", "kept_bytes"}``; ``kld`` and ``top1_agreement`` are null without a reference.
"""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import protocol
import scores

# Attention and feed-forward blocks under the names that model families give a layer's parts.
_PART = re.compile(r"(?:^|\.)((?:layers|h|blocks)\.\d+\.[A-Za-z_]+)$")


class Engine(Protocol):
    """A loaded model. ``model`` is its torch module."""

    vocab: int
    bos: int | None  # the token that the tokenizer puts first, where it does

    def encode(self, text: str) -> list[int]:
        """Token ids, special tokens included."""

    def logits(self, tokens: list[int], first: int) -> Any:
        """Logits (len(tokens) - 1 - first, vocabulary) in float32: row i is what follows ``tokens[first + i]``."""

    def answer(self, tokens: list[int], limit: int) -> tuple[str, int, int]:
        """Greedy continuation: its text, its number of tokens, logits that were not finite."""

    def facts(self) -> dict[str, Any]:
        """What was really loaded: ``loaded`` of the result."""

    def watch(self) -> Watch:
        """Sizes of what the parts of the model put out."""


class Watch:
    """Root of the mean square of what each attention and feed-forward block puts out while ``on``."""

    def __init__(self, model: Any) -> None:
        self.on = False
        self._sums: dict[str, tuple[float, int]] = {}
        for name, module in model.named_modules():
            found = _PART.search(name)
            if found and next(module.children(), None) is not None:
                module.register_forward_hook(self._hook(found[1]))

    def _hook(self, name: str) -> Any:
        def hook(_module: Any, _args: Any, out: Any) -> None:
            if not self.on:
                return
            tensor = out[0] if isinstance(out, (tuple, list)) else out
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + float((tensor.detach().float() ** 2).sum()), count + tensor.numel())

        return hook

    def result(self) -> dict[str, float]:
        """By the block's name; sizes that are not finite are left out."""
        found = {name: (total / count) ** 0.5 for name, (total, count) in self._sums.items() if count}
        return {name: value for name, value in found.items() if value == value and value < float("inf")}


def use_threads(request: dict[str, Any]) -> int:
    """Worker threads of this process, told to the libraries before they are imported."""
    threads = int(request.get("threads") or os.cpu_count() or 1)
    os.environ.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    return threads


@contextmanager
def memory() -> Iterator[None]:
    """Say in one word that a device's memory did not suffice, whichever library found out.

    Raises:
        Failed: ``out-of-memory``.
    """
    try:
        yield
    except Exception as e:
        said = str(e)
        if type(e).__name__ == "OutOfMemoryError" or "out of memory" in said or "less than desired GPU memory" in said:
            raise protocol.Failed("out-of-memory", f"The model does not fit: {said[:300]}") from e
        raise


def peak_bytes() -> int:
    """The most memory that this process held; on a GPU, what torch held there."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def measure(engine: Engine, request: dict[str, Any], started: float) -> dict[str, Any]:
    """Score all chunks, answer all prompts, weigh all choices.

    Raises:
        Failed: ``bad-option`` for a text or a question of the wrong length, ``artifact-invalid`` where the reference is
            not of the same tokens.
    """
    import numpy as np

    load_seconds = time.monotonic() - started
    n, wanted = int(request["context"]), int(request["chunks"])
    limit = int(request.get("max_tokens", 32))
    tokens = engine.encode(Path(request["text"]).read_text(encoding="utf-8"))
    chunks = min(wanted, len(tokens) // n)
    if chunks < 1:
        raise protocol.Failed("bad-option", f"The text has {len(tokens)} tokens; one chunk takes {n}.")
    pieces = [tokens[i * n : (i + 1) * n] for i in range(chunks)]
    if engine.bos is not None:
        for piece in pieces:
            piece[0] = engine.bos
    told = {"tokens": scores.digest([t for piece in pieces for t in piece]), "context": n, "chunks": chunks}
    reference = _reference(request, told, engine.vocab)
    prompts, questions = list(request.get("prompts") or []), list(request.get("choices") or [])
    total = chunks + len(prompts) + len(questions)
    rows = n - 1 - n // 2
    keep = scores.Kept.empty(chunks * rows, engine.vocab) if request.get("write") else None
    sums = scores.Sums(reference, keep)
    watch = engine.watch()

    def tell(done: int) -> None:
        protocol.progress(done, total, "pieces", f"{time.monotonic() - started:.0f} s", force=True)

    for i, piece in enumerate(pieces):
        watch.on = i == 0
        sums.add(engine.logits(piece, n // 2), np.array(piece[n // 2 + 1 :], dtype=np.int64))
        watch.on = False
        tell(i + 1)
    answers, made, spent = [], 0, 0.0
    for j, prompt in enumerate(prompts):
        at = time.monotonic()
        text, count, bad = engine.answer(engine.encode(prompt)[:n], limit)
        # Short prompts: what is long about the others is reading them.
        if len(prompt) < 200 and count:
            made, spent = made + count, spent + time.monotonic() - at
        sums.non_finite += bad
        answers.append(text)
        tell(chunks + j + 1)
    choices = []
    for j, question in enumerate(questions):
        choices.append([weigh(engine, question["prompt"], c, n) for c in question["choices"]])
        tell(chunks + len(prompts) + j + 1)
    kept_bytes = keep.save(Path(request["write"]), told) if keep is not None else None
    return {
        **sums.result(),
        "chunks": chunks,
        "prompts": answers,
        "choices": choices,
        "blocks": watch.result(),
        "loaded": engine.facts(),
        "decode_tokens_per_s": round(made / spent, 3) if spent else None,
        "peak_bytes": peak_bytes(),
        "load_seconds": round(load_seconds, 3),
        "seconds": round(time.monotonic() - started, 3),
        "kept_bytes": kept_bytes,
    }


def weigh(engine: Any, prompt: str, choice: str, room: int) -> list[Any]:
    """``[log-likelihood or null, tokens, bytes]`` of a choice after its prompt.

    Raises:
        Failed: ``bad-option``, it is longer than ``room`` tokens.
    """
    option = scores.option(engine.encode, prompt, choice)
    if len(option.tokens) > room:
        raise protocol.Failed(
            "bad-option", f"A question and its choice take {len(option.tokens)} tokens; there is room for {room}."
        )
    logits = engine.logits(option.tokens, option.first - 1)
    scored = option.tokens[option.first :]
    return [scores.log_likelihood(logits, scored), len(scored), option.length]


def _reference(request: dict[str, Any], told: dict[str, Any], vocab: int) -> scores.Kept | None:
    if not request.get("reference"):
        return None
    reference = scores.Kept.load(Path(request["reference"]))
    if reference.meta.get("vocab") != vocab:
        raise protocol.Failed(
            "artifact-invalid",
            f"The original has {reference.meta.get('vocab')} tokens, the artifact {vocab}: not one model.",
        )
    if any(reference.meta.get(k) != v for k, v in told.items()):
        raise protocol.Failed("artifact-invalid", "The original and the artifact do not share a tokenizer.")
    return reference
