"""What is computed of logits: log-probabilities, perplexity, KL divergence, what one process keeps for the next.

One model is loaded at a time, so the original's distributions are kept in a file: at each scored position the
likeliest ``KEEP`` tokens and the mass of all others as one more outcome. Merging outcomes never enlarges a divergence
(the log-sum inequality), so KL over them is a lower bound of KL over the whole vocabulary. What is lost of it
(SmolLM2-135M-Instruct, 49,152 tokens, 1,020 positions; NF4 .272 and INT8 .016 nats from 16 bits): 5.1 % with 256 tokens
kept, .9 % with 2048, .4 % with 4096, .1 % with 8192, of both. Rounding to float16 changes less than
1e-6. A position takes 16 KiB (24 KiB for vocabularies above 65,536 tokens), 2,550 of them 42 to 63 MB.

numpy only: nothing here knows a model.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

KEEP = 4096  # of the original's likeliest tokens at a position
BLOCK = 32  # rows at a time: bounds the copies to 32 * vocabulary * 8 bytes each


def log_softmax(block: Any) -> tuple[Any, Any]:
    """Log-probabilities and probabilities in float32 of a block of logits; sums are taken in float64."""
    import numpy as np

    x = block - block.max(axis=1, keepdims=True)
    p = np.exp(x)
    total = p.sum(axis=1, dtype=np.float64, keepdims=True)
    x -= np.log(total).astype(np.float32)
    p *= (1.0 / total).astype(np.float32)
    return x, p


def blocks(rows: int) -> list[slice]:
    """``rows`` in pieces of ``BLOCK``."""
    return [slice(first, min(first + BLOCK, rows)) for first in range(0, rows, BLOCK)]


def perplexity(nll: float, positions: int) -> float | None:
    """exp of the mean of ``nll`` nats over ``positions``; ``None`` where it is none or overflows."""
    mean = nll / positions if positions else math.inf
    return math.exp(mean) if mean < 700 else None


def digest(tokens: Sequence[int]) -> str:
    """SHA-256 of token ids: two models that read the same tokens have the same."""
    return hashlib.sha256(" ".join(map(str, tokens)).encode()).hexdigest()


class Kept:
    """The original's distributions: ``ids`` and ``logp`` (positions, kept), ``tail`` (positions) the logarithm of the
    mass of all other tokens (-inf where none are left)."""

    def __init__(self, ids: Any, logp: Any, tail: Any, meta: dict[str, Any]) -> None:
        self.ids, self.logp, self.tail, self.meta = ids, logp, tail, meta

    @classmethod
    def empty(cls, positions: int, vocab: int, keep: int = KEEP) -> Kept:
        """Room for ``positions`` distributions over ``vocab`` tokens."""
        import numpy as np

        keep = min(keep, vocab)
        return cls(
            np.zeros((positions, keep), dtype=np.uint16 if vocab <= 65536 else np.uint32),
            np.zeros((positions, keep), dtype=np.float16),
            np.zeros(positions, dtype=np.float32),
            {"vocab": vocab},
        )

    def put(self, at: int, logp: Any, p: Any) -> None:
        """Keep the distributions ``logp`` and ``p`` (rows, vocabulary) from position ``at`` on. ``p`` is used up."""
        import numpy as np

        keep, vocab = self.ids.shape[1], logp.shape[1]
        rows = np.arange(len(logp))[:, None]
        if keep < vocab:
            ids = np.argpartition(logp, vocab - keep, axis=1)[:, vocab - keep :]
        else:
            ids = np.broadcast_to(np.arange(vocab), logp.shape)
        to = slice(at, at + len(logp))
        self.ids[to] = ids
        # float16 ends at 6e4 nats and resolves 1e-3 of a likely token's logarithm: second order in a divergence.
        self.logp[to] = np.clip(logp[rows, ids], -60000.0, 0.0)
        p[rows, ids] = 0.0
        with np.errstate(divide="ignore"):
            self.tail[to] = np.log(p.sum(axis=1, dtype=np.float64))

    def divergence(self, at: int, logp: Any, p: Any) -> Any:
        """KL(kept || given) in nats at each row of ``logp`` and ``p`` (rows, vocabulary). ``p`` is used up."""
        import numpy as np

        where = slice(at, at + len(logp))
        ids = self.ids[where].astype(np.int64)
        rows = np.arange(len(logp))[:, None]
        ref = self.logp[where].astype(np.float64)
        tail = self.tail[where].astype(np.float64)
        # Rounded logarithms do not sum to one; what is compared must.
        total = np.log(np.exp(ref).sum(axis=1) + np.exp(tail))
        ref -= total[:, None]
        tail = tail - total
        got = logp[rows, ids].astype(np.float64)
        p[rows, ids] = 0.0
        rest = p.sum(axis=1, dtype=np.float64)
        head = (np.exp(ref) * (ref - got)).sum(axis=1)
        mass = np.exp(tail)
        # exp(-87) is the least float32: a tail that the model gives less than that counts as that.
        with np.errstate(invalid="ignore"):
            last = np.where(mass > 0, mass * (tail - np.log(np.maximum(rest, 1e-38))), 0.0)
        return head + last

    def save(self, path: Path, meta: dict[str, Any]) -> int:
        """Write all to an ``.npz`` file with ``meta`` as JSON; returns its bytes."""
        import numpy as np

        text = np.frombuffer(json.dumps({**self.meta, **meta}).encode(), dtype=np.uint8)
        np.savez(path, ids=self.ids, logp=self.logp, tail=self.tail, meta=text)
        return path.stat().st_size

    @classmethod
    def load(cls, path: Path) -> Kept:
        """Read what ``save`` wrote. Nothing pickled is read.

        Raises:
            ValueError: damaged.
            OSError: cannot be read.
        """
        import zipfile

        import numpy as np

        try:
            with np.load(path, allow_pickle=False) as f:
                return cls(f["ids"], f["logp"], f["tail"], json.loads(bytes(f["meta"])))
        except (KeyError, EOFError, zipfile.BadZipFile) as e:
            raise ValueError(f"{path.name} is damaged: {e}") from e


class Sums:
    """Running sums over the positions of one model, against what was kept of the original and into what is kept."""

    def __init__(self, reference: Kept | None = None, keep: Kept | None = None) -> None:
        self.reference, self.keep = reference, keep
        self.nll, self.kld, self.kld_max, self.same = 0.0, 0.0, 0.0, 0
        self.positions, self.non_finite = 0, 0

    def add(self, logits: Any, targets: Any) -> None:
        """Add logits (positions, vocabulary) in float32 and the token ids that came next."""
        import numpy as np

        for rows in blocks(len(targets)):
            block = logits[rows]
            at, n = self.positions, rows.stop - rows.start
            self.positions += n
            bad = int((~np.isfinite(block)).sum())
            self.non_finite += bad
            if bad:
                continue
            logp, p = log_softmax(block)
            self.nll -= float(logp[np.arange(n), targets[rows]].sum(dtype=np.float64))
            if self.keep is not None:
                self.keep.put(at, logp, p.copy())
            if self.reference is not None:
                ids = self.reference.ids[at : at + n]
                best = ids[np.arange(n), self.reference.logp[at : at + n].argmax(axis=1)]
                # Ties of rounded logits are no disagreement: the original's choice must be a likeliest one.
                same = logp[np.arange(n), best.astype(np.int64)] >= logp.max(axis=1)
                self.same += int(same.sum())
                kl = self.reference.divergence(at, logp, p)
                self.kld += float(kl.sum())
                self.kld_max = max(self.kld_max, float(kl.max()))

    def result(self) -> dict[str, Any]:
        """``perplexity``, ``kld``, ``kld_max``, ``top1_agreement`` (null where not to be had), ``positions`` and
        ``non_finite``."""
        usable = self.non_finite == 0 and self.positions > 0
        pair = usable and self.reference is not None
        return {
            "perplexity": perplexity(self.nll, self.positions) if usable else None,
            "kld": max(self.kld, 0.0) / self.positions if pair else None,
            "kld_max": self.kld_max if pair else None,
            "top1_agreement": self.same / self.positions if pair else None,
            "positions": self.positions,
            "non_finite": self.non_finite,
        }


class Option(NamedTuple):
    """One choice of a question as tokens: ``tokens[first:]`` is what is scored, ``length`` its bytes as text."""

    tokens: list[int]
    first: int
    length: int


def option(encode: Any, prompt: str, choice: str) -> Option:
    """Tokens of ``choice`` after ``prompt``, as evaluation harnesses take them: blanks at the end of the prompt belong
    to the choice, a choice that follows without one gets one, and what is scored starts where the tokens of the prompt
    alone end.

    ``encode``: text to token ids, special tokens included. A tokenizer may merge over the border: then the scored part
    starts where the two first differ.
    """
    stem = prompt.rstrip()
    gap = prompt[len(stem) :] or ("" if choice[:1].isspace() else " ")
    alone, whole = list(encode(stem)), list(encode(stem + gap + choice))
    first = 0
    while first < min(len(alone), len(whole)) and alone[first] == whole[first]:
        first += 1
    first = max(1, min(first, len(whole) - 1))
    return Option(whole, first, max(1, len(choice.strip().encode())))


def log_likelihood(logits: Any, tokens: Sequence[int]) -> float | None:
    """Sum of the log-probabilities in nats of ``tokens``, given the logits (len(tokens), vocabulary) before each;
    ``None`` where logits are not finite."""
    import numpy as np

    if not np.isfinite(logits).all():
        return None
    total = 0.0
    for rows in blocks(len(tokens)):
        logp, _ = log_softmax(logits[rows])
        total += float(logp[np.arange(len(logp)), np.array(tokens[rows])].sum(dtype=np.float64))
    return total
