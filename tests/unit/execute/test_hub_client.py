"""Waiting, trying again, redirects, and what the hub's refusals mean."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from advisor import settings
from advisor.errors import AdvisorError
from advisor.events import Cancel, Event
from advisor.execute.hub.access import Access, Patience, access_of
from advisor.execute.hub.client import EntryMissing, Hub, _asked
from tests.support.fake_hub import FakeHub
from tests.support.fake_hub_models import QUICK, checkpoint, no_tokens

TOKEN = "hf_canaryCANARYcanary0001"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    no_tokens(monkeypatch, tmp_path)
    with FakeHub() as hub:
        hub.add("me/Tiny", checkpoint(tmp_path / "tiny"))
        yield hub


def client(server: FakeHub, token: str | None = None, **more: Any) -> Hub:
    return Hub(Access(server.endpoint, token), **{"patience": QUICK, **more})


def refused(hub: Hub, repo: str = "me/Tiny", revision: str | None = None) -> AdvisorError:
    with pytest.raises(AdvisorError) as e:
        hub.information(repo, revision)
    return e.value


def test_a_description_has_sizes_and_hashes(server: FakeHub) -> None:
    found = client(server).information("me/Tiny", None)
    weights = next(s for s in found["siblings"] if s["rfilename"] == "model.safetensors")
    assert len(weights["lfs"]["sha256"]) == 64
    assert found["sha"] == server.repos["me/tiny"].branches["main"]
    assert "authorization" not in server.seen[0].headers


def test_a_part_of_a_file_through_the_store(server: FakeHub, tmp_path: Path) -> None:
    commit = server.repos["me/tiny"].branches["main"]
    raw = (tmp_path / "tiny" / "model.safetensors").read_bytes()
    hub = client(server, TOKEN)
    assert hub.part("me/Tiny", commit, "model.safetensors", 1000, 5000) == raw[1000:5000]
    assert hub.part("me/Tiny", commit, "config.json", 0, 5) == (tmp_path / "tiny" / "config.json").read_bytes()[:5]
    assert server.paths("cdn")
    assert all("authorization" not in s.headers for s in server.seen if s.host == "cdn")
    assert all(s.headers["authorization"] == f"Bearer {TOKEN}" for s in server.seen if s.host == "hub")
    about = hub.about("me/Tiny", commit, "model.safetensors")
    assert (about.size, len(about.etag or ""), about.commit) == (len(raw), 64, commit)
    assert not any(s.method == "HEAD" and s.host == "cdn" for s in server.seen)


def test_a_whole_file_instead_of_a_part_is_cut_off(server: FakeHub, tmp_path: Path) -> None:
    server.fault("/resolve/", ignore_range=True)
    server.fault(lambda s: s.host == "cdn", ignore_range=True)
    commit = server.repos["me/tiny"].branches["main"]
    raw = (tmp_path / "tiny" / "model.safetensors").read_bytes()
    assert client(server).part("me/Tiny", commit, "model.safetensors", 10, 50) == raw[10:50]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_tried_again(server: FakeHub, status: int) -> None:
    server.fault("/api/models/", times=2, status=status)
    told: list[Event] = []
    assert client(server, reporter=told.append).information("me/Tiny", None)["id"] == "me/Tiny"
    assert len(server.seen) == 3
    assert all(str(status) in e.message for e in told)


def test_what_does_not_pass_ends(server: FakeHub) -> None:
    server.fault("/api/models/", status=503)
    e = refused(client(server))
    assert (e.code, e.exit_code) == ("network", 6)
    assert e.data["retryable"] is True
    assert e.data["status"] == 503
    assert len(server.seen) == QUICK.tries


def test_a_server_that_asks_to_wait_is_waited_for_and_not_for_ever(server: FakeHub) -> None:
    server.fault("/api/models/", times=1, status=429, headers={"Retry-After": "1"})
    waits: list[float] = []

    class Counting(Cancel):
        def wait(self, seconds: float) -> bool:
            waits.append(seconds)
            return False

    client(server, cancel=Counting()).information("me/Tiny", None)
    assert 1.0 <= waits[0] < 1.3
    server.fault("/api/models/", status=429, headers={"Retry-After": "3600"})
    before = len(server.seen)
    e = refused(client(server))
    assert len(server.seen) == before + 1
    assert e.data["retry_after_s"] == 3600
    assert "3600 s" in e.message


def test_how_a_wait_is_asked_for() -> None:
    from datetime import UTC, datetime, timedelta

    now = datetime(2025, 1, 1, tzinfo=UTC)
    later = {
        "date": format_datetime(now, usegmt=True),
        "retry-after": format_datetime(now + timedelta(seconds=90), usegmt=True),
    }
    assert _asked(later) == 90
    assert _asked({"retry-after": "7"}) == 7
    assert _asked({"ratelimit": '"api";r=0;t=55'}) == 55
    assert _asked({"ratelimit": '"api";r=3;t=55'}) is None
    assert _asked({"retry-after": "soon"}) is None
    assert _asked({}) is None


def test_waits_double_and_vary() -> None:
    p = Patience(first_wait_s=1, most_wait_s=10)
    assert all(0.5 <= p.wait_s(1, None) <= 1 for _ in range(50))
    assert all(4 <= p.wait_s(4, None) <= 8 for _ in range(50))
    assert all(5 <= p.wait_s(40, None) <= 10 for _ in range(50))
    assert len({p.wait_s(3, None) for _ in range(20)}) > 1


@pytest.mark.parametrize(
    "fault",
    [
        {"stall_after": 10},
        {"trickle": 0.05},
        {"trickle": 0.05, "trickle_head": True},
        {"cut_after": 10},
    ],
)
def test_stalls_trickles_and_cuts_end(server: FakeHub, fault: dict[str, Any]) -> None:
    server.fault("/api/models/", **fault)
    brief = Patience(reply_s=0.6, window_s=0.5, document_s=2.0, tries=2, first_wait_s=0.01, most_wait_s=0.02)
    e = refused(client(server, patience=brief))
    assert e.code == "network"
    assert len(server.seen) == 2
    server.faults.clear()
    assert client(server).information("me/Tiny", None)["id"] == "me/Tiny"


def test_nobody_there_and_no_such_host(server: FakeHub) -> None:
    closed = server.endpoint
    server.__exit__()
    for endpoint in (closed, "http://no-such-host.invalid"):
        e = refused(Hub(Access(endpoint), patience=QUICK))
        assert e.code == "network"
        assert endpoint in e.message


def test_an_interrupt_ends_the_waiting(server: FakeHub) -> None:
    server.fault("/api/models/", stall_after=0)
    cancel = Cancel()
    threading.Timer(0.3, cancel.set).start()
    started = time.monotonic()
    e = refused(client(server, cancel=cancel, patience=Patience()))
    assert e.code == "interrupted"
    assert time.monotonic() - started < Patience().reply_s


def test_no_repository(server: FakeHub) -> None:
    e = refused(client(server), "me/Nothing")
    assert (e.code, e.exit_code, e.hint) == ("model-not-found", 4, "hf auth login")
    assert "private" in e.message
    e = refused(client(server, TOKEN), "me/Nothing")
    assert (e.code, e.hint) == ("model-not-found", "advisor models list")


def test_no_revision_and_no_file(server: FakeHub) -> None:
    e = refused(client(server), revision="v9")
    assert (e.code, e.exit_code) == ("model-not-found", 4)
    assert "v9" in e.message
    with pytest.raises(EntryMissing):
        client(server).part("me/Tiny", server.repos["me/tiny"].branches["main"], "nothing.json", 0, 10)


def test_a_bad_token(server: FakeHub) -> None:
    e = refused(client(server, "bad-token"))
    assert (e.code, e.exit_code, e.hint) == ("unauthorized", 6, "hf auth login")
    assert "bad-token" not in f"{e.message}{e.context}{e.data}"


def test_a_disabled_repository(server: FakeHub) -> None:
    server.repos["me/tiny"].disabled = True
    assert refused(client(server)).code == "model-not-found"


def test_a_gated_repository(server: FakeHub) -> None:
    repo = server.repos["me/tiny"]
    repo.gated = (TOKEN,)
    commit = repo.branches["main"]
    for token, said in ((None, "HF_TOKEN"), ("hf_other", "without access")):
        with pytest.raises(AdvisorError) as e:
            client(server, token).part("me/Tiny", commit, "config.json", 0, 10)
        assert (e.value.code, e.value.exit_code) == ("gated", 6)
        assert f"{server.endpoint}/me/Tiny" in e.value.message
        assert said in e.value.context[0]
    assert client(server, TOKEN).part("me/Tiny", commit, "config.json", 0, 1) == b"{"


def test_a_renamed_repository_is_followed(server: FakeHub) -> None:
    server.rename("me/Tiny", "us/Small")
    assert client(server, TOKEN).information("me/Tiny", "main")["id"] == "us/Small"
    assert all(s.headers["authorization"] for s in server.seen)


def test_circles_end(server: FakeHub) -> None:
    server.fault("/api/models/", redirect=f"{server.endpoint}/api/models/me/Tiny")
    assert "circles" in refused(client(server)).message


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirects_lead_to_http_only(server: FakeHub, target: str) -> None:
    server.fault("/api/models/", redirect=target)
    assert refused(client(server)).code == "network"


def test_another_commit_than_asked_for(server: FakeHub) -> None:
    commit = server.repos["me/tiny"].branches["main"]
    other = "f" * 40
    server.fault("/resolve/", redirect=f"{server.endpoint}/me/Tiny/resolve/{commit}/config.json", times=1)
    with pytest.raises(AdvisorError) as e:
        client(server).part("me/Tiny", other, "config.json", 0, 10)
    assert e.value.code == "integrity"


def test_the_token_goes_nowhere_else() -> None:
    access = Access("https://hub.example/mirror", TOKEN)
    assert access.token_for("https://hub.example/mirror/api/models/x") == TOKEN
    for url in ("https://hub.example.evil/x", "http://hub.example/x", "https://hub.example:8443/x", "https://cdn/x"):
        assert access.token_for(url) is None
    assert Access("http://hub.example", TOKEN).token_for("http://hub.example/x") is None
    assert Access("http://127.0.0.1:80", TOKEN).token_for("http://127.0.0.1/x") == TOKEN
    assert TOKEN not in repr(access)
    assert access.without_token(f"no {TOKEN}!") == "no [redacted]!"


def test_a_server_that_repeats_the_token(server: FakeHub) -> None:
    server.fault("/api/models/", status=403, headers={"X-Error-Message": f"token {TOKEN} may not"})
    e = refused(client(server, TOKEN))
    assert e.code == "unauthorized"
    assert TOKEN not in f"{e.message}{e.context}{e.data}"


def test_a_document_without_end(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advisor.execute.hub.client.MAX_DOCUMENT", 100)
    assert refused(client(server)).code == "integrity"


def test_the_endpoint_and_token_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_tokens(monkeypatch, tmp_path)
    assert access_of(settings.load()) == Access("https://huggingface.co", None)
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/hf/")
    monkeypatch.setenv("HF_TOKEN", f" {TOKEN}\n")
    assert access_of(settings.load()) == Access("https://mirror.example/hf", TOKEN)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert access_of(settings.load()).token is None
    monkeypatch.delenv("HF_HUB_DISABLE_IMPLICIT_TOKEN")
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "hf home").mkdir()
    (tmp_path / "hf home" / "token").write_text(f"{TOKEN}\n")
    assert access_of(settings.load()).token == TOKEN
    (tmp_path / "hf home" / "token").write_text("not a\ntoken")
    with pytest.raises(AdvisorError) as e:
        access_of(settings.load())
    assert e.value.code == "bad-option"
    assert "not a" not in e.value.message


@pytest.mark.parametrize(
    "bad", ["", "ftp://x", "huggingface.co", "https://user:secret@mirror.example", "https://m/?x=1"]
)
def test_bad_endpoints(bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_tokens(monkeypatch, tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", bad)
    with pytest.raises(AdvisorError) as e:
        access_of(settings.load())
    assert (e.value.code, e.value.exit_code) == ("bad-option", 2)
    assert "secret" not in e.value.message
