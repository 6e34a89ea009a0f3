"""Memory of the server of llama-cpp-python, predicted and measured, by vocabulary.

``python benchmarks/run.py binding``; compiles the package (over ten minutes) where its environment is not there yet.
Files have random weights, because memory depends on shapes and types alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from advisor import settings as settings_  # noqa: E402
from advisor.cost.gguf_mix import assign  # noqa: E402
from advisor.cost.memory import memory  # noqa: E402
from advisor.deploy.memory import resident  # noqa: E402
from advisor.execute.envs import ensure  # noqa: E402
from advisor.execute.proc import RUNNERS  # noqa: E402
from advisor.facts.plan import Settings  # noqa: E402
from tests.support import shapes  # noqa: E402

ENV = "llama-cpp-python"
MIB = 1 << 20
PORT = 18977
# shape, layers, vocabulary, format, context
FILES = (
    ("smollm2-135m", 2, 1024, "q8_0", 2048),
    ("smollm2-135m", 2, 32000, "q8_0", 2048),
    ("smollm2-135m", 2, 128256, "q8_0", 2048),
    ("smollm2-135m", 2, 256000, "q8_0", 2048),
    ("smollm2-135m", 30, 49152, "q8_0", 2048),
    ("smollm2-135m", 30, 49152, "q4_k_m", 8192),
    ("tinyllama-1.1b", 22, 32000, "q4_k_m", 4096),
)


def binding(say: Callable[[str], None]) -> None:
    """The table: what the process takes beside the model's parts, and the whole of it."""
    env = ensure(ENV, settings=settings_.load())
    machine = this_machine()
    say("## Memory of llama-cpp-python's server, predicted and measured\n")
    say("`python benchmarks/run.py binding`; random weights, after prompts of more than a physical batch, MiB.\n")
    say("| shape | layers | vocabulary | format | context | process, measured | process, predicted | whole, measured |")
    say("|---|---|---|---|---|---|---|---|")
    rows = []
    for name, layers, vocab, fmt, context in FILES:
        arch = shapes.KNOWN[name]._replace(layers=layers, vocab=vocab)
        facts, tensors = shapes.facts(arch), shapes.tensors(arch)
        wanted = Settings(context=context, threads=os.cpu_count())
        q = memory(
            facts,
            tensors,
            method="gguf",
            fmt=fmt,
            runtime=ENV,
            settings=wanted,
            machine=machine,
            devices=("host",),
            as_is=False,
        )
        with tempfile.TemporaryDirectory(prefix="advisor bench ") as folder:
            types = {a.tensor.name: a.type for a in assign(facts, tensors, fmt, imatrix=False)}
            path = shapes.write(Path(folder) / "model.gguf", arch, types, words=True, filled=True)
            took = serve(env.python, path, wanted)
        own = took - (q.total.value - q.overhead.value)
        rows.append(q.total.value / took)
        say(
            f"| {name} | {layers} | {vocab} | {fmt} | {context} | {own / MIB:.1f} | {q.overhead.value / MIB:.1f} "
            f"| {took / MIB:.1f} |"
        )
    say(f"\nPredicted over measured, the whole: {min(rows):.3f} to {max(rows):.3f}.\n")


def this_machine() -> Any:
    """This machine."""
    import advisor

    return advisor.probe().machine


def serve(python: str, model: Path, wanted: Settings) -> int:
    """Bytes resident in the server's process after three prompts.

    Raises:
        RuntimeError: it does not get ready.
    """
    argv = [python, "-I", "-X", "utf8", str(RUNNERS / "serve_llama_python.py"), "--model", str(model), "--alias", "m"]
    argv += ["--port", str(PORT), "--context", str(wanted.context), "--ubatch", str(wanted.ubatch)]
    argv += ["--threads", str(wanted.threads), "--load-mode", str(wanted.load_mode)]
    env = {**settings_.child_environment(), "OMP_WAIT_POLICY": "passive"}
    log = model.with_name("log")
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out, env=env)
    try:
        for _ in range(300):
            if process.poll() is not None:
                break
            try:
                _ask("/v1/models", None)
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        if process.poll() is not None:
            raise RuntimeError(log.read_text(encoding="utf-8", errors="replace")[-2000:])
        most = 0
        for i in range(3):
            # A token a byte. Each begins with another letter, so that nothing of the one before is reused.
            _ask("/v1/completions", {"prompt": f"{chr(97 + i)} " + "ab " * (wanted.ubatch // 3 + 40), "max_tokens": 4})
            seen = resident([process.pid])
            most = max(most, int(seen.value) if seen is not None else 0)
        return most
    finally:
        process.terminate()
        process.wait(30)


def _ask(path: str, body: dict[str, Any] | None) -> bytes:
    raw = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}{path}", data=raw, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        answer: bytes = reply.read()
    return answer
