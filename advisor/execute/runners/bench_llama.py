"""Measure decode and prefill speed of GGUF files with llama.cpp on the CPU, without a server.

Request: ``{"files": [{"label", "path"} or {"label", "metadata", "tensors": [[name, [rows, columns], type], ...]}],
"depths": [256, 1024], "threads": [2, 1], "tokens": 32, "repeat": 3, "batch": 512, "scratch": FOLDER}``. A file given
by its tensors is written into ``scratch``, with random blocks for weights, and removed again.

Result: ``{"files": [{"label", "runs": [{"repeat", "threads", "depth", "prompt_tokens", "prefill_s", "tokens",
"steps_s": [...], "steps_cpu_s", "cpu_s", "wall_s"}], "error": null}]}``. ``prefill_s`` is the time to fill an empty
cache up to ``depth``, ``steps_s`` the time of each token after that and ``steps_cpu_s`` the CPU time of all of them,
``cpu_s`` the CPU time of all threads over ``wall_s``.
Repeats are the outermost loop, so that a disturbance does not hit all runs of one setting. The first use of a file is
a warm-up that is not reported.

A request with ``"groups": [[FILE, FILE, ...], ...]`` in the place of ``files`` (and ``"turns"``, ``"spend_s"``; of
depths and threads the first counts) measures files relative to each other: those of a group are open together and
decode a few tokens in turns, so that what disturbs the machine disturbs all of them alike. Result: ``{"groups":
[{"labels": [...], "turns": [[seconds of the fastest token of each file], ...], "cpu_s", "wall_s", "error"}]}``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import gguf_min
import llama_c
import protocol

WARM_TOKENS = 4
# Tokens of a turn, before which one is not counted: caches of the processor hold the other file.
TURN_TOKENS = 4
FEWEST_TURNS = 5
# The 16-bit scales of a block: where they lie (llama.cpp, ggml-common.h), the exponent of their usual size and their
# sign (0: either). The engine looks each up in a table of 256 KiB, so that it matters for the speed how they are
# spread. Sizes and spread are those of SmolLM2-135M's own files; of q4_1 and q2_k they follow from q5_1 and q4_k.
SCALES = {
    "q4_0": ((0, -4.2, 0),), "q4_1": ((0, -4.4, 1), (2, -1.4, -1)), "q5_0": ((0, -5.2, 0),),
    "q5_1": ((0, -5.4, 1), (2, -1.4, -1)), "q8_0": ((0, -8.2, 1),), "q2_k": ((80, -5.5, 1), (82, -4.7, 1)),
    "q3_k": ((108, -7.7, 0),), "q4_k": ((0, -9.9, 1), (2, -6.8, 1)), "q5_k": ((0, -10.9, 1), (2, -6.8, 1)),
    "q6_k": ((208, -12.7, 0),), "iq4_nl": ((0, -8.2, 0),), "iq4_xs": ((0, -12.7, 0),),
}  # fmt: skip
SPREAD = {32: 0.42, 256: 0.26}  # octaves, standard deviation within a tensor, by weights of a block
PATTERN = 4096  # blocks that are repeated over a tensor
PIECE = 4 << 20  # bytes written at once at least


def blocks(kind: str, count: int, rng: random.Random) -> bytes:
    """``count`` random blocks of a type whose values are finite and small; ones of plain numbers."""
    if kind == "f32":
        return struct.pack("<f", 1.0) * count
    if kind == "f16":
        return b"".join(struct.pack("<e", rng.gauss(0, 0.03)) for _ in range(count))
    if kind == "bf16":
        return b"".join(struct.pack("<f", rng.gauss(0, 0.03))[2:] for _ in range(count))
    out = []
    for _ in range(count):
        block = bytearray(rng.randbytes(gguf_min.BLOCKS[kind][1]))
        for at, exponent, sign in SCALES[kind]:
            size = 2.0 ** (exponent + max(-2.0, min(2.0, rng.gauss(0, SPREAD[gguf_min.BLOCKS[kind][0]]))))
            block[at : at + 2] = struct.pack("<e", size * (sign or rng.choice((-1, 1))))
        out.append(bytes(block))
    return b"".join(out)


def write_filled(path: Path, metadata: dict[str, Any], tensors: list[tuple[str, tuple[int, ...], str]]) -> None:
    """Write a whole file of random blocks. A hole would lie in memory in larger pages, and be faster than a real file.

    Raises:
        KeyError: a type whose blocks are not known here.
    """
    rng = random.Random(3)  # noqa: S311 - filler
    patterns = {}
    for kind in dict.fromkeys(kind for _, _, kind in tensors):
        found = blocks(kind, PATTERN, rng)
        patterns[kind] = found * (-(-PIECE // len(found)))
    head, _ = gguf_min.header(metadata, tensors)
    with path.open("wb") as f:
        f.write(head)
        for _, shape, kind in tensors:
            size, pattern = gguf_min.nbytes(shape, kind), patterns[kind]
            for _ in range(size // len(pattern)):
                f.write(pattern)
            f.write(pattern[: size % len(pattern)] + bytes(-size % gguf_min.ALIGNMENT))
        f.flush()
        if hasattr(os, "posix_fadvise"):
            # A file that was just written lies in other pages of memory than one that is read, and decodes otherwise.
            with contextlib.suppress(OSError):
                os.fsync(f.fileno())
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Timed:
    """One open model whose threads can be set, fed with random tokens."""

    def __init__(self, path: Path, context: int, batch: int, threads: int) -> None:
        self.model = llama_c.Engine().open(path, context=context, batch=batch, threads=threads, outputs=1)
        self.batch = batch
        self._random = random.Random(7)  # noqa: S311 - filler tokens
        self._set = self.model.lib.llama_set_n_threads
        self._set.restype, self._set.argtypes = None, [llama_c.P, llama_c.I32, llama_c.I32]

    def threads(self, n: int) -> None:
        """Use ``n`` threads from now on."""
        self._set(self.model._ctx, n, n)

    def _tokens(self, n: int) -> list[int]:
        return [self._random.randrange(min(self.model.n_vocab, 1 << 20)) for _ in range(n)]

    def feed(self, n: int) -> float:
        """Seconds to take ``n`` tokens of a prompt, in whole batches; the last token's logits are computed."""
        begun = time.perf_counter()
        while n > 0:
            now = min(n, self.batch)
            n -= now
            self.model.decode(self._tokens(now), [False] * (now - 1) + [n == 0])
        return time.perf_counter() - begun

    def steps(self, n: int) -> list[float]:
        """Seconds of each of ``n`` tokens, one after the other."""
        out = []
        for _ in range(n):
            begun = time.perf_counter()
            self.model.decode(self._tokens(1), [True])
            out.append(time.perf_counter() - begun)
        return out

    def back_to(self, depth: int) -> None:
        """Leave the first ``depth`` tokens in the cache."""
        if not self.model.keep(depth):
            self.model.forget()
            self.feed(depth)

    def close(self) -> None:
        """Free it."""
        self.model.close()


def measure(path: Path, request: dict[str, Any], tell: Any) -> list[dict[str, Any]]:
    """All runs of one file.

    Raises:
        Failed: it does not load or does not decode.
    """
    depths = sorted({max(1, int(d)) for d in request["depths"]})
    threads = [max(1, int(n)) for n in request["threads"]]
    tokens, batch = max(2, int(request.get("tokens", 32))), int(request.get("batch", 512))
    context = depths[-1] + len(depths) * tokens + WARM_TOKENS + 8
    timed = Timed(path, max(context, batch), batch, max(threads))
    runs: list[dict[str, Any]] = []
    try:
        timed.threads(max(threads))
        timed.feed(min(depths[0], 32))
        timed.steps(WARM_TOKENS)
        for repeat in range(max(1, int(request.get("repeat", 1)))):
            for n in threads:
                timed.threads(n)
                timed.model.forget()
                timed.steps(2)  # threads that were just set are started by the first token
                timed.model.forget()
                filled, fed, spent = 0, 0, 0.0
                for depth in depths:
                    wall, cpu = time.perf_counter(), time.process_time()
                    new = max(0, depth - filled)
                    spent += timed.feed(new) if new else 0.0
                    filled, fed = filled + new, fed + new
                    stepping = time.process_time()
                    steps = timed.steps(tokens)
                    stepping = time.process_time() - stepping
                    runs.append(
                        {
                            "repeat": repeat,
                            "threads": n,
                            "depth": depth,
                            "prompt_tokens": fed,
                            "prefill_s": spent,
                            "tokens": tokens,
                            "steps_s": steps,
                            "steps_cpu_s": stepping,
                            "cpu_s": time.process_time() - cpu,
                            "wall_s": time.perf_counter() - wall,
                        }
                    )
                    filled += tokens
                    tell()
    finally:
        timed.close()
    return runs


def in_turns(paths: list[Path], request: dict[str, Any]) -> dict[str, Any]:
    """Turns of files that are open together, the first and the last to decode changing places.

    Raises:
        Failed: one does not load or does not decode.
    """
    depth, threads = max(1, int(request["depths"][0])), max(1, int(request["threads"][0]))
    turns, spend_s = max(1, int(request.get("turns", 40))), float(request.get("spend_s", 5.0))
    batch = int(request.get("batch", 512))
    out: list[list[float]] = []
    with contextlib.ExitStack() as opened:
        files = []
        for path in paths:
            one = Timed(path, max(depth + TURN_TOKENS + 8, batch), batch, threads)
            opened.callback(one.close)
            one.feed(depth)
            files.append(one)
        wall, cpu = time.perf_counter(), time.process_time()
        while len(out) < turns and (len(out) < FEWEST_TURNS or time.perf_counter() - wall < spend_s):
            took = [0.0] * len(files)
            for i in range(len(files))[:: 1 if len(out) % 2 else -1]:
                files[i].back_to(depth)
                took[i] = min(files[i].steps(1 + TURN_TOKENS)[1:])
            out.append(took)
        return {"turns": out, "cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def path_of(item: dict[str, Any], folder: Path, at: int) -> Path:
    """Where a file is; one that is given by its tensors is written into ``folder``.

    Raises:
        KeyError: a type whose blocks are not known here.
    """
    if item.get("path"):
        return Path(item["path"])
    tensors = [(str(n), tuple(int(d) for d in shape), str(kind)) for n, shape, kind in item["tensors"]]
    path = folder / f"stand-in-{at}.gguf"
    write_filled(path, item["metadata"], tensors)
    return path


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Measure file after file, or group after group; one of several that fails says so and the others follow.

    Raises:
        Failed: all of them failed; what the first one said. So with the other errors.
    """
    relative = "groups" in request
    groups = request["groups"] if relative else [[item] for item in request["files"]]
    runs = len(set(request["depths"])) * len(request["threads"]) * max(1, int(request.get("repeat", 1)))
    done, total = 0, (1 if relative else runs) * len(groups)
    failed: list[Exception] = []
    out: list[dict[str, Any]] = []
    for group in groups:
        labels = [str(item["label"]) for item in group]
        named: dict[str, Any] = {"labels": labels} if relative else {"label": labels[0]}

        def tell(label: str = labels[-1]) -> None:
            nonlocal done
            done += 1
            protocol.progress(done, total, "runs", label)

        try:
            with tempfile.TemporaryDirectory(dir=request.get("scratch")) as folder:
                paths = [path_of(item, Path(folder), i) for i, item in enumerate(group)]
                if relative:
                    found = in_turns(paths, request)
                    tell()
                else:
                    found = {"runs": measure(paths[0], request, tell)}
            out.append({**named, **found, "error": None})
        except (protocol.Failed, ValueError, KeyError, ctypes.ArgumentError) as e:
            failed.append(e)
            out.append({**named, "turns" if relative else "runs": [], "error": str(e)})
    if len(failed) == len(groups):
        raise failed[0]
    return {"groups" if relative else "files": out}


if __name__ == "__main__":
    protocol.run(work, code="step-failed")
