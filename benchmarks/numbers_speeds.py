"""How well decode and prefill speeds are predicted for devices that the fit never saw."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
if str(REPO) not in sys.path:
    sys.path.insert(0, str(REPO))

from advisor.cost import cpu_speed, devices  # noqa: E402
from advisor.facts.machine import Cpu, Host, HostMemory  # noqa: E402
from advisor.facts.plan import Settings  # noqa: E402
from advisor.facts.quantity import exact  # noqa: E402
from benchmarks import fit_cpu  # noqa: E402
from benchmarks.fit_speed import (  # noqa: E402
    ENGINES,
    ONE_FACTOR,
    Row,
    build,
    fit,
    held_out,
    held_out_share,
    kind,
    parts,
    ranges,
    read,
    text_of,
    times,
)
from benchmarks.ridge import quantile  # noqa: E402

BARS = {"median": 0.11, "p90": 0.45, "covered": 0.8}
WORST = 12
Say = Callable[[str], None]


def error(r: Row, predicted: float) -> float:
    """Relative error of a predicted speed."""
    return predicted / r.speed - 1


def weighted(found: Sequence[tuple[Row, float]]) -> list[tuple[float, float]]:
    """(absolute error, weight) of each row, each device weighing the same."""
    count = Counter(r.device for r, _ in found)
    return [(abs(error(r, p)), 1 / count[r.device]) for r, p in found]


def covered(found: Sequence[tuple[Row, float]], rows: Sequence[Row]) -> list[tuple[bool, float]]:
    """Whether each speed lies in the range that a fit without its device would state, and the weight of the row.

    The range comes from the residuals of the other devices, each predicted without itself.
    """
    count = Counter(r.device for r, _ in found)
    everything = [(r, p) for r, p in found]
    out = []
    for name in sorted(count):
        table = ranges(everything, without=name)
        others = [r for r in rows if r.device != name and not r.suspect]
        bases = {devices.basis(r.chain, r.runtime, moe=r.moe) for r in others}
        names = {p.removeprefix("e:") for r in others for p in parts(r)[0]}
        for r, p in found:
            if r.device == name:
                known = devices.is_known(r.family, devices.basis(r.chain, r.runtime, moe=r.moe), bases, names)
                span, wider = devices.scope(table, r.chain, known=known, names=names, moe=r.moe)
                ok = p * span.low / wider <= r.speed <= min(p * span.high * wider, 1 / r.ideal)
                out.append((ok, 1 / count[r.device]))
    return out


def share(flags: Iterable[tuple[bool, float]]) -> float:
    """Weighted share of what is true."""
    pairs = list(flags)
    return sum(w for ok, w in pairs if ok) / sum(w for _, w in pairs)


def speeds(say: Say) -> None:
    """Scores of the decode law on devices held out of its fit, beside a one-factor model; prefill; the worst rows."""
    rows = read()
    full = fit(rows)
    found = held_out(rows, full)
    dense = [(r, p) for r, p in found if not r.moe and not r.suspect]
    experts = [(r, p) for r, p in found if r.moe and not r.suspect]
    say("## Speed\n")
    say(
        f"`python benchmarks/run.py speeds`; {len(rows)} published measurements on {len({r.device for r in rows})} "
        "devices (benchmarks/data/published_speeds.csv), each predicted by a fit without its device; relative error of "
        f"decode speed; each device weighs the same. One factor: {ONE_FACTOR:g} of the bandwidth.\n"
    )
    say("| decode, dense models | bar | reached | one factor | with the suspect rows | in the fit |")
    say("|---|---|---|---|---|---|")
    one = weighted([(r, ONE_FACTOR / r.nominal) for r, _ in dense])
    suspect = weighted([(r, p) for r, p in found if not r.moe])
    inside = weighted([(r, 1 / times(full, r)[0]) for r, _ in dense])
    for what, q in (("median", 0.5), ("p90", 0.9)):
        name = {"median": "median of the absolute error", "p90": "90th percentile"}[what]
        say(
            f"| {name} | {BARS[what]:.0%} | {quantile(weighted(dense), q):.1%} | {quantile(one, q):.1%} "
            f"| {quantile(suspect, q):.1%} | {quantile(inside, q):.1%} |"
        )
    flags = covered(dense, rows)
    say(f"| rows within low and high | {BARS['covered']:.0%} | {share((ok, 1.0) for ok, _ in flags):.1%} | | | |")
    say(f"| the same, each device weighing the same | | {share(flags):.1%} | | | |")
    _experts(say, experts, rows)
    _classes(say, dense)
    _worst(say, [*dense, *experts])
    _prompts(say, rows)
    _cpus(say)
    made = text_of(build(rows, full, found))
    same = ENGINES.read_text(encoding="utf-8") == made
    say(f"profiles/speed/engines.json is {'what this fit gives' if same else 'NOT what this fit gives'}.\n")


def _experts(say: Say, experts: Sequence[tuple[Row, float]], rows: Sequence[Row]) -> None:
    say("\n| decode, mixtures of experts | reached | one factor |\n|---|---|---|")
    one = weighted([(r, ONE_FACTOR / r.nominal) for r, _ in experts])
    for name, q in (("median of the absolute error", 0.5), ("90th percentile", 0.9)):
        say(f"| {name} | {quantile(weighted(experts), q):.1%} | {quantile(one, q):.1%} |")
    flags = covered(experts, rows)
    say(f"| rows within low and high | {share((ok, 1.0) for ok, _ in flags):.1%} | |")


def _classes(say: Say, dense: Sequence[tuple[Row, float]]) -> None:
    say("\n| class, dense models | devices | rows | median | largest | one factor, median |\n|---|---|---|---|---|---|")
    for group in sorted({(kind(r), r.runtime != "llama.cpp") for r, _ in dense}):
        mine = [(r, p) for r, p in dense if (kind(r), r.runtime != "llama.cpp") == group]
        one = weighted([(r, ONE_FACTOR / r.nominal) for r, _ in mine])
        errors = weighted(mine)
        middle, largest = quantile(errors, 0.5), max(e for e, _ in errors)
        say(
            f"| {group[0]}{', vLLM and AWQ kernels' if group[1] else ''} | {len({r.device for r, _ in mine})} "
            f"| {len(mine)} | {middle:.1%} | {largest:.0%} | {quantile(one, 0.5):.1%} |"
        )


def _worst(say: Say, found: Sequence[tuple[Row, float]]) -> None:
    say("\n| worst rows | model | type | measured | predicted | error | likely cause |\n|---|---|---|---|---|---|---|")
    for r, p in sorted(found, key=lambda one: -abs(error(*one)))[:WORST]:
        say(f"| {r.device} | {r.model} | {r.quant} | {r.speed:.1f} | {p:.1f} | {error(r, p):+.0%} | {cause(r, p)} |")
    say("")


def cause(r: Row, predicted: float) -> str:
    """A guess at why a row is far off, from what the table says of it."""
    if r.family == "k-low" and "nvidia-pascal" in r.chain:
        return "types below four bits are bound by arithmetic on Pascal, and no other device tells of that"
    if r.runtime == "vllm" and r.ideal < 0.002:
        return "small model: bound by launching kernels; no other vLLM device tells of it"
    if r.runtime == "autoawq" and "a100" in r.device:
        return "kernels of a draft of January 2024"
    if r.old and "nvidia-hbm" in r.chain:
        return "software of 2024, whose kernels reached half of the bandwidth of HBM; the other A100 tells of it alone"
    if r.device == "m1-max-32":
        return "sources differ by a factor of up to 1.8 on this device for one model and type"
    if r.moe:
        return "active parameters are rounded, shared layers of these models are not in the table's estimate"
    if predicted < r.speed:
        return "a newer chip than any that the fit has seen of its class"
    return "offload and settings not stated" if "llmfit" in r.source else "not stated in the source"


def _prompts(say: Say, rows: Sequence[Row]) -> None:
    found = [(r._replace(time=1 / (r.prompt or 1.0)), p) for r, p in held_out_share(rows) if not r.suspect]
    for name, chosen in (
        ("dense models", [(r, p) for r, p in found if not r.moe]),
        ("mixtures of experts", [(r, p) for r, p in found if r.moe]),
    ):
        errors = weighted(chosen)
        say(
            f"Prefill, {name}, devices held out: median error {quantile(errors, 0.5):.0%}, 90th percentile "
            f"{quantile(errors, 0.9):.0%} ({len(chosen)} rows, {len({r.device for r, _ in chosen})} devices; batch "
            "sizes and flash attention differ between sources).\n"
        )


def _cpus(say: Say) -> None:
    """One processor was measured, so these are in the fit."""
    errors: dict[str, list[float]] = {}
    for r in fit_cpu.read():
        cpu = Cpu(name=r.source, isa=(r.set,), cores_physical=None, cores_logical=int(r.cores), cores_granted=r.cores)
        memory = HostMemory(total_bytes=1 << 35, limit_bytes=None, available_bytes=None)
        rate = exact(int(r.bandwidth), "bytes/s", r.source)
        host = Host(os="linux", arch="x86_64", cpu=cpu, memory=memory, bandwidth=rate)
        told: dict[str, Any] = {"kinds": ((r.key, 1.0),), "runtime": r.engine, "method": "none"}
        settings = Settings(context=4096)
        if r.decode is not None:
            got = cpu_speed.decode(host, settings, read=r.read, params=r.params, layers=r.layers, **told)
            errors.setdefault(f"{r.engine}, decode", []).append(abs(r.decode / got.seconds - 1))
        if r.prefill is not None:
            got = cpu_speed.prefill(host, settings, params=r.params, **told)
            errors.setdefault(f"{r.engine}, prefill", []).append(abs(r.prefill / got.seconds - 1))
    say("| on a CPU (one machine, in the fit) | rows | median error | largest |\n|---|---|---|---|")
    for name, found in sorted(errors.items()):
        middle = quantile([(e, 1.0) for e in found], 0.5)
        say(f"| {name} | {len(found)} | {middle:.0%} | {max(found):.0%} |")
    say("")


if __name__ == "__main__":
    speeds(print)
