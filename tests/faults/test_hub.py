"""What can go wrong between here and the hub, through the real command line, over a hub on loopback."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from advisor import api, settings
from advisor.api import checkpoints
from advisor.errors import AdvisorError
from advisor.execute.steps import Steps
from tests.support import scripted
from tests.support.fake_hub import FakeHub
from tests.support.fake_hub_models import checkpoint, gguf, no_tokens, quantized

CANARY = "hf_canaryCANARYcanary0002"
REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    no_tokens(monkeypatch, tmp_path)
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


def advisor(*words: str, **env: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, document and everything that was written."""
    done = subprocess.run(
        [sys.executable, "-m", "advisor", *words, "--json"],
        cwd=REPO,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, json.loads(done.stdout), done.stdout + done.stderr


def test_offline_with_and_without_the_cache(server: FakeHub, tmp_path: Path) -> None:
    server.add("me/Tiny", checkpoint(tmp_path / "tiny"))
    code, document, _ = advisor("recommend", "me/Tiny", HF_HUB_OFFLINE="1")
    assert (code, document["error"]["code"]) == (6, "offline")
    assert document["error"]["data"]["missing"] == "me/Tiny"
    assert server.seen == []
    code, document, _ = advisor("recommend", "me/Tiny")
    assert code == 0
    assert document["data"]["plans"][0]["status"] == "ready"
    revision = document["data"]["model"]["revision"]
    asked = len(server.seen)
    code, document, _ = advisor("recommend", "me/Tiny", HF_HUB_OFFLINE="1")
    assert code == 0
    assert document["data"]["model"]["revision"] == revision
    assert document["data"]["plans"][0]["status"] == "needs"
    assert "offline" in document["data"]["plans"][0]["needs"][-1]
    code, document, _ = advisor("up", "me/Tiny", HF_HUB_OFFLINE="1")
    assert (code, document["error"]["code"]) == (6, "offline")
    assert len(server.seen) == asked


def test_a_bundled_model_is_planned_without_asking_anybody(server: FakeHub) -> None:
    code, document, _ = advisor("recommend", "meta-llama/Llama-3.1-8B-Instruct")
    assert (code, document["data"]["plans"][0]["needs"]) == (0, [])
    assert server.seen == []


def test_a_gated_model_says_where_to_accept(server: FakeHub, tmp_path: Path) -> None:
    """Also one whose facts are bundled: before any long step."""
    name = "meta-llama/Llama-3.2-1B-Instruct"
    server.add(name, checkpoint(tmp_path / "gated"), gated=("hf_someone-elses",))
    for token in ({}, {"HF_TOKEN": CANARY}):
        code, document, everything = advisor("up", name, **token)
        assert (code, document["error"]["code"]) == (6, "gated")
        assert f"{server.endpoint}/{name}" in document["error"]["message"]
        assert document["error"]["hint"] == "hf auth login"
        assert document["error"]["data"]["step"] == "decide"
        assert CANARY not in everything


@pytest.mark.parametrize("given", ["environment", "file"])
def test_the_token_is_shown_nowhere(server: FakeHub, tmp_path: Path, given: str) -> None:
    home = Path(os.environ["ADVISOR_HOME"])
    server.add("me/Secret-GGUF", gguf(tmp_path / "m" / "small-F16.gguf").parent, private=(CANARY,))
    env = {}
    if given == "environment":
        env["HF_TOKEN"] = CANARY
    else:
        Path(os.environ["HF_HOME"]).mkdir()
        (Path(os.environ["HF_HOME"]) / "token").write_text(CANARY)
    folder = scripted.runners(tmp_path / "runners")
    done = scripted.advisor(folder, "up", "me/Secret-GGUF", "--verbose", "--json", "--format", "q4_k_m", **env)
    assert done.returncode == 0, done.stdout
    pid = json.loads(done.stdout)["data"]["deployment"]["pid"]
    try:
        command = Path(f"/proc/{pid}/cmdline")
        if command.exists():
            assert CANARY.encode() not in command.read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        scripted.advisor(folder, "down", "--all")
    assert CANARY not in done.stdout + done.stderr
    for path in home.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path
    assert all("authorization" not in s.headers for s in server.seen if s.host == "cdn")
    assert any(s.headers.get("authorization") == f"Bearer {CANARY}" for s in server.seen)
    wrong, document, everything = advisor("recommend", "me/Secret-GGUF@nothing", HF_TOKEN=CANARY)
    assert (wrong, document["error"]["code"]) == (4, "model-not-found")
    assert CANARY not in everything


def test_what_is_not_there(server: FakeHub, tmp_path: Path) -> None:
    server.add("me/Tiny", checkpoint(tmp_path / "tiny"))
    for words, said in (
        (("me/Nothing",), "me/Nothing"),
        (("me/Tiny@v9",), "v9"),
        ((f"me/Tiny@{'0' * 40}",), "0" * 40),
        (("Qwen/Qwen3-8Bx",), '"Qwen/Qwen3-8B"'),
        (("https://elsewhere.example/me/Tiny",), "HF_ENDPOINT"),
    ):
        code, document, _ = advisor("recommend", *words)
        assert (code, document["error"]["code"]) == (4, "model-not-found"), words
        assert said in json.dumps(document["error"], ensure_ascii=False).replace('\\"', '"')


def test_a_renamed_model_is_found_under_its_old_name(server: FakeHub, tmp_path: Path) -> None:
    server.add("me/Tiny", checkpoint(tmp_path / "tiny"))
    server.rename("me/Tiny", "us/Small")
    code, document, _ = advisor("recommend", "me/Tiny")
    assert code == 0
    assert document["data"]["model"]["name"] == "us/Small"
    assert any("renamed" in n for n in document["data"]["model"]["notes"])


@pytest.mark.slow
def test_a_branch_that_moves_after_planning(server: FakeHub, tmp_path: Path) -> None:
    """The plan's commit is what is fetched, not what the branch has become."""
    folder = gguf(tmp_path / "m" / "small-F16.gguf").parent
    repo = server.add("me/Moving-GGUF", folder)
    planned = repo.branches["main"]
    code, document, _ = advisor("recommend", "me/Moving-GGUF", "--format", "q4_k_m")
    assert code == 0
    plan = document["data"]["plans"][0]["id"]
    old = (folder / "small-F16.gguf").read_bytes()
    (tmp_path / "old.gguf").write_bytes(old)
    entry = repo.commits[planned].files["small-F16.gguf"]
    entry.file = tmp_path / "old.gguf"
    gguf(folder / "small-F16.gguf", seed=9)
    assert repo.commit() != planned
    runners = scripted.runners(tmp_path / "runners")
    done = scripted.advisor(runners, "up", plan, "--json")
    try:
        assert done.returncode == 0, done.stdout
        (fetched,) = (Path(os.environ["ADVISOR_HOME"]) / "cache/store/v1/artifacts").glob("hub-*")
        assert json.loads((fetched / "manifest.json").read_text())["data"]["revision"] == planned
        assert (fetched / "model" / "small-F16.gguf").read_bytes() == old
    finally:
        scripted.advisor(runners, "down", "--all")


def test_a_limited_hub_is_given_up_with_a_word_on_when(server: FakeHub, tmp_path: Path) -> None:
    server.add("me/Tiny", checkpoint(tmp_path / "tiny"))
    server.fault("/api/models/", status=429, headers={"Retry-After": "900"})
    code, document, _ = advisor("recommend", "me/Tiny")
    assert (code, document["error"]["code"]) == (6, "network")
    assert document["error"]["data"]["retryable"] is True
    assert document["error"]["data"]["retry_after_s"] == 900


def test_a_hub_that_is_gone_leaves_what_was_read(server: FakeHub, tmp_path: Path) -> None:
    server.add("me/Tiny", checkpoint(tmp_path / "tiny"))
    assert advisor("recommend", "me/Tiny")[0] == 0
    server.faults.clear()
    server.fault("/api/models/", status=503, headers={"Retry-After": "900"})
    code, document, _ = advisor("recommend", "me/Tiny")
    assert code == 0
    assert any("could not be asked" in n for n in document["data"]["model"]["notes"])


def test_wrong_bytes_are_never_published(server: FakeHub, tmp_path: Path) -> None:
    server.add("me/Bad-GGUF", gguf(tmp_path / "m" / "small-F16.gguf").parent)
    # The header is read in order; what is fetched afterwards is wrong, twice.
    server.fault(lambda s: s.host == "cdn" and "range" not in s.headers, corrupt=True)
    runners = scripted.runners(tmp_path / "runners")
    done = scripted.advisor(runners, "up", "me/Bad-GGUF", "--json")
    assert done.returncode == 7
    assert json.loads(done.stdout)["error"]["code"] == "integrity"
    store = Path(os.environ["ADVISOR_HOME"]) / "cache/store/v1"
    assert not (store / "artifacts").exists()
    assert len(list((store / "quarantine").iterdir())) == 2
    assert scripted.started(runners) == []


def test_a_ready_made_artifact_of_the_publisher_is_served(server: FakeHub, tmp_path: Path) -> None:
    """Less to fetch, nothing to quantize, the same verification; what it is and whose is said."""
    server.add("me/Tiny", checkpoint(tmp_path / "tiny"))
    folder = quantized(tmp_path / "q" / "Tiny-Q8_0.gguf").parent
    server.add("me/Tiny-GGUF", folder, tags=("base_model:quantized:me/Tiny",))
    runners = scripted.runners(tmp_path / "runners")
    done = scripted.advisor(runners, "up", "me/Tiny", "--format", "q8_0", "--json")
    try:
        data = json.loads(done.stdout)["data"]
        assert done.returncode == 0, done.stdout
        assert data["plan"]["source"] == "prequantized"
        assert "me/Tiny-GGUF" in data["plan"]["assumptions"][0]
        assert scripted.started(runners) == ["validate", "verify", "serve"]
        assert data["receipt"]["quality_gate"]["verdict"] in ("pass", "warn")
        assert any("not held against the original" in n for n in data["receipt"]["notes"])
    finally:
        scripted.advisor(runners, "down", "--all")


def test_a_ready_made_checkpoint_is_planned_fetched_and_held_to_the_plan(server: FakeHub, tmp_path: Path) -> None:
    """A publisher's AWQ repository beside the original: less to fetch, its own configuration says what it is."""
    server.add("me/Tiny", checkpoint(tmp_path / "tiny"))
    packed = checkpoint(tmp_path / "packed")
    config = json.loads((packed / "config.json").read_text(encoding="utf-8"))
    said = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
    (packed / "config.json").write_text(json.dumps({**config, "quantization_config": said}), encoding="utf-8")
    server.add("me/Tiny-AWQ", packed, tags=("base_model:quantized:me/Tiny",))
    report = api.recommend("me/Tiny", method="awq", format="w4a16-g32")
    plan = next(p for p in report.plans if p.source == "prequantized")
    assert plan.artifact is not None
    assert plan.artifact.startswith("me/Tiny-AWQ@")
    made = checkpoints.ready(settings.load(), Steps(), report.model, plan)
    assert (made.artifact / "config.json").is_file()
    assert made.reference is None
    assert made.recipe is not None
    assert (made.recipe.method, made.recipe.format) == ("awq", "w4a16-g32")
    assert any("not held against the original" in n for n in made.notes)
    other = msgspec.structs.replace(plan, format="w4a16-g64")
    with pytest.raises(AdvisorError, match="the format w4a16-g32 instead of w4a16-g64") as e:
        checkpoints.ready(settings.load(), Steps(), report.model, other)
    assert e.value.code == "integrity"


def test_hostile_templates_and_names_are_only_data(server: FakeHub, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny")
    template = (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{% for x in range(10**12) %}{% endfor %}" + "a" * 3_000_000
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    (folder / "README.md").write_text("---\nlicense: \x1b[31mred\x1b[0m\n---\n")
    server.add("me/Tiny", folder)
    code, document, everything = advisor("recommend", "me/Tiny")
    assert (code, document["data"]["model"]["chat_template"]) == (0, True)
    assert "\x1b" not in everything
    assert "__class__" not in everything


CHILD = """
import sys
from advisor import settings
from advisor.api import hubbing
from advisor.execute.steps import Steps
print(hubbing.fetched(sys.argv[1], settings.load(), Steps()).path)
"""


def fetching(ref: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, ref], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_killed_twenty_times_at_random_it_ends_with_the_right_bytes(server: FakeHub, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "big", shards=3, ff=40_000)
    server.add("me/Big", folder)
    total = sum(p.stat().st_size for p in folder.iterdir())
    server.pause = 0.002
    store = Path(os.environ["ADVISOR_HOME"]) / "cache" / "store" / "v1"
    dice = random.Random(20)
    killed = 0
    while killed < 20:
        enough = server.sent + dice.randrange(1, total // 12)
        child = fetching("me/Big")
        while server.sent < enough and child.poll() is None:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        out, err = child.communicate(timeout=60)
        assert child.returncode == -signal.SIGKILL, f"it was done after {killed} kills: {out}{err}"
        killed += 1
        assert not list((store / "artifacts").glob("*"))
    server.pause = 0
    child = fetching("me/Big")
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    path = Path(out.strip())
    for name in (p.name for p in folder.iterdir()):
        assert (path / name).read_bytes() == (folder / name).read_bytes(), name
    manifest = json.loads((path.parent / "manifest.json").read_text())
    assert all(f["checked"] for f in manifest["data"]["files"].values())
    # What was there was kept: all runs together were sent little more than the model once.
    assert server.sent < 2 * total
    assert not list((store / "partial").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "call", ["os.link", "advisor.execute.store.file_sha256", "os.replace", "advisor.execute.hub.fetch.remove_tree"]
)
def test_killed_after_the_last_byte_nothing_is_fetched_again(server: FakeHub, tmp_path: Path, call: str) -> None:
    folder = checkpoint(tmp_path / "tiny", shards=2)
    server.add("me/Tiny", folder)
    at = f"""
from tests.support.faults import kill_at
from advisor.execute.hub import fetch
n = {{"os.link": 3, "advisor.execute.store.file_sha256": 2, "os.replace": 1}}.get({call!r}, 1)
place = fetch._place
def arm(*a):
    global n
    if n is not None:
        kill_at({call!r}, n)
        n = None
    return place(*a)
fetch._place = arm
"""
    done = subprocess.run(
        [sys.executable, "-c", at + CHILD, "me/Tiny"], cwd=REPO, env={**os.environ, "PYTHONPATH": "."},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    weights = [s for s in server.seen if s.host == "cdn"]
    child = fetching("me/Tiny")
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    path = Path(out.strip())
    for name in (p.name for p in folder.iterdir()):
        assert (path / name).read_bytes() == (folder / name).read_bytes(), name
    assert [s for s in server.seen if s.host == "cdn"] == weights
