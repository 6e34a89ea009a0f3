"""Compare a model with its reference on text: perplexity, mean KL divergence, agreement of the likeliest token.

Request: ``{"models": [reference, artifact], "text": file, "chunks": n, "context": 512, "threads": n,
"prompts": [...], "max_tokens": n, "choices": [{"prompt", "choices": [...]}]}``. One model alone gives its perplexity
and answers.

As llama-perplexity does it: chunks of ``context`` tokens that do not overlap, the first token replaced by the begin
token where the model has one, and only the second half of each chunk scored. KL(reference || artifact) is over the
whole vocabulary in nats. Both models stay loaded and one chunk of logits of each exists at a time:
``context/2 * vocabulary * 4`` bytes each; terms are float32, sums float64.

Result: ``{"perplexity": [a, b], "kld", "kld_max", "top1_agreement", "positions", "chunks", "non_finite",
"prompts": [[reference answers], [artifact answers]], "choices": [[[[log-likelihood, tokens, bytes], ...], ...], ...],
"seconds"}``, choices by model, question and choice; ``kld`` and ``top1_agreement`` are null for one
model.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import llama_c
import protocol
import scores


class Sums:
    """Running sums over positions."""

    def __init__(self, models: int) -> None:
        self.nll = [0.0] * models
        self.kld, self.kld_max, self.same, self.positions, self.non_finite = 0.0, 0.0, 0, 0, 0

    def add(self, logits: list[Any], targets: Any) -> None:
        """Add one chunk: logits (positions, vocabulary) of each model and the token that came next."""
        import numpy as np

        self.positions += len(targets)
        for rows in scores.blocks(len(targets)):
            blocks = [x[rows] for x in logits]
            bad = sum(int((~np.isfinite(b)).sum()) for b in blocks)
            self.non_finite += bad
            if bad:
                continue
            logp = [scores.log_softmax(b) for b in blocks]
            index = np.arange(rows.stop - rows.start)
            for k, (p, _) in enumerate(logp):
                self.nll[k] -= float(p[index, targets[rows]].sum(dtype=np.float64))
            if len(logp) == 2:
                kl = (logp[0][1] * (logp[0][0] - logp[1][0])).sum(axis=1, dtype=np.float64)
                self.kld += float(kl.sum())
                self.kld_max = max(self.kld_max, float(kl.max()))
                self.same += int((blocks[0].argmax(axis=1) == blocks[1].argmax(axis=1)).sum())


def weigh(model: Any, prompt: str, choice: str, room: int) -> list[Any]:
    """``[log-likelihood or null, tokens, bytes]`` of a choice after its prompt.

    Raises:
        Failed: ``bad-option``, both take more than ``room`` tokens or the choice more than half of that.
    """
    option = scores.option(model.tokenize, prompt, choice)
    scored = option.tokens[option.first :]
    if len(option.tokens) > room or len(scored) > room // 2:
        raise protocol.Failed(
            "bad-option",
            f"A question and its choice take {len(option.tokens)} tokens, the choice {len(scored)}; there is room for "
            f"{room} and {room // 2}.",
        )
    model.forget()
    flags = [option.first - 1 <= i < len(option.tokens) - 1 for i in range(len(option.tokens))]
    return [scores.log_likelihood(model.decode(option.tokens, flags), scored), len(scored), option.length]


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Load, run all chunks, answer all prompts."""
    import numpy as np

    started = time.monotonic()
    paths = [Path(p) for p in request["models"]]
    n, wanted = int(request.get("context", 512)), int(request["chunks"])
    threads = int(request.get("threads") or os.cpu_count() or 1)
    protocol.progress(0, wanted, "chunks", "loading", force=True)
    engine = llama_c.Engine()
    answer_tokens = int(request.get("max_tokens", 32))
    room = n + answer_tokens  # a prompt of a whole chunk can still be answered
    models = [engine.open(p, context=room, batch=n, threads=threads, outputs=n // 2) for p in paths]
    if len({m.n_vocab for m in models}) > 1:
        raise protocol.Failed(
            "artifact-invalid", f"The models have {[m.n_vocab for m in models]} tokens: not one model."
        )
    first = models[0]
    tokens = first.tokenize(Path(request["text"]).read_text(encoding="utf-8"))
    for other in models[1:]:
        sample = tokens[: 4 * n]
        text = b"".join(first.piece(t) for t in sample)
        if b"".join(other.piece(t) for t in sample) != text:
            raise protocol.Failed("artifact-invalid", "The two models do not share a tokenizer.")
    chunks = min(wanted, len(tokens) // n)
    if chunks < 1:
        raise protocol.Failed("bad-option", f"The text has {len(tokens)} tokens; one chunk takes {n}.")
    scored = [False] * (n // 2) + [True] * (n - 1 - n // 2) + [False]
    prompts = list(request.get("prompts") or [])
    questions = list(request.get("choices") or [])
    each = len(prompts) + len(questions)
    total = chunks + len(models) * each
    sums = Sums(len(models))
    for i in range(chunks):
        chunk = tokens[i * n : (i + 1) * n]
        if first.adds_bos:
            chunk[0] = first.bos
        logits = []
        for model in models:
            model.forget()
            logits.append(model.decode(chunk, scored))
        sums.add(logits, np.array(chunk[n // 2 + 1 :], dtype=np.int64))
        protocol.progress(i + 1, total, "pieces", f"{time.monotonic() - started:.0f} s", force=True)
    answers: list[list[str]] = []
    choices: list[list[Any]] = []
    for m, model in enumerate(models):
        mine = []
        for j, prompt in enumerate(prompts):
            text, bad = model.greedy(prompt, answer_tokens)
            sums.non_finite += bad
            mine.append(text)
            done = chunks + m * each + j + 1
            protocol.progress(done, total, "pieces", f"{time.monotonic() - started:.0f} s", force=True)
        answers.append(mine)
        weighed = []
        for j, question in enumerate(questions):
            weighed.append([weigh(model, question["prompt"], c, n) for c in question["choices"]])
            done = chunks + m * each + len(prompts) + j + 1
            protocol.progress(done, total, "pieces", f"{time.monotonic() - started:.0f} s", force=True)
        choices.append(weighed)
    for model in models:
        model.close()
    usable = sums.non_finite == 0 and sums.positions > 0
    pair = usable and len(models) == 2

    return {
        "perplexity": [scores.perplexity(s, sums.positions) if usable else None for s in sums.nll],
        "kld": sums.kld / sums.positions if pair else None,
        "kld_max": sums.kld_max if pair else None,
        "top1_agreement": sums.same / sums.positions if pair else None,
        "positions": sums.positions,
        "chunks": chunks,
        "non_finite": sums.non_finite,
        "prompts": answers,
        "choices": choices,
        "seconds": round(time.monotonic() - started, 3),
    }


if __name__ == "__main__":
    protocol.run(work, code="step-failed")
