"""The real command line over scripted runners: no managed environment, no download, and bad habits on request.

``python -m tests.support.scripted FOLDER WORDS...`` is ``advisor WORDS...`` where every managed environment is the
interpreter that runs the tests and the runners are those in FOLDER, which ``runners`` writes. What a runner does wrong
stands in ``FOLDER/habits.json``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.support.gguf_writer import llama_like

REPO: Final = Path(__file__).resolve().parents[2]
_HEAD: Final = f"""
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, {str(REPO)!r})
HABITS = json.loads(Path(__file__).with_name("habits.json").read_text())
def say(**k):
    os.write(3, (json.dumps(k) + "\\n").encode())
def done(**data):
    say(type="result", data=data)
def started(step):
    with Path(__file__).with_name("started").open("a") as f:
        f.write(step + "\\n")
"""
_QUANTIZE: Final = """
request = json.load(sys.stdin)
started("quantize")
out, habit = Path(request["out"]), HABITS.get("quantize")
print("quantizing", out.name, flush=True)
print("\\x1b[31mlast line of the quantizer\\x1b[0m", flush=True)
if habit == "slow":
    say(type="progress", done=1, total=100, unit="tensors", message="slowly")
    time.sleep(300)
from tests.support.gguf_writer import header
from advisor.model.gguf import read_header
source = read_header(Path(request["source"]))
metadata = {k: v for k, v in source.metadata.items() if isinstance(v, (str, int, float))}
tensors = [(t.name, t.shape, request["types"][t.name]) for t in source.tensors]
head, body = header(metadata, tensors)
whole = head + os.urandom(16) * (body // 16 + 1)
whole = whole[: len(head) + body]
if isinstance(habit, int):  # half of it is written when the signal comes
    out.write_bytes(whole[: len(whole) // 2])
    os.kill(os.getpid(), habit)
if habit == "disk":
    out.write_bytes(whole * (1 + (4 << 20) // len(whole)))
if habit == "exit 3":
    sys.exit(3)
if habit == "empty":
    whole = b""
elif habit == "garbage":
    whole = b"<html>sorry</html>" * 1000
elif habit == "cut":
    whole = whole[:-5000]
elif habit == "sixteen":
    head, body = header(metadata, [(t.name, t.shape, t.type) for t in source.tensors])
    whole = head + bytes(body)
if habit != "nothing":
    out.write_bytes(whole)
done(out=str(out), types=request["types"], imatrix_used=0, imatrix_missing=[], seconds=1.0)
"""
_VALIDATE: Final = """
json.load(sys.stdin)
started("validate")
if HABITS.get("validate") == "nan":
    say(type="error", code="artifact-invalid", message="3 of 320 logits of it are not numbers.", context=["nan"])
    sys.exit(1)
done(answer="Paris", tokens=8, vocabulary=320, non_finite=0, spread=1.0, load_seconds=0.1, decode_seconds=0.1)
"""
_LOGITS: Final = """
request = json.load(sys.stdin)
started("verify")
pair = len(request["models"]) == 2
answers = [["Paris is the capital of France." for _ in request["prompts"]] for _ in request["models"]]
done(perplexity=[10.0, 10.01][: len(request["models"])], kld=0.002 if pair else None, kld_max=0.1 if pair else None,
     top1_agreement=0.99 if pair else None, positions=2560, chunks=10, non_finite=0, prompts=answers, seconds=1.0)
"""
_DRY: Final = """
json.load(sys.stdin)
sys.exit(1)
"""
_SERVE: Final = """
import argparse
started("serve")
p = argparse.ArgumentParser()
p.add_argument("--host")
p.add_argument("--port")
p.add_argument("--api-key-file")
a, _ = p.parse_known_args()
from tests.support import fake_server
key = ["--key-file", a.api_key_file] if a.api_key_file else []
sys.exit(fake_server.main(["--host", a.host, "--port", a.port, "--timings", *key, *HABITS.get("serve", [])]))
"""
_SCRIPTS: Final = {
    "quantize.py": _QUANTIZE,
    "validate.py": _VALIDATE,
    "logits.py": _LOGITS,
    "dryload.py": _DRY,
    "serve_llama.py": _SERVE,
}


def runners(folder: Path, **habits: Any) -> Path:
    """Write the scripted runners.

    Args:
        quantize: a signal to die by, or ``slow disk nothing empty garbage cut sixteen``, or ``exit 3``.
        validate: ``nan``.
        serve: options of the fake server.
    """
    folder.mkdir(exist_ok=True)
    for name, body in _SCRIPTS.items():
        (folder / name).write_text(_HEAD + body)
    for shared in ("protocol.py", "scores.py"):
        (folder / shared).write_text("")
    (folder / "habits.json").write_text(json.dumps(habits))
    return folder


def started(folder: Path) -> list[str]:
    """The runners that were started, in order."""
    file = folder / "started"
    return file.read_text().split() if file.exists() else []


def model(path: Path, types: str = "f16") -> Path:
    """A GGUF file of a small Llama, complete but without sense."""
    return llama_like(path, types=types, name="small", vocab=320, sparse=False)


def command(folder: Path, *words: str) -> list[str]:
    """The command that runs ``advisor WORDS`` over the runners in ``folder``."""
    return [sys.executable, "-m", "tests.support.scripted", str(folder), *words]


def advisor(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``advisor WORDS`` over the runners in ``folder`` to its end."""
    return subprocess.run(
        command(folder, *words),
        cwd=REPO,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _main(folder: Path, words: list[str]) -> None:
    from advisor.cli import main as cli
    from advisor.execute import envs, make, proc
    from advisor.execute.envs import Env

    def here(name: str, **_: object) -> Env:
        return Env(name=name, path=sys.prefix, python=sys.executable, digest="scripted")

    envs.find = envs.ensure = here  # type: ignore[assignment]
    proc.RUNNERS = make.RUNNERS = folder  # type: ignore[misc]
    sys.argv = ["advisor", *words]
    cli.run()


if __name__ == "__main__":
    _main(Path(sys.argv[1]).absolute(), sys.argv[2:])
