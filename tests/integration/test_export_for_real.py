"""A real deployment in the foreground, its export as a script, and the script serving the same model by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from advisor.deploy import ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ENOUGH_S = 600.0


@pytest.fixture
def env(tmp_path: Path, shared_home: Path) -> Iterator[dict[str, str]]:
    """An environment with a home whose state is fresh; what was made before is reused."""
    home = tmp_path / "home of $exports"
    home.mkdir()
    (shared_home / "cache").mkdir(exist_ok=True)
    (home / "cache").symlink_to(shared_home / "cache")
    made = {**os.environ, "ADVISOR_HOME": str(home)}
    yield made
    subprocess.run([sys.executable, "-m", "advisor", "down", "--all", "-q"], env=made, timeout=120)


def wait_ready(url: str, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + ENOUGH_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"never ready; exit code {process.poll()}")


def chat(url: str, key: str | None) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as reply:
        answer: dict[str, Any] = json.load(reply)
        return answer


def test_foreground_and_then_the_exported_script(env: dict[str, str], tmp_path: Path) -> None:
    port = ports.choose("127.0.0.1", 18400, explicit=False)
    url = f"http://127.0.0.1:{port}"
    up = subprocess.Popen(
        [sys.executable, "-m", "advisor", "up", "--name", "front", "--port", str(port), "--foreground", "-q"],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert up.stdout is not None
    assert up.stdout.readline().strip() == f"{url}/v1"
    export = subprocess.run(
        [sys.executable, "-m", "advisor", "export", "script", "front", "--json"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    time.sleep(1.0)  # it stays
    assert up.poll() is None and chat(url, None)["choices"]
    up.send_signal(signal.SIGTERM)
    assert up.wait(60) == 0
    assert not ports.is_taken("127.0.0.1", port), "the server went with it"

    made = json.loads(export.stdout)["data"]
    script = tmp_path / 'it\'s a "script".sh'
    script.write_text(made["text"], encoding="utf-8")
    served = subprocess.Popen(
        ["sh", str(script)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )
    try:
        wait_ready(url, served)
        key = (Path(env["ADVISOR_HOME"]) / "state" / "keys" / "front").read_text()
        assert chat(url, key)["choices"][0]["message"]["content"]
        with pytest.raises(urllib.error.HTTPError) as e:
            chat(url, None)
        assert e.value.code == 401
    finally:
        served.terminate()
        assert served.wait(60) == 0
