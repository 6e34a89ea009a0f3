"""Requests of the server behind transformers: whatever a body holds is taken or refused, and stops cut right."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.backends.support import runner

REQUESTS = runner("openai_requests")
Refused = REQUESTS.Refused
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Which town is it?"}]}
PLAIN = {"model": "m", "prompt": "Which town"}


@given(st.lists(st.text("abc", max_size=4), max_size=12), st.lists(st.text("abc", min_size=1, max_size=3), max_size=3))
def test_stops_cut_as_if_the_text_came_at_once(pieces: list[str], stops: list[str]) -> None:
    s = REQUESTS.Stops(tuple(stops))
    out = ""
    for piece in pieces:
        if s.found:
            break
        out += s.push(piece)
    out += s.rest()
    whole = "".join(pieces)
    ends = [i for i in (whole.find(x) for x in stops) if i >= 0]
    assert s.found == bool(ends)
    if not ends:
        assert out == whole
    else:
        assert whole.startswith(out)
        assert not any(x in out for x in stops)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from(
        [
            "messages",
            "prompt",
            "stop",
            "max_tokens",
            "temperature",
            "top_p",
            "seed",
            "stream",
            "stream_options",
            "model",
        ]
    ),
    st.booleans(),
)
def test_whatever_a_field_holds_is_taken_or_refused(value: object, name: str, chat: bool) -> None:
    body = {**(CHAT if chat else PLAIN), name: value}
    try:
        ask = REQUESTS.check(body, chat=chat, model="m")
    except Refused as e:
        assert e.status in (400, 404)
        assert json.dumps(e.body())
    else:
        assert ask.chat is chat
        assert ask.max_tokens is None or ask.max_tokens >= 1
