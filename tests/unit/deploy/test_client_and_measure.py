from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.deploy import client, health, measure, ports
from advisor.errors import AdvisorError
from advisor.facts.results import Deployment
from tests.unit.deploy.rig import Rig


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Servers by their options, started on first use."""
    rig = Rig(tmp_path_factory.mktemp("farm"))
    running: dict[tuple[str, ...], Deployment] = {}

    def served(*options: str) -> str:
        if options not in running:
            running[options] = rig.deployments.launch(rig.spec(*options, name=f"s{len(running)}"))
        return running[options].openai_base_url

    yield served
    rig.clean_up()


def test_chat_and_completion(farm: Any) -> None:
    answer = client.chat(farm(), "fake", [{"role": "user", "content": "two words"}])
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("Paris is the capital of France.", 2, 6)
    assert answer.finish_reason == "stop"
    plain = client.completion(farm(), "fake", "three words here")
    assert (plain.text, plain.prompt_tokens, plain.timings) == (answer.text, 3, None)


def test_smoke_with_and_without_a_chat_template(farm: Any) -> None:
    assert client.smoke(farm(), "fake").prompt_tokens == len(client.SMOKE_PROMPT.split())
    assert client.smoke(farm(), "fake", has_chat_template=False).prompt_tokens == len(client.SMOKE_START.split())


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("500", "server-failed"),
        ("garbage", "server-failed"),
        ("truncated", "server-failed"),
        ("drip", "server-timeout"),
    ],
)
def test_unusable_replies_have_codes(farm: Any, reply: str, code: str) -> None:
    base = farm("--reply", reply)
    with pytest.raises(AdvisorError) as caught:
        client.chat(base, "fake", [{"role": "user", "content": "x"}], timeout_s=0.4)
    assert caught.value.code == code
    with pytest.raises(AdvisorError):
        measure.measure(base, "fake", timeout_s=0.4)
    assert "\x1b" not in caught.value.message


def test_no_server_at_all() -> None:
    port = ports.choose("127.0.0.1", 30000, explicit=False)
    with pytest.raises(AdvisorError) as caught:
        client.chat(f"http://127.0.0.1:{port}/v1", "fake", [])
    assert caught.value.code == "server-failed"


def test_a_server_that_does_not_speak_http() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        address = f"http://127.0.0.1:{s.getsockname()[1]}"
        seen = health.check(f"{address}/health", health.status_ok, timeout_s=0.2)
        assert (seen.ready, "no answer within 0.2 s" in seen.detail) == (False, True)
        with pytest.raises(AdvisorError) as caught:
            client.completion(f"{address}/v1", "fake", "x", timeout_s=0.2)
    assert caught.value.code == "server-timeout"


def test_proxies_are_not_used(farm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert client.smoke(farm(), "fake").text


@pytest.mark.parametrize("use_chat", [False, True])
def test_speed_by_the_servers_own_clock(farm: Any, use_chat: bool) -> None:
    seen = measure.measure(farm("--timings"), "fake", prompt_tokens=512, use_chat=use_chat)
    assert seen.prompt_tokens >= 512
    assert seen.prefill is not None
    assert seen.decode is not None
    assert seen.prefill.value == pytest.approx(seen.prompt_tokens / 0.25)
    assert seen.decode.value == pytest.approx(10 / 0.5)  # 11 tokens are 10 steps after the first
    assert (seen.decode.method, seen.decode.unit) == ("measured", "tokens/s")
    assert measure.SERVER_CLOCK in seen.decode.source


def test_speed_by_our_own_clock(farm: Any) -> None:
    seen = measure.measure(farm(), "fake", prompt_tokens=600, repeat=3)
    assert seen.repeats == 3
    assert seen.prompt_tokens >= 600
    assert seen.completion_tokens == 6
    assert seen.decode is not None
    assert seen.prefill is not None
    assert seen.first_token_s is not None
    assert 0 < seen.decode.low <= seen.decode.value <= seen.decode.high
    assert measure.OWN_CLOCK in seen.decode.source
    assert "median of 3" in seen.decode.source


def test_without_counts_prefill_is_unknown_and_not_zero(farm: Any) -> None:
    seen = measure.measure(farm("--no-usage"), "fake")
    assert seen.prefill is None
    assert seen.decode is not None
    assert seen.completion_tokens == 6


def test_no_token_at_all_is_an_error(farm: Any) -> None:
    with pytest.raises(AdvisorError) as caught:
        measure.measure(farm("--reply", "empty", "--no-usage"), "fake")
    assert caught.value.code == "smoke-failed"


def test_a_tokenizer_of_few_tokens_gets_a_longer_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def streamed(base: str, model: str, prompt: str, **_: Any) -> list[client.Part]:
        asked.append(len(prompt.split()))
        usage = {"prompt_tokens": len(prompt.split()) // 2, "completion_tokens": 2}
        return [client.Part(2.0, "a", {}), client.Part(3.0, "b", {"usage": usage})]

    monkeypatch.setattr(measure, "streamed", streamed)
    assert measure.measure("http://x/v1", "m", prompt_tokens=512).prompt_tokens >= 512
    assert len(asked) == 2


def test_prompts_share_no_prefix() -> None:
    starts = {measure.prompt_of(8).split()[0] for _ in range(50)}
    assert len(starts) > 40


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "!!!!!!!!",
        "aaaaaaaaaaaa",
        "\ufffd\ufffd\ufffd a",
        "... --- ???",
        "the the the the the the the the the the",
    ],
)
def test_nonsense_is_recognized(text: str) -> None:
    assert client.incoherent(text)


@pytest.mark.parametrize(
    "text", ["Paris", "42", "Paris is the capital of France.", "巴黎", "C'est Paris, c'est Paris."]
)
def test_sense_passes(text: str) -> None:
    assert client.incoherent(text) is None


@given(st.text(max_size=200))
def test_any_answer_can_be_judged(text: str) -> None:
    why = client.incoherent(text)
    assert why is None or why.startswith("it ")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["choices", "usage", "timings", "text", "message", "content"]), inner)
        ),
        max_leaves=12,
    )
)
def test_any_json_reply_is_an_answer_or_a_typed_error(reply: object) -> None:
    from advisor.deploy import transport

    patch = pytest.MonkeyPatch()
    patch.setattr(client.transport, "fetch", lambda *_, **__: transport.Reply(200, json.dumps(reply).encode()))
    try:
        answer = client.completion("http://x/v1", "m", "p")
        assert isinstance(answer.text, str)
        answer.dumps()
    except AdvisorError as e:
        assert e.code == "server-failed"
    finally:
        patch.undo()


def test_the_rate_is_of_the_tokens_after_the_first() -> None:
    parts = [client.Part(moment=10.0 + 0.5 * i, text="x", event={}) for i in range(5)]
    parts.append(client.Part(moment=13.0, text="", event={"usage": {"prompt_tokens": 30, "completion_tokens": 5}}))
    run = measure._read(parts, 9.0)
    assert run.first_token_s == 1.0
    assert run.prefill == 30.0
    assert run.decode == 2.0
