"""How llama.cpp gets a file into memory, and how its threads wait: memory and CPU time of its server, measured.

The file has the shape of TinyLlama-1.1B and random weights, because memory and time depend on shapes and types alone.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
if str(REPO) not in sys.path:
    sys.path.insert(0, str(REPO))

from advisor import settings  # noqa: E402
from advisor.cost.gguf_mix import assign  # noqa: E402
from advisor.cost.llama_memory import memory  # noqa: E402
from advisor.execute import envs  # noqa: E402
from advisor.facts.plan import Settings  # noqa: E402
from tests.support import shapes  # noqa: E402

RUNNER = REPO / "tests" / "engine" / "serve_once.py"
MIB = 2**20
CONTEXT, PROMPT, TOKENS = 2048, 520, 32
FEW, ANSWERS, PATIENCE_S = 16, 4, 15.0
Say = Callable[[str], None]


def make(folder: Path, name: str, fmt: str) -> Path:
    """A file of that shape and type with random weights."""
    arch = shapes.KNOWN[name]
    types = {a.tensor.name: a.type for a in assign(shapes.facts(arch), shapes.tensors(arch), fmt, imatrix=False)}
    return shapes.write(folder / f"{name}-{fmt}.gguf", arch, types, words=True, filled=True, merges=True)


def serve(python: str, model: Path, *, env: dict[str, str] | None = None, **asked: Any) -> dict[str, Any]:
    """What the server took, by the process's own account.

    Raises:
        RuntimeError: it did not start or answer.
    """
    request = {
        "model": str(model),
        "context": CONTEXT,
        "parallel": 1,
        "ubatch": 512,
        "kv_type": "f16",
        "load_mode": "none",
        "no_repack": False,
        "warmup": True,
        "threads": 1,
        "prompt_tokens": PROMPT,
        "decodes": 7,
        "predict": TOKENS,
        **asked,
    }
    done = subprocess.run(
        [python, "-I", str(RUNNER), json.dumps(request)],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
    )
    told = [line for line in done.stdout.splitlines() if line.startswith('{"resident"')]
    if done.returncode != 0 or not told:
        raise RuntimeError(f"the server ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    found: dict[str, Any] = json.loads(told[-1])
    return found


def decode(told: dict[str, Any], what: str) -> float:
    """The median of the answers' laps."""
    return statistics.median(lap[what] for name, lap in told["laps"].items() if name.startswith("decode"))


def load_mode(say: Say) -> None:
    """Mapped or read, repacked or not."""
    python = envs.ensure("llama.cpp", settings=settings.load()).python
    with tempfile.TemporaryDirectory(prefix="advisor bench ") as folder:
        _modes(say, python, Path(folder))


def waiting(say: Say) -> None:
    """Threads that spin or sleep, with and without company."""
    python = envs.ensure("llama.cpp", settings=settings.load()).python
    with tempfile.TemporaryDirectory(prefix="advisor bench ") as folder:
        _waiting(say, python, Path(folder))


def _modes(say: Say, python: str, folder: Path) -> None:
    say("## Load mode and repacking\n")
    say(
        "`python benchmarks/run.py load-mode`; llama.cpp's server out of the wheel, shape of TinyLlama-1.1B, context "
        f"{CONTEXT}, one thread, file in the page cache. Resident is the peak of the process (VmHWM), anonymous and "
        f"file its parts at the end; CPU seconds to start, for a prompt of {PROMPT} tokens, and for an answer of "
        f"{TOKENS} (median of 7).\n"
    )
    say(
        "| file | load mode | repack | resident MiB | predicted | predicted/measured | anonymous | file | start "
        "| prompt | answer |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    arch = shapes.KNOWN["tinyllama-1.1b"]
    for fmt in ("q4_k_m", "q4_0", "q3_k_m", "q8_0"):
        model = make(folder, "tinyllama-1.1b", fmt)
        for mode, repacked in (("mmap", True), ("none", True), ("mmap", False), ("none", False)):
            if fmt in ("q3_k_m", "q8_0") and not repacked:
                continue  # a third of the one is repacked on x86, nothing of the other
            _quiet(PATIENCE_S)
            told = serve(python, model, load_mode=mode, no_repack=not repacked)
            need = memory(
                shapes.facts(arch),
                shapes.tensors(arch),
                fmt=fmt,
                settings=Settings(context=CONTEXT, load_mode=mode),
                machine=shapes.machine(isa=shapes.host().cpu.isa if repacked else ()),
                devices=("host",),
                as_is=False,
            )
            laps, split = told["laps"], told["rollup"]
            say(
                f"| {fmt} | {mode} | {'on' if repacked else 'off'} | {told['resident'] / MIB:.0f} "
                f"| {need.total.value / MIB:.0f} | {need.total.value / told['resident']:.3f} "
                f"| {split['Pss_Anon'] / MIB:.0f} | {split['Pss_File'] / MIB:.0f} | {laps['start']['cpu_s']:.2f} "
                f"| {laps['prefill']['cpu_s']:.2f} | {decode(told, 'cpu_s'):.2f} |"
            )
        model.unlink()
    say("")


@contextmanager
def _competitor(wanted: bool) -> Iterator[None]:
    """One process that computes all the time."""
    if not wanted:
        yield
        return
    work = f"import os\nwhile os.getppid() == {os.getpid()}:\n    sum(range(100000))"  # ends with this program
    busy = subprocess.Popen([sys.executable, "-c", work])
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


def _quiet(limit_s: float) -> None:
    """Wait until the machine does next to nothing else for a second, but not for ever."""

    def busy() -> float:
        with Path("/proc/stat").open() as f:
            ticks = [int(n) for n in f.readline().split()[1:9]]
        return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")

    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        before = busy()
        time.sleep(1.0)
        if busy() - before < 0.15:
            return


def _waiting(say: Say, python: str, folder: Path) -> None:
    threads = max(2, min(4, os.cpu_count() or 2))
    rounds = 2
    say("## Threads that wait\n")
    say(
        f"`python benchmarks/run.py waiting`; random weights of the named shape in Q4_K_M, {threads} threads, {FEW} "
        f"tokens an answer, {rounds} servers of each kind in turn with {ANSWERS} answers each; the best answer. `spin` "
        "is the default of the compiler's OpenMP library, `sleep` is OMP_WAIT_POLICY=passive. Beside them one process "
        "that computes all the time, or none; others is the CPU that all other processes took during that answer, in "
        "cores.\n"
    )
    say(
        "| file | beside | waiting | tokens/s | sleep/spin | CPU-s an answer | others (cores) | idle CPU-s in 3 s |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for name in ("smollm2-135m", "tinyllama-1.1b"):
        model = make(folder, name, "q4_k_m")
        for beside in (False, True):
            best: dict[str, dict[str, float]] = {}
            idle: dict[str, list[float]] = {"spin": [], "sleep": []}
            for _ in range(rounds):
                for kind, env in (("spin", {}), ("sleep", {"OMP_WAIT_POLICY": "passive"})):
                    _quiet(0 if beside else PATIENCE_S)
                    asked = {"threads": threads, "prompt_tokens": 16, "decodes": ANSWERS, "predict": FEW, "idle_s": 3}
                    with _competitor(beside):
                        told = serve(python, model, env=env, **asked)
                    laps = [lap for n, lap in told["laps"].items() if n.startswith("decode")]
                    fastest = min([*laps, *([best[kind]] if kind in best else [])], key=lambda lap: lap["wall_s"])
                    best[kind] = fastest
                    idle[kind].append(told["laps"]["idle"]["cpu_s"])
            for kind in ("spin", "sleep"):
                lap = best[kind]
                ratio = f"{best['spin']['wall_s'] / lap['wall_s']:.2f}" if kind == "sleep" else ""
                say(
                    f"| {name} | {'one' if beside else 'none'} | {kind} | {FEW / lap['wall_s']:.1f} | {ratio} "
                    f"| {lap['cpu_s']:.2f} | {max(0.0, lap['others_s'] / lap['wall_s']):.2f} | {max(idle[kind]):.2f} |"
                )
        model.unlink()
    say("")
