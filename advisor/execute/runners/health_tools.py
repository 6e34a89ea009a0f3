"""Prove that llama.cpp's programs work: write a tiny model, quantize it, serve it, complete a prompt.

Request: ``{"serve": argv with {model} and {port}, "env": {}, "quantize": program or null}``, or ``{}`` inside an
environment that has the programs in ``tools/bin``. Result: ``{"tokens", "quantized_bytes", "log"}``; ``log`` is what
the server wrote. A version that a program prints proves nothing: builds for another processor print theirs and die of
an illegal instruction when a model runs.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import gguf_min
import protocol

READY_S = 120.0
LOG_LIMIT = 1 << 20
# The random model would say any bytes; some builds refuse an answer that is no text.
QUESTION = {"prompt": "ab", "n_predict": 2, "temperature": 0, "grammar": "root ::= [a-z]+"}
# No proxy: the server is on this machine.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One request; the answer's JSON object.

    Raises:
        OSError: nobody answers, or not with status 200.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data=data, headers={"Content-Type": "application/json"}
    )
    with OPENER.open(request, timeout=60) as reply:
        answer = json.loads(reply.read(1 << 20))
    return answer if isinstance(answer, dict) else {}


def how(status: int) -> str:
    """How a program ended, in words."""
    signals = {4: "it was built for another processor (illegal instruction)", 9: "it was killed", 11: "it crashed"}
    return signals.get(-status, f"signal {-status}") if status < 0 else f"exit status {status}"


def quantize(tool: str, model: Path, folder: Path, env: dict[str, str]) -> int:
    """Quantize the model to 8 bits; bytes of the file.

    Raises:
        Failed: ``runtime-unfit``.
    """
    out = folder / "tiny-q8_0.gguf"
    done = subprocess.run(
        [tool, str(model), str(out), "Q8_0", "1"],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False,
    )  # fmt: skip
    text = done.stdout.decode(errors="replace")
    print(text, file=sys.stderr)
    if done.returncode != 0:
        raise protocol.Failed("runtime-unfit", f"{tool} fails: {how(done.returncode)}.", text.splitlines()[-5:])
    raw = out.read_bytes() if out.is_file() else b""
    if raw[:4] != b"GGUF" or not 0 < len(raw) < model.stat().st_size:
        raise protocol.Failed("runtime-unfit", f"{tool} ends well, but what it wrote is no smaller GGUF file.")
    return len(raw)


def serve(argv: list[str], model: Path, folder: Path, env: dict[str, str]) -> tuple[int, str]:
    """Serve the model, complete a prompt, stop; (tokens, log).

    Raises:
        Failed: ``runtime-unfit``.
    """
    port = free_port()
    line = [a.replace("{model}", str(model)).replace("{port}", str(port)) for a in argv]
    log = folder / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(line, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + READY_S
            while True:
                status = server.poll()
                if status is not None:
                    tail = text_of(log).splitlines()[-8:]
                    raise protocol.Failed("runtime-unfit", f"{line[0]} does not serve a model: {how(status)}.", tail)
                if time.monotonic() > deadline:
                    raise protocol.Failed("runtime-unfit", f"{line[0]} is not ready after {READY_S:.0f} s.")
                try:
                    if ask(port, "/health").get("status") == "ok":
                        break
                except (OSError, ValueError):
                    time.sleep(0.1)
            try:
                reply = ask(port, "/completion", QUESTION)
            except (OSError, ValueError) as e:
                tail = text_of(log).splitlines()[-8:]
                raise protocol.Failed(
                    "runtime-unfit", f"{line[0]} loads a model but does not complete: {e}", tail
                ) from e
            tokens = int(reply.get("tokens_predicted") or 0)
            if tokens < 1:
                raise protocol.Failed("runtime-unfit", f"{line[0]} answers without a completion: {str(reply)[:200]}")
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            print(text_of(log), file=sys.stderr)
    return tokens, text_of(log)


def text_of(log: Path) -> str:
    """The beginning of a log."""
    with log.open("rb") as f:
        return f.read(LOG_LIMIT).decode(errors="replace")


def own() -> dict[str, Any]:
    """The request for the programs of this environment.

    Raises:
        Failed: ``env-failed``, they are not there.
    """
    folder = Path(sys.prefix) / "tools" / "bin"
    server = folder / "llama-server"
    if not os.access(server, os.X_OK):
        raise protocol.Failed("env-failed", f"The environment has no llama-server in {folder}.")
    line = ["--model", "{model}", "--host", "127.0.0.1", "--port", "{port}"]
    line += ["--ctx-size", "256", "--threads", "1", "--verbosity", "4"]
    return {"serve": [str(server), *line], "env": {}, "quantize": str(folder / "llama-quantize")}


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Run both."""
    request = request if "serve" in request else own()
    env = {**os.environ, **request.get("env", {})}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "tiny.gguf"
        gguf_min.write_tiny(model)
        size = None
        if request.get("quantize"):
            protocol.progress(1, 3, "checks", "quantizing a tiny model", force=True)
            size = quantize(request["quantize"], model, folder, env)
        protocol.progress(2, 3, "checks", "serving a tiny model", force=True)
        tokens, log = serve(request["serve"], model, folder, env)
    return {"tokens": tokens, "quantized_bytes": size, "log": log[-100_000:]}


if __name__ == "__main__":
    protocol.run(work, code="runtime-unfit")
