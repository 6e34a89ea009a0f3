"""``up --runtime ollama`` from a GGUF file to a chat and back down: a fake daemon, the other runners scripted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from advisor.deploy import client
from advisor.execute.proc import RUNNERS
from tests.support import scripted
from tests.support.fake_ollama import ANSWER, OTHERS, FakeOllama
from tests.unit.deploy.rig import Rig

REAL = ("serve_ollama.py", "ollama_daemon.py", "openai_server.py", "openai_requests.py", "serve_llama.py")


class Home:
    """A home of its own, a model, and a daemon."""

    def __init__(self, root: Path, fake: FakeOllama) -> None:
        self.fake = fake
        self.folder = scripted.runners(root / "runners")
        for name in REAL:
            shutil.copy(RUNNERS / name, self.folder / name)
        self.file = scripted.model(root / "small-Q8_0.gguf", "q8_0")
        self.rig = Rig(Path(os.environ["ADVISOR_HOME"]) / "state" / "deployments")

    def run(self, *words: str, **env: str) -> tuple[int, dict[str, Any]]:
        done = scripted.advisor(self.folder, *words, "--json", **{"OLLAMA_HOST": self.fake.url, **env})
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads(done.stdout)

    def up(self, *words: str, **env: str) -> tuple[int, dict[str, Any]]:
        return self.run("up", str(self.file), "--runtime", "ollama", *words, **env)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with FakeOllama() as fake:
        made = Home(tmp_path, fake)
        yield made
        made.rig.clean_up()


def test_from_a_file_to_a_chat_and_down(home: Home) -> None:
    code, document = home.up()
    assert code == 0, document
    deployment, receipt = document["data"]["deployment"], document["data"]["receipt"]
    assert (deployment["runtime"], deployment["state"]) == ("ollama", "ready")
    (name,) = home.fake.own()
    blob = f"sha256:{hashlib.sha256(home.file.read_bytes()).hexdigest()}"
    assert home.fake.models[name]["files"] == {home.file.name: blob}
    assert home.fake.running[name]["keep_alive"] == -1
    answer = client.chat(deployment["openai_base_url"], deployment["model"], [{"role": "user", "content": "?"}])
    assert answer.text == ANSWER

    assert receipt["measured"]["memory"] is None and receipt["error"]["memory_ratio"] is None
    assert receipt["predicted"]["memory"]["value"] > 0
    size = (home.file.stat().st_size + (1 << 20)) / 2**20
    assert f"The memory is the daemon's: {size:.0f} MiB by /api/ps." in receipt["notes"]
    assert receipt["answer"] == ANSWER

    imports = len([c for c in home.fake.calls if c.path == "/api/create"])
    code, again = home.up()
    assert (code, again["data"]["deployment"]["pid"]) == (0, deployment["pid"])
    assert len([c for c in home.fake.calls if c.path == "/api/create"]) == imports == 1

    code, ended = home.run("down", deployment["name"])
    assert code == 0 and ended["data"]["deployments"][0]["state"] == "stopped", ended
    assert list(home.fake.running) == [OTHERS]
    assert set(home.fake.models) == {OTHERS, name}
    assert "DELETE" not in {c.method for c in home.fake.calls}


def test_the_page_names_the_daemons_memory_and_its_own_settings(home: Home) -> None:
    words = ("up", str(home.file), "--runtime", "ollama", "--parallel", "2", "--kv-type", "q8_0")
    done = scripted.advisor(home.folder, *words, OLLAMA_HOST=home.fake.url)
    assert done.returncode == 0, done.stderr
    page = " ".join((done.stdout + done.stderr).split())
    assert "by /api/ps" in page
    assert "OLLAMA_NUM_PARALLEL=2" in page and "OLLAMA_KV_CACHE_TYPE=q8_0" in page


def test_without_a_daemon_it_says_what_is_needed(home: Home) -> None:
    home.fake.close()
    code, document = home.up()
    assert (code, document["error"]["code"]) == (4, "not-available")
    assert document["error"]["data"]["needs"] == ["Ollama installed and running"]
    assert scripted.started(home.folder) == []


def test_a_daemon_that_fails_is_named(home: Home) -> None:
    home.fake.load_error = "model requires more system memory (9.1 GiB) than is available (3.0 GiB)"
    code, document = home.up()
    assert document["error"]["code"] == "server-failed" and code != 0
    assert document["error"]["data"]["finding"]["code"] == "out-of-memory"
    assert list(home.fake.running) == [OTHERS]


def test_a_deployment_whose_daemon_died_is_not_called_ready(home: Home) -> None:
    code, document = home.up()
    assert code == 0, document
    home.fake.close()
    _, seen = home.run("status", document["data"]["deployment"]["name"])
    assert seen["data"]["deployments"][0]["state"] not in ("ready", "stopped")
    assert home.run("down", document["data"]["deployment"]["name"])[0] == 0
