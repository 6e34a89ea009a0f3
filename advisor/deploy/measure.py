"""Prefill and decode speed of a running server: by the server's own clock where it tells, else by ours."""

from __future__ import annotations

import random
import secrets
import statistics
import time
from typing import Final, NamedTuple

from advisor.deploy.client import Part, count, streamed, timings_of
from advisor.errors import AdvisorError
from advisor.facts.base import Shape
from advisor.facts.quantity import Quantity

SERVER_CLOCK: Final = "llama.cpp timings in the reply"
OWN_CLOCK: Final = "own clock over a streamed reply"
_WORDS: Final = tuple(
    "river stone cloud winter garden letter window silver market forest engine copper bridge yellow summer island "  # noqa: SIM905
    "paper mountain signal harbor candle pencil orange valley museum planet ticket mirror basket thunder".split()
)


class Measured(Shape, frozen=True, kw_only=True):
    """Tokens per second of one request at a time; ``low`` and ``high`` are the extremes of the repeats.

    ``prefill`` and ``decode`` are ``None`` where too few tokens came to tell. ``first_token_s`` is the median time to
    the first token. ``prompt_tokens`` counts what was really processed, prefix cache left out.
    """

    prefill: Quantity | None
    decode: Quantity | None
    first_token_s: Quantity | None
    prompt_tokens: int
    completion_tokens: int
    repeats: int


class _Run(NamedTuple):
    prefill: float | None
    decode: float | None
    first_token_s: float | None
    prompt_tokens: int
    completion_tokens: int
    source: str


_SILENT_ANSWERS: Final = 2


def prompt_of(words: int) -> str:
    """Text of about ``words`` tokens or more, different at each call from the first word on, against prefix caches."""
    seed = secrets.randbits(32)
    choose = random.Random(seed)  # noqa: S311 - filler text, no secret
    return f"{seed} " + " ".join(choose.choice(_WORDS) for _ in range(words)) + "\nWrite a long story with these words."


def _rate(n: float, seconds: float) -> float | None:
    return n / seconds if n > 0 and seconds > 0 else None


def _read(parts: list[Part], begun: float) -> _Run:
    usage: dict[str, object] = {}
    timings: dict[str, float] | None = None
    for part in parts:
        found = part.event.get("usage")
        usage = found if isinstance(found, dict) else usage
        timings = timings_of(part.event) or timings
    moments = [p.moment for p in parts if p.text]
    first = moments[0] - begun if moments else None
    prompt_tokens = count(usage.get("prompt_tokens")) or 0
    completion_tokens = count(usage.get("completion_tokens")) or len(moments)
    if timings and timings.get("prompt_ms") and timings.get("prompt_n"):
        done, spent = timings["prompt_n"], timings["prompt_ms"] / 1000
        made = timings.get("predicted_n", 0.0)
        # predicted_ms begins when the first of the predicted_n tokens is there, so one fewer was made in that time.
        decode = _rate(made - 1, timings.get("predicted_ms", 0.0) / 1000)
        return _Run(_rate(done, spent), decode, first, int(done), int(made) or completion_tokens, SERVER_CLOCK)
    prefill = _rate(prompt_tokens, first) if first is not None else None
    decode = _rate(completion_tokens - 1, moments[-1] - moments[0]) if len(moments) >= 2 else None
    return _Run(prefill, decode, first, prompt_tokens, completion_tokens, OWN_CLOCK)


def _quantity(values: list[float], unit: str, source: str) -> Quantity | None:
    if not values:
        return None
    middle = statistics.median(values)
    return Quantity(
        value=middle,
        low=min(values),
        high=max(values),
        unit="s" if unit == "s" else "tokens/s",
        method="measured",
        source=source,
    )


def measure(
    base_url: str,
    model: str,
    *,
    prompt_tokens: int = 512,
    max_tokens: int = 64,
    repeat: int = 1,
    use_chat: bool = False,
    api_key: str | None = None,
    timeout_s: float = 600.0,
) -> Measured:
    """Send ``repeat`` prompts of at least ``prompt_tokens`` tokens (one full ubatch, so that memory peaks).

    ``timeout_s`` is for each request. Plain completions by default; ``use_chat`` where the server has only chat.

    Raises:
        AdvisorError: ``server-failed`` or ``server-timeout``; ``smoke-failed`` where no token comes back.
    """
    words = prompt_tokens
    runs: list[_Run] = []
    lengthened, silent = False, 0
    while len(runs) < max(1, repeat):
        prompt = prompt_of(words)
        begun = time.monotonic()
        parts = streamed(
            base_url,
            model,
            prompt,
            use_chat=use_chat or silent > 1,
            max_tokens=max_tokens,
            api_key=api_key,
            timeout_s=timeout_s,
        )
        run = _read(parts, begun)
        if run.completion_tokens == 0:
            # A model may end a plain text at once, and not every server can be told to go on: asked anew, then in chat.
            silent += 1
            if silent <= _SILENT_ANSWERS:
                continue
            raise AdvisorError(
                "smoke-failed", f"{base_url} answered a measuring prompt without a single token.", hint="advisor status"
            )
        if 0 < run.prompt_tokens < prompt_tokens and not lengthened:
            # A tokenizer with whole phrases as tokens: once more, longer.
            words = -(-words * prompt_tokens // run.prompt_tokens) + 16
            lengthened = True
            continue
        runs.append(run)
    source = f"{runs[-1].source}; median of {len(runs)}, prompt of {runs[-1].prompt_tokens} tokens"
    return Measured(
        prefill=_quantity([r.prefill for r in runs if r.prefill is not None], "tokens/s", source),
        decode=_quantity([r.decode for r in runs if r.decode is not None], "tokens/s", source),
        first_token_s=_quantity([r.first_token_s for r in runs if r.first_token_s is not None], "s", OWN_CLOCK),
        prompt_tokens=runs[-1].prompt_tokens,
        completion_tokens=runs[-1].completion_tokens,
        repeats=len(runs),
    )
