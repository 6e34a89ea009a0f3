"""``python benchmarks/fit_speed.py``: fits profiles/speed/engines.json to measurements, or says that it is current.

The law is that of ``advisor.cost.devices``. Its parts are found by ridge regression on the logarithm of the time of a
token (Gauss-Newton, weights of Huber), each device weighing little more than its neighbour however many rows it has.
Every part but the first is drawn towards zero, so a class of few devices stays near the class above it. Nothing is
drawn at random: the same table gives the same file. ``--write`` writes it.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

REPO: Final = Path(__file__).resolve().parent.parent
if str(REPO) not in sys.path:
    sys.path.insert(0, str(REPO))

from advisor.cost import devices  # noqa: E402
from advisor.facts.machine import Device  # noqa: E402
from advisor.probes import catalog  # noqa: E402
from advisor.probes.named import device_of  # noqa: E402
from benchmarks.fit_cpu import REFERENCE_LAYERS, cpu  # noqa: E402
from benchmarks.ridge import quantile, regress  # noqa: E402

TABLE: Final = REPO / "benchmarks" / "data" / "published_speeds.csv"
ENGINES: Final = REPO / "profiles" / "speed" / "engines.json"

PULL_EFFICIENCY: Final = 6.0  # penalty on the square of a part of the efficiency
PULL_FIXED: Final = 3.0
FREE: Final = 0.02  # of those, on the part for everything
START: Final = {"e:": 1.5, "f:": 0.7}  # the parts for everything: 82 % of the bandwidth, 2 ms
ROWS_POWER: Final = 0.7  # a device's rows weigh as much as rows ** (1 - 0.7) rows
ONE_FACTOR: Final = 0.55
TAIL: Final = 0.05  # of the held-out residuals lies outside the range on each side
FEW: Final = 3  # devices that a range of its own needs
# What a published type is called here; "Q4_K_XL" and its like are mixes around a type.
TYPES: Final = {"FP16": "f16", "GPTQ-INT8": "int8", "GPTQ-INT4": "gptq", "MXFP4": "mxfp4", "MXFP4 MOE": "mxfp4"}
LAYERS_POWER: Final = 0.5
LAYERS_POWER_EXPERTS: Final = 1.0  # routers and experts are kernels of their own in every layer
SHORT: Final = "prefill 64 "
RUNTIME: Final = (("vLLM", "vllm"), ("AutoAWQ", "autoawq"), ("TinyChat", "autoawq"))


class Row(NamedTuple):
    """One published measurement; times in seconds, ``ideal`` is bytes over the full bandwidth."""

    device: str
    chain: tuple[str, ...]
    runtime: str
    model: str
    quant: str
    family: str
    moe: bool
    suspect: bool
    old: bool
    layers: int
    ideal: float
    nominal: float  # the same by the table's own estimate of the bytes: what a one-factor model has
    time: float
    params: float
    rate: float | None
    bandwidth: float
    prompt: float | None
    source: str

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return 1 / self.time


@cache
def device(profile: str) -> Device:
    """The device as ``--hardware`` would have it."""
    found = catalog.find(profile)
    return device_of(found, "gpu0")


def read(path: Path = TABLE) -> list[Row]:
    """The rows of the table."""
    out = []
    with path.open(encoding="utf-8", newline="") as file:
        for r in csv.DictReader(file):
            part = device(r["profile"])
            runtime = next((name for start, name in RUNTIME if r["runtime"].startswith(start)), "llama.cpp")
            assert part.bandwidth is not None
            bandwidth = float(part.bandwidth.value)
            out.append(
                Row(
                    device=r["profile"],
                    chain=devices.classes(part),
                    runtime=runtime,
                    model=r["model"],
                    quant=r["quant"],
                    family=family(r["quant"], runtime),
                    moe=r["moe"] == "1",
                    suspect=bool(r["suspect"]),
                    old=bool(r["software"]),
                    layers=int(r["layers"]),
                    ideal=(float(r["read_gb"]) + float(r["kv_gb"])) * 1e9 / bandwidth,
                    nominal=float(r["bytes_per_token_gb_est"]) * 1e9 / bandwidth,
                    time=1 / float(r["tg_tps"]),
                    params=float(r["active_params_b"] or r["params_b"]) * 1e9,
                    rate=part.fp16_tflops,
                    bandwidth=bandwidth,
                    # A prompt of 64 tokens measures launches, not arithmetic.
                    prompt=float(r["pp_tps"]) if r["pp_tps"] and not r["context_or_test"].startswith(SHORT) else None,
                    source=r["source"],
                )
            )
    return out


def family(quant: str, runtime: str) -> str:
    """The kernels of a published type."""
    word = TYPES.get(quant.upper(), quant.lower())
    if runtime != "llama.cpp" and word.startswith(("awq", "gptq")):
        return devices.kernel("w4a16-g128", "awq")
    if word in ("q8_k_xl", "int8"):
        return devices.kernel("int8", "w8a8")
    words = word.split("_")
    return devices.kernel("_".join(words[:2]), "gguf")


def parts(r: Row) -> tuple[list[str], list[str]]:
    """Names of the parts of a row: of its efficiency and of its fixed time, software of its day included."""
    efficiency = [f"e:{p}" for p in devices.parts(r.chain, r.runtime, r.family, moe=r.moe)]
    fixed = [f"f:{p}" for p in devices.fixed_parts(r.chain, r.runtime, moe=r.moe)]
    if r.old:
        efficiency += ["e:old", f"e:old:{kind(r)}"]
        fixed += ["f:old"]
    return efficiency, fixed


def kind(r: Row) -> str:
    """The kind of memory."""
    return r.chain[min(1, len(r.chain) - 1)]


def times(theta: dict[str, float], r: Row) -> tuple[float, float, float]:
    """Predicted seconds of a token, bytes' time over the ideal, fixed seconds."""
    efficiency, fixed = parts(r)
    inverse = 1 + math.exp(-sum(theta.get(p, 0.0) for p in efficiency))
    size = (r.layers / REFERENCE_LAYERS) ** (LAYERS_POWER_EXPERTS if r.moe else LAYERS_POWER)
    still = math.exp(sum(theta.get(p, 0.0) for p in fixed)) * size / 1000
    return r.ideal * inverse + still, inverse, still


def weights(rows: Sequence[Row]) -> list[float]:
    """Weight of each row: a device with many rows counts little more than one with a few."""
    count = Counter(r.device for r in rows)
    return [count[r.device] ** -ROWS_POWER for r in rows]


def fit(rows: Sequence[Row], start: dict[str, float] | None = None, rounds: int = 20) -> dict[str, float]:
    """Parts of the decode law. Dense models first; what is special to experts then, on top of them."""
    start = dict(start or {})
    for moe in (False, True):
        chosen = [r for r in rows if r.moe == moe and not r.suspect]
        weight = weights(chosen)
        named = [parts(r) for r in chosen]
        every = sorted({p for pair in named for side in pair for p in side})
        names = [p for p in every if ("moe" in p) == moe]
        held = start if moe else {}

        def terms(
            theta: dict[str, float],
            chosen: list[Row] = chosen,
            weight: list[float] = weight,
            held: dict[str, float] = held,
            named: list[tuple[list[str], list[str]]] = named,
        ) -> Iterable[tuple[float, float, list[tuple[str, float]]]]:
            whole = {**held, **theta}
            for r, w, (efficiency, fixed) in zip(chosen, weight, named, strict=True):
                total, inverse, still = times(whole, r)
                slope, other = -r.ideal * (inverse - 1) / total, still / total
                yield w, math.log(r.time / total), [(p, slope) for p in efficiency] + [(p, other) for p in fixed]

        def pull(name: str) -> float:
            return (PULL_EFFICIENCY if name[0] == "e" else PULL_FIXED) * (FREE if name in START else 1.0)

        begin = {**START, **start}
        start |= regress(names, pull, begin, terms, rounds, START)
    return start


def held_out(rows: Sequence[Row], full: dict[str, float]) -> list[tuple[Row, float]]:
    """(row, predicted tokens a second), each by a fit that never saw the row's device."""
    out = []
    for name in sorted({r.device for r in rows}):
        theta = fit([r for r in rows if r.device != name], full, 8)
        known = {p for r in rows if r.device != name and not r.suspect for side in parts(r) for p in side}
        theta = {p: v for p, v in theta.items() if p in known}
        out += [(r, 1 / times(theta, r)[0]) for r in rows if r.device == name]
    return out


def ranges(found: Sequence[tuple[Row, float]], without: str | None = None) -> dict[str, devices.Range]:
    """Factors on the speed by class, from the residuals of held-out devices (but for ``without``)."""
    out: dict[str, devices.Range] = {}
    for moe in (False, True):
        prefix = "moe " if moe else ""
        chosen = [(r, p) for r, p in found if r.moe == moe and not r.suspect and r.device != without]
        count = Counter(r.device for r, _ in chosen)
        if not chosen:
            continue
        for group in ("any", *sorted({kind(r) for r, _ in chosen})):
            members = [(r, p) for r, p in chosen if group in ("any", kind(r))]
            seen = {r.device for r, _ in members}
            if group != "any" and len(seen) < FEW:
                continue
            pairs = [(math.log(r.speed / p), 1 / count[r.device]) for r, p in members]
            low, high = quantile(pairs, TAIL), quantile(pairs, 1 - TAIL)
            out[prefix + group] = devices.Range(
                low=round(min(math.exp(low), 0.95), 3),
                high=round(max(math.exp(high), 1.05), 3),
                devices=len(seen),
                rows=len(members),
            )
    return out


def measured(rows: Sequence[Row], *, prompts: bool = False) -> dict[str, devices.Measured]:
    """What each engine and kind of memory rests on."""
    found: dict[str, list[Row]] = {}
    for r in rows:
        if not r.suspect and (r.prompt is not None or not prompts):
            found.setdefault(devices.basis(r.chain, r.runtime, moe=r.moe and not prompts), []).append(r)
    out = {}
    for key, members in sorted(found.items()):
        places = Counter(_place(r.source) for r in members)
        many = ", ".join(name for name, _ in places.most_common(3))
        also = f" and {len(places) - 3} more" if len(places) > 3 else ""
        names = {r.device for r in members}
        source = f"fit to {len(members)} published measurements on {len(names)} devices ({many}{also})"
        out[key] = devices.Measured(devices=len(names), rows=len(members), source=source)
    return out


def _place(source: str) -> str:
    words = source.removeprefix("github.com/").replace(" PR ", " ").split()[0].split("/")
    return "/".join(words[:2])


def share_parts(r: Row) -> list[str]:
    """Names of the parts of the share of the tensor rate."""
    out = devices.prompt_parts(device(r.device), r.runtime, r.family, moe=r.moe)
    return [f"s:{p}" for p in (*out, *(("old",) if r.old else ()))]


def reached(r: Row) -> float:
    """10^12 operations a second that a prompt reached."""
    assert r.prompt is not None
    return 2 * r.params * r.prompt / 1e12


def fit_share(rows: Sequence[Row]) -> dict[str, float]:
    """Parts of the logarithm of the share of the tensor rate."""
    chosen = [r for r in rows if r.prompt is not None and r.rate is not None and not r.suspect]
    weight = weights(chosen)

    def terms(theta: dict[str, float]) -> Iterable[tuple[float, float, list[tuple[str, float]]]]:
        for r, w in zip(chosen, weight, strict=True):
            names = share_parts(r)
            assert r.rate is not None
            yield w, math.log(reached(r) / r.rate) - sum(theta.get(p, 0.0) for p in names), [(p, 1.0) for p in names]

    names = sorted({p for r in chosen for p in share_parts(r)})
    return regress(names, lambda name: PULL_EFFICIENCY * (FREE if name == "s:" else 1.0), {"s:": -1.0}, terms, 20, {})


def held_out_share(rows: Sequence[Row]) -> list[tuple[Row, float]]:
    """(row, predicted tokens a second of a prompt), each without the row's device."""
    chosen = [r for r in rows if r.prompt is not None and r.rate is not None]
    out = []
    for name in sorted({r.device for r in chosen}):
        theta = fit_share([r for r in chosen if r.device != name])
        for r in chosen:
            if r.device == name and r.rate is not None:
                share = math.exp(sum(theta.get(p, 0.0) for p in share_parts(r)))
                out.append((r, min(share, 1.0) * r.rate * 1e12 / (2 * r.params)))
    return out


def share_ranges(found: Sequence[tuple[Row, float]]) -> dict[str, devices.Range]:
    """As ``ranges``, for prompts."""
    swapped = [(r._replace(moe=False, time=1 / (r.prompt or 1.0)), p) for r, p in found]
    return ranges(swapped)


def rate_without_tensors(rows: Sequence[Row]) -> float:
    """10^12 operations a second and 10^12 bytes/s of devices that have no tensor rate: the median."""
    found = [(1e12 * reached(r) / r.bandwidth, 1.0) for r in rows if r.prompt is not None and r.rate is None]
    return quantile(found, 0.5)


ABOUT: Final = (
    "Fitted by benchmarks/fit_speed.py; do not edit. decode: seconds a token = bytes / bandwidth * "
    "(1 + exp(-sum of the parts of efficiency)) + exp(sum of the parts of fixed) ms * (layers / reference_layers) ** "
    "layers_power (layers_power_experts for mixtures of experts); bytes are the weights that one token reads and the "
    "cache at its depth, bandwidth is nominal. A part counts where it is of the device's classes, "
    "of the engine or of the kernels "
    "(kernel:FAMILY, and on one class). "
    "Parts named old are software before 2024-09, which nothing is predicted for. ranges: factors that enclosed 90 "
    "per cent of the speeds of devices held out of the fit, each device weighing the same. prefill: share of the "
    "dense FP16 tensor rate that 2 * active parameters a token reach = exp(sum of the parts). cpu: fitted to "
    "benchmarks/data/cpu_speeds.csv."
)


def build(rows: Sequence[Row], full: dict[str, float], found: Sequence[tuple[Row, float]]) -> dict[str, Any]:
    """The content of profiles/speed/engines.json."""
    share = fit_share(rows)
    return {
        "about": ABOUT,
        "decode": {
            "efficiency": _rounded(full, "e:"),
            "fixed": _rounded(full, "f:"),
            "layers_power": LAYERS_POWER,
            "layers_power_experts": LAYERS_POWER_EXPERTS,
            "reference_layers": REFERENCE_LAYERS,
            "ranges": _plain(ranges(found)),
            "measured": _plain(measured(rows)),
        },
        "prefill": {
            "share": _rounded(share, "s:"),
            "ranges": _plain(share_ranges(held_out_share(rows))),
            "measured": _plain(measured(rows, prompts=True)),
            "tflops_per_tbs": round(rate_without_tensors(rows), 1),
        },
        "cpu": cpu(),
    }


def _rounded(theta: dict[str, float], side: str) -> dict[str, float]:
    return {name[2:]: round(v, 3) for name, v in sorted(theta.items()) if name.startswith(side)}


def _plain(table: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {key: {f: getattr(one, f) for f in one.__struct_fields__} for key, one in table.items()}


def text_of(made: dict[str, Any]) -> str:
    """The file as it is written."""
    return json.dumps(made, indent=1) + "\n"


def main(argv: Sequence[str]) -> int:
    """Fit, say what was fitted, write with ``--write``."""
    rows = read()
    full = fit(rows)
    made = build(rows, full, held_out(rows, full))
    text = text_of(made)
    print(f"{len(rows)} rows, {len({r.device for r in rows})} devices, {sum(r.suspect for r in rows)} suspect.")
    for side, name in (("e:", "efficiency"), ("f:", "fixed time")):
        print(f"\nparts of {name}:")
        for key, value in sorted(full.items()):
            if key.startswith(side):
                print(f"  {key[2:] or 'everything':<28} {value:+.3f}")
    print("\nranges:")
    for key, one in made["decode"]["ranges"].items():
        print(f"  {key:<20} {one['low']:.2f} to {one['high']:.2f} ({one['devices']} devices, {one['rows']} rows)")
    if ENGINES.exists() and ENGINES.read_text(encoding="utf-8") == text:
        print("\nprofiles/speed/engines.json is unchanged.")
        return 0
    if "--write" in argv:
        ENGINES.write_text(text, encoding="utf-8")
        print("\nprofiles/speed/engines.json is written.")
        return 0
    print("\nprofiles/speed/engines.json differs; write it with --write.")
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
