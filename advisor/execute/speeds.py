"""Decode and prefill speed of GGUF files on the host, measured with the engine driven directly."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from advisor.errors import AdvisorError
from advisor.events import Cancel, Reporter
from advisor.execute.envs import Env
from advisor.execute.proc import run_runner
from advisor.facts.bench import ENOUGH_CPU, BenchPoint, BenchRun
from advisor.facts.quantity import Quantity

_SOURCE: Final = "llama.cpp driven directly"
_DEADLINE_S: Final = 1800.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Driver:
    """llama.cpp of the environment ``env``; its log goes to ``log``, files with random weights into ``scratch``."""

    env: Env
    log: Path
    scratch: Path
    reporter: Reporter | None = None
    cancel: Cancel | None = None

    def measure(
        self,
        files: Sequence[dict[str, Any]],
        *,
        depths: Sequence[int],
        threads: Sequence[int],
        repeat: int,
        tokens: int,
        step: str = "bench",
    ) -> list[list[BenchRun]]:
        """The runs of each file, after a warm-up; none of a file among several that failed.

        Args:
            files: ``{"label", "path"}``, or ``{"label", "metadata", "tensors"}`` of a file to be filled.
            depths: tokens in the cache before decoding.
            threads: numbers of threads to try.
            repeat: how often.
            tokens: tokens to decode in a run.
            step: what it is called in events and errors.

        Raises:
            AdvisorError: ``artifact-invalid``, ``out-of-memory``, ``env-failed``, ``step-failed``, ``interrupted``.
        """
        asked = {"files": list(files), "depths": list(depths), "threads": list(threads), "repeat": repeat,
                 "tokens": tokens}  # fmt: skip
        return self._answer(
            asked, lambda found: [[_run(r) for r in one["runs"]] for one in found["files"]],
            step=step, threads=max(threads),
        )  # fmt: skip

    def in_turns(
        self,
        groups: Sequence[Sequence[dict[str, Any]]],
        *,
        depth: int,
        threads: int,
        turns: int,
        spend_s: float,
        step: str = "stand-ins",
    ) -> list[Turns]:
        """Files relative to each other: those of a group are open together, and a few tokens of each follow those of
        the others, so that what disturbs the machine disturbs all. A group that failed has no turns.

        Args:
            groups: files as for ``measure``.
            depth: tokens in the cache.
            threads: of the engine.
            turns: how many at most.
            spend_s: seconds after which no turn begins, once there are a few.
            step: what it is called in events and errors.

        Raises:
            AdvisorError: as ``measure``.
        """
        asked = {"groups": [list(g) for g in groups], "depths": [depth], "threads": [threads], "turns": turns,
                 "spend_s": spend_s}  # fmt: skip
        return self._answer(
            asked, lambda found: [_turns(one, threads) for one in found["groups"]], step=step, threads=threads
        )

    def _answer(
        self, asked: dict[str, Any], read: Callable[[dict[str, Any]], list[T]], *, step: str, threads: int
    ) -> list[T]:
        """What the runner answers, read."""
        found = run_runner(
            self.env,
            "bench_llama.py",
            {**asked, "batch": 512, "scratch": str(self.scratch)},
            step=step,
            reporter=self.reporter,
            cancel=self.cancel,
            log=self.log,
            timeout_s=_DEADLINE_S,
            threads=threads,
        )
        try:
            return read(found)
        except (KeyError, TypeError, ValueError) as e:
            raise AdvisorError("step-failed", f"{step}: the measurement answered in another form: {e}") from e


class Turns(NamedTuple):
    """The fastest token of each file, in seconds, turn by turn, and the CPU time that was had by what was wanted."""

    labels: tuple[str, ...]
    seconds: tuple[tuple[float, ...], ...]
    cpu_share: float | None

    def of(self, label: str) -> float:
        """The median time of a token in seconds.

        Raises:
            ValueError: no such file, or no turns.
        """
        at = self.labels.index(label)
        return statistics.median(t[at] for t in self.seconds)

    def ratio(self, label: str, to: str) -> float:
        """The median of the time of a token by that of another file in the same turn.

        Raises:
            ValueError: as ``of``.
        """
        own, other = self.labels.index(label), self.labels.index(to)
        return statistics.median(t[own] / t[other] for t in self.seconds)


def _turns(one: dict[str, Any], threads: int) -> Turns:
    rows = tuple(tuple(float(x) for x in turn) for turn in one["turns"])
    if any(len(row) != len(one["labels"]) or min(row) <= 0 for row in rows):
        raise ValueError("turns without a time of each file")
    wall = float(one.get("wall_s") or 0.0)
    share = min(1.0, float(one["cpu_s"]) / (threads * wall)) if wall > 0 else None
    return Turns(tuple(map(str, one["labels"])), rows, share)


def _run(r: dict[str, Any]) -> BenchRun:
    steps = [float(s) for s in r["steps_s"]]
    prefill_s, wall = float(r["prefill_s"]), float(r["wall_s"])
    return BenchRun(
        depth=int(r["depth"]),
        threads=int(r["threads"]),
        prompt_tokens=int(r["prompt_tokens"]),
        completion_tokens=len(steps),
        prefill=int(r["prompt_tokens"]) / prefill_s if prefill_s > 0 else None,
        decode=len(steps) / sum(steps) if steps and sum(steps) > 0 else None,
        median_step=statistics.median(steps) if steps else None,
        wall_s=wall,
        cpu_s=float(r["cpu_s"]),
        decode_cpu_s=float(r["steps_cpu_s"]),
    )


def points(runs: Sequence[BenchRun], *, source: str = _SOURCE, enough: float = ENOUGH_CPU) -> tuple[BenchPoint, ...]:
    """The runs by depth and threads: medians, with the extremes of the runs.

    Decoding is taken by the median time of a token where it is known, which a short disturbance does not move; the
    bounds are the slowest and the fastest run. Below a share of ``enough`` of the CPU time the machine was busy.
    """
    out = []
    for depth, threads in dict.fromkeys((r.depth, r.threads) for r in runs):
        own = tuple(r for r in runs if (r.depth, r.threads) == (depth, threads))
        share = _cpu_share(own, threads)
        out.append(
            BenchPoint(
                depth=depth,
                threads=threads,
                prefill=_quantity([r.prefill for r in own if r.prefill], f"{source}: prompt of {depth} tokens"),
                decode=_quantity(
                    [1 / r.median_step if r.median_step else r.decode for r in own if r.median_step or r.decode],
                    f"{source}: {own[0].completion_tokens} tokens at depth {depth}",
                ),
                runs=own,
                cpu_share=share,
                busy=share is not None and share < enough,
            )
        )
    return tuple(sorted(out, key=lambda p: (-(p.threads or 0), p.depth)))


def _cpu_share(runs: Sequence[BenchRun], threads: int | None) -> float | None:
    shares = [r.cpu_s / (threads * r.wall_s) for r in runs if threads and r.cpu_s is not None and r.wall_s > 0]
    return round(min(1.0, statistics.median(shares)), 3) if shares else None


def _quantity(values: Sequence[float | None], source: str) -> Quantity | None:
    known = [v for v in values if v is not None]
    if not known:
        return None
    return Quantity(
        value=statistics.median(known),
        low=min(known),
        high=max(known),
        unit="tokens/s",
        method="measured",
        source=f"{source}, median of {len(known)}",
    )


def best_threads(found: Sequence[BenchPoint], *, at_least: float = 1.03) -> int | None:
    """The number of threads that decodes fastest at the least depth; the largest unless a smaller one clearly wins.

    Args:
        found: points of several numbers of threads.
        at_least: by what factor fewer threads must be faster.
    """
    depth = min((p.depth for p in found), default=None)
    own = sorted(
        (p for p in found if p.depth == depth and p.decode is not None and p.threads), key=lambda p: -(p.threads or 0)
    )
    if not own:
        return None
    best = own[0]
    for p in own[1:]:
        if p.decode is not None and best.decode is not None and p.decode.value > at_least * best.decode.value:
            best = p
    return best.threads
