"""A small client of the OpenAI API, for smoke tests and measurements of our own servers."""

from __future__ import annotations

import json
import time
from typing import Any, Final, NamedTuple

from advisor.deploy import transport
from advisor.errors import AdvisorError
from advisor.facts.base import Shape
from advisor.facts.text import clean

SMOKE_PROMPT: Final = "What is the capital of France? Answer in one short sentence."
SMOKE_START: Final = "The capital of France is"


class Answer(Shape, frozen=True, kw_only=True):
    """What came back. Token counts as the server states them, ``None`` where it does not; ``seconds`` for all of it.

    ``text`` is as the model gave it: ``clean`` it before showing. ``timings`` is llama.cpp's own clock.
    """

    text: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    timings: dict[str, float] | None


class Part(NamedTuple):
    """One event of a streamed reply: monotonic time of arrival, text, and the decoded event."""

    moment: float
    text: str
    event: dict[str, Any]


def _failed(base_url: str, e: transport.Unreachable) -> AdvisorError:
    code = "server-timeout" if e.timed_out else "server-failed"
    return AdvisorError(code, f"{base_url} gave no usable reply: {clean(str(e))}.", hint="advisor status")


def _broken(base_url: str, what: str) -> AdvisorError:
    return AdvisorError("server-failed", f"{base_url} answers, but {what}.", hint="advisor status")


def _text_of(choice: object) -> str:
    """The text of a choice: chat, completion, or a streamed piece of either; a model's reasoning where it is all."""
    if not isinstance(choice, dict):
        return ""
    inner = choice.get("message") or choice.get("delta") or {}
    candidates = [choice.get("text")]
    if isinstance(inner, dict):
        candidates += [inner.get("content"), inner.get("reasoning_content"), inner.get("reasoning")]
    return next((c for c in candidates if isinstance(c, str) and c), "")


def count(value: object) -> int | None:
    """A token count of a reply, or ``None`` for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def timings_of(data: dict[str, Any]) -> dict[str, float] | None:
    """llama.cpp's ``timings`` object, numbers only."""
    found = data.get("timings")
    if not isinstance(found, dict):
        return None
    numbers = {str(k): float(v) for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return numbers or None


def _post(base_url: str, path: str, request: dict[str, Any], api_key: str | None, timeout_s: float) -> Answer:
    begun = time.monotonic()
    try:
        body = json.dumps(request).encode()
        reply = transport.fetch(base_url + path, body=body, api_key=api_key, timeout_s=timeout_s)
    except transport.Unreachable as e:
        raise _failed(base_url, e) from e
    seconds = time.monotonic() - begun
    if reply.status != 200:
        shown = clean(reply.body.decode(errors="replace"), 300)
        raise _broken(base_url, f"with HTTP {reply.status}: {shown}")
    try:
        data = json.loads(reply.body)
        choice = data["choices"][0]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as e:
        shown = clean(reply.body.decode(errors="replace"), 120)
        raise _broken(base_url, f"not with a completion: {shown}") from e
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    finish = choice.get("finish_reason") if isinstance(choice, dict) else None
    return Answer(
        text=_text_of(choice),
        finish_reason=finish if isinstance(finish, str) else None,
        prompt_tokens=count(usage.get("prompt_tokens")),
        completion_tokens=count(usage.get("completion_tokens")),
        seconds=seconds,
        timings=timings_of(data),
    )


def chat(
    base_url: str,
    model: str,
    messages: list[dict[str, str]],
    *,
    max_tokens: int = 64,
    temperature: float = 0.0,
    api_key: str | None = None,
    timeout_s: float = 120.0,
) -> Answer:
    """One chat completion. ``base_url`` ends in ``/v1``.

    Raises:
        AdvisorError: ``server-failed`` (no connection, another status than 200, no completion) or ``server-timeout``.
    """
    request = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": temperature}
    return _post(base_url, "/chat/completions", request, api_key, timeout_s)


def completion(
    base_url: str,
    model: str,
    prompt: str,
    *,
    max_tokens: int = 64,
    temperature: float = 0.0,
    api_key: str | None = None,
    timeout_s: float = 120.0,
) -> Answer:
    """One plain completion, for models without a chat template.

    Raises:
        AdvisorError: as ``chat``.
    """
    request = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": temperature}
    return _post(base_url, "/completions", request, api_key, timeout_s)


def streamed(
    base_url: str,
    model: str,
    prompt: str,
    *,
    use_chat: bool,
    max_tokens: int,
    api_key: str | None,
    timeout_s: float,
) -> list[Part]:
    """The events of one streamed completion of ``max_tokens`` tokens, with usage asked for in the last.

    ``ignore_eos``, which llama.cpp and vLLM know beside OpenAI's own fields, keeps a model from ending at once.

    Raises:
        AdvisorError: as ``chat``.
    """
    request: dict[str, Any] = {
        "model": model,
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    if use_chat:
        request["messages"] = [{"role": "user", "content": prompt}]
    else:
        request["prompt"] = prompt
    address = base_url + ("/chat/completions" if use_chat else "/completions")
    parts: list[Part] = []
    try:
        body = json.dumps(request).encode()
        for moment, raw in transport.stream(address, body=body, api_key=api_key, timeout_s=timeout_s):
            if raw == b"[DONE]":
                break
            try:
                event = json.loads(raw)
            except (ValueError, RecursionError) as e:
                raise _broken(base_url, f"with a damaged event: {clean(raw.decode(errors='replace'), 120)}") from e
            if not isinstance(event, dict):
                raise _broken(base_url, f"with an event that is no object: {clean(raw.decode(errors='replace'), 120)}")
            if "error" in event:
                raise _broken(base_url, f"with an error: {clean(json.dumps(event['error']), 300)}")
            choices = event.get("choices")
            text = _text_of(choices[0]) if isinstance(choices, list) and choices else ""
            parts.append(Part(moment, text, event))
    except transport.Unreachable as e:
        raise _failed(base_url, e) from e
    return parts


def incoherent(text: str) -> str | None:
    """Why an answer cannot come from a working model, or ``None``. It does not judge whether the answer is right."""
    words = text.split()
    if not words:
        return "it is empty"
    bare = "".join(words)
    strange = sum(1 for c in bare if c == "\ufffd" or not c.isprintable())
    if strange * 5 > len(bare):
        return "it is mostly unprintable characters"
    if len(bare) >= 8 and len(set(bare)) <= 2:
        return f"it repeats {bare[0]!r}"
    if not any(c.isalnum() for c in bare):
        return "it has neither letters nor digits"
    if len(words) >= 8 and len(set(words)) <= len(words) // 8:
        return f"it repeats {clean(words[-1], 20)!r}"
    return None


def smoke(
    base_url: str,
    model: str,
    *,
    has_chat_template: bool = True,
    api_key: str | None = None,
    max_tokens: int = 32,
    timeout_s: float = 120.0,
) -> Answer:
    """Ask one easy question and require an answer that a working model could give.

    Raises:
        AdvisorError: ``smoke-failed``, with the answer; the endpoint's own failure is in its context.
    """
    try:
        if has_chat_template:
            messages = [{"role": "user", "content": SMOKE_PROMPT}]
            answer = chat(base_url, model, messages, max_tokens=max_tokens, api_key=api_key, timeout_s=timeout_s)
        else:
            answer = completion(
                base_url, model, SMOKE_START, max_tokens=max_tokens, api_key=api_key, timeout_s=timeout_s
            )
    except AdvisorError as e:
        raise AdvisorError(
            "smoke-failed",
            f"{clean(model, 80)} does not answer a test question: {e.message}",
            context=e.context,
            hint="advisor status",
            data={"cause": e.code},
        ) from e
    why = incoherent(answer.text)
    if why is not None:
        raise AdvisorError(
            "smoke-failed",
            f"{clean(model, 80)} answers a test question with nonsense: {why}.",
            context=(f"answer: {clean(answer.text, 300)!r}",),
            hint="advisor status",
            data={"answer": clean(answer.text, 300)},
        )
    return answer
