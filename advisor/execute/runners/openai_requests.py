"""Requests and replies of the OpenAI API as ``openai_server`` speaks it: what is accepted, and the shape of answers.

What cannot be honoured is refused with 400 and named, never dropped in silence; unknown fields are let through, since
clients send fields of other servers.
"""

from __future__ import annotations

import secrets
import time
from typing import Any, NamedTuple

MAX_STOPS = 8
MAX_STOP_CHARS = 256
MAX_MESSAGES = 10_000
COMPLETION_TOKENS = 16  # OpenAI's default for plain completions


class Refused(Exception):  # noqa: N818
    """A request that is not carried out: HTTP status, a code, and a sentence for the client."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message

    def body(self) -> dict[str, Any]:
        """The error object of the API."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "code": self.code, "param": None}}


class Ask(NamedTuple):
    """A checked request. ``messages`` for a chat, else ``prompt`` (text or token ids).

    ``max_tokens`` ``None``: as many as the context holds. ``temperature`` and ``top_p`` ``None``: the model's own.
    ``ignore_eos``: the model's end token cannot be chosen before ``max_tokens``.
    """

    chat: bool
    messages: list[dict[str, Any]]
    prompt: str | list[int]
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    stop: tuple[str, ...]
    stream: bool
    usage: bool
    ignore_eos: bool
    echo: bool = False


def _bad(message: str, code: str = "invalid_value") -> Refused:
    return Refused(400, code, message)


def _number(body: dict[str, Any], name: str, low: float, high: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _bad(f"{name} is a number from {low:g} to {high:g}.")
    return float(value)


def _whole(body: dict[str, Any], name: str, low: int, high: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _bad(f"{name} is a whole number from {low} to {high}.")
    return value


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _bad(f"{name} is true or false.")
    return bool(value)


def _stops(body: dict[str, Any]) -> tuple[str, ...]:
    value = body.get("stop")
    found = [value] if isinstance(value, str) else ([] if value is None else value)
    if not isinstance(found, list) or len(found) > MAX_STOPS or not all(isinstance(s, str) for s in found):
        raise _bad(f"stop is a text or a list of at most {MAX_STOPS} texts.")
    if any(len(s) > MAX_STOP_CHARS for s in found):
        raise _bad(f"A stop text has at most {MAX_STOP_CHARS} characters.")
    return tuple(s for s in found if s)


def _refuse_what_is_not_done(body: dict[str, Any]) -> None:
    if body.get("n") not in (None, 1) or body.get("best_of") not in (None, 1):
        raise _bad("This server gives one answer to a request: n and best_of can only be 1.", "unsupported")
    for name in ("frequency_penalty", "presence_penalty"):
        if body.get(name) not in (None, 0, 0.0):
            raise _bad(f"This server has no {name}.", "unsupported")
    for name in ("logit_bias", "tools", "functions", "suffix"):
        if body.get(name):
            raise _bad(f"This server has no {name}.", "unsupported")
    if body.get("logprobs") not in (None, False) or body.get("top_logprobs") not in (None, 0):
        raise _bad("This server gives no log-probabilities.", "unsupported")
    wanted = body.get("response_format")
    if wanted is not None and (not isinstance(wanted, dict) or wanted.get("type") != "text"):
        raise _bad("This server answers in plain text: response_format can only be text.", "unsupported")


def _content(value: object) -> str:
    """The text of a message: a string, or parts that are all text."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list):
        texts = [p.get("text") for p in value if isinstance(p, dict) and p.get("type") == "text"]
        if len(texts) == len(value) and all(isinstance(t, str) for t in texts):
            return "".join(str(t) for t in texts)
    raise _bad("The content of a message is text, or a list of parts of type text.")


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    value = body.get("messages")
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise _bad(f"messages is a list of 1 to {MAX_MESSAGES} messages.", "missing_messages")
    found = []
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _bad("A message is an object with role and content.")
        found.append({"role": message["role"], "content": _content(message.get("content"))})
    return found


def _prompt(body: dict[str, Any]) -> str | list[int]:
    value = body.get("prompt")
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(t, int) and not isinstance(t, bool) for t in value):
        return value
    raise _bad("prompt is one text or one list of token ids.", "missing_prompt")


def check(body: object, *, chat: bool, model: str) -> Ask:
    """Make an ``Ask`` of a decoded body.

    Raises:
        Refused: 400 with what is wrong, 404 for a model that is not served here.
    """
    if not isinstance(body, dict):
        raise _bad("The body is a JSON object.", "invalid_json")
    named = body.get("model")
    if named is not None and named != model:
        shown = named[:80] if isinstance(named, str) else type(named).__name__
        raise Refused(404, "model_not_found", f"The model {shown!r} is not served here, only {model!r}.")
    _refuse_what_is_not_done(body)
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _bad("stream_options is an object.")
    limit = _whole(body, "max_completion_tokens", 1, 1 << 24) or _whole(body, "max_tokens", 1, 1 << 24)
    return Ask(
        chat=chat,
        messages=_messages(body) if chat else [],
        prompt="" if chat else _prompt(body),
        max_tokens=limit if chat else limit or COMPLETION_TOKENS,
        temperature=_number(body, "temperature", 0, 2),
        top_p=_number(body, "top_p", 0, 1),
        seed=_whole(body, "seed", -(1 << 63), (1 << 63) - 1),
        stop=_stops(body),
        stream=_flag(body, "stream"),
        usage=bool((options or {}).get("include_usage")),
        ignore_eos=_flag(body, "ignore_eos"),
        echo=not chat and _flag(body, "echo"),
    )


class Stops:
    """Cuts a growing text at the first stop text; text that may be the beginning of one is held back."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops, self._held = stops, ""
        self.found = False

    def push(self, text: str) -> str:
        """What can be given out now. ``found`` is set when a stop text is there: nothing comes after it."""
        if self.found:
            return ""
        self._held += text
        ends = [i for i in (self._held.find(s) for s in self._stops) if i >= 0]
        if ends:
            out, self._held, self.found = self._held[: min(ends)], "", True
            return out
        keep = 0
        for s in self._stops:
            longest = min(len(s) - 1, len(self._held))
            keep = max(keep, next((n for n in range(longest, 0, -1) if self._held.endswith(s[:n])), 0))
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out

    def rest(self) -> str:
        """What was held back, at the end."""
        out, self._held = ("" if self.found else self._held), ""
        return out


class Answer:
    """The shapes of one answer: all of it at once, or pieces of a stream."""

    def __init__(self, ask: Ask, model: str) -> None:
        self._ask, self._model = ask, model
        self._id = ("chatcmpl-" if ask.chat else "cmpl-") + secrets.token_hex(12)
        self._created = int(time.time())

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model, "choices": choices}

    def whole(self, text: str, finish: str, usage: dict[str, int]) -> dict[str, Any]:
        """The reply to a request that does not stream."""
        inner = {"message": {"role": "assistant", "content": text}} if self._ask.chat else {"text": text}
        choice = {"index": 0, **inner, "logprobs": None, "finish_reason": finish}
        return {**self._frame("chat.completion" if self._ask.chat else "text_completion", [choice]), "usage": usage}

    def piece(self, text: str, finish: str | None = None, *, first: bool = False) -> dict[str, Any]:
        """One event of a stream."""
        inner: dict[str, Any]
        if self._ask.chat:
            delta: dict[str, Any] = {"role": "assistant"} if first else {}
            inner = {"delta": {**delta, **({"content": text} if text or first else {})}}
        else:
            inner = {"text": text}
        kind = "chat.completion.chunk" if self._ask.chat else "text_completion"
        return self._frame(kind, [{"index": 0, **inner, "logprobs": None, "finish_reason": finish}])

    def counts(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last event where the client asked for usage."""
        return {**self._frame("chat.completion.chunk" if self._ask.chat else "text_completion", []), "usage": usage}


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Token counts of a request."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
