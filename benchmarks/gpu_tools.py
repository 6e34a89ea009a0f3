"""What the GPU check measures with: nvidia-smi, the device's memory meanwhile, a server started and asked."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from advisor import settings as settings_

# Llama 3.1 8B's own shape (config.json of meta-llama/Llama-3.1-8B).
LLAMA_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}
MIB = 1 << 20


class AbsentError(Exception):
    """A part cannot run on this machine; the message says what it lacks."""


def smi(fields: str) -> list[list[str]]:
    """What ``nvidia-smi`` says of each GPU."""
    try:
        said = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=30, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError) as e:
        raise AbsentError(f"nvidia-smi does not answer: {e}") from e
    return [[word.strip() for word in line.split(",")] for line in said.splitlines() if line.strip()]


@contextmanager
def device_memory() -> Iterator[dict[str, int]]:
    """The most memory that the first GPU had in use meanwhile (``peak``) above what it had before, in bytes."""
    import threading

    before = int(smi("memory.used")[0][0]) * MIB
    seen = {"peak": 0}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            try:
                seen["peak"] = max(seen["peak"], int(smi("memory.used")[0][0]) * MIB - before)
            except (AbsentError, ValueError, IndexError):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def served(argv: Any, env: dict[str, str], port: int, log: Path, backend: Any) -> float | None:
    """Start, wait until ready, measure decoding, end."""
    import urllib.request

    from advisor.deploy.measure import measure

    with log.open("ab") as out:
        server = subprocess.Popen(
            argv, env={**settings_.server_environment(), **env}, stdout=out, stderr=out, start_new_session=True
        )
    try:
        until = time.monotonic() + 900
        while time.monotonic() < until:
            if server.poll() is not None:
                tail = log.read_text(encoding="utf-8", errors="replace")[-4000:]
                found = backend.diagnose(tail)
                raise AbsentError(f"the server ended: {found.message if found is not None else tail[-400:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{backend.health_path}", timeout=5) as reply:
                    if backend.ready(reply.status, reply.read()):
                        break
            except OSError:
                time.sleep(1)
        speed = measure(f"http://127.0.0.1:{port}/v1", "m", prompt_tokens=512, max_tokens=128, repeat=3)
        return float(speed.decode.value) if speed.decode is not None else None
    finally:
        import os
        import signal

        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def free_port() -> int:
    """A port that is free now."""
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
