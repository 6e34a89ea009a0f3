"""Fit the losses by quantization to what was published: profiles/quality/evidence.json -> profiles/quality/losses.json.

The logarithm of a loss is a sum: a curve over bits a weight, what the method and the format differ from it, the share
that an importance matrix saves, the group size, the model's size, whether it is an early model (of 2023, trained on few
tokens a weight), what a measure differs from the mean KL divergence, and an effect of the model and of the model within
a protocol. The last two make that rows of one protocol are only compared with each other; how far they spread is the
interval. Ridge regression: every effect is a normal variable as ``PRIORS`` has it, as far as the rows do not tell.

``python benchmarks/fit_quality.py`` prints the table; with ``--write`` it also replaces losses.json.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

REPO: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = REPO / "profiles" / "quality"
REFERENCE: Final = 8_030_000_000
# Prior mean and width (natural logarithm) of each kind of effect. The widths of model, protocol and row agree with the
# spread that the fit leaves over.
PRIORS: Final[dict[str, tuple[float, float]]] = {
    "level": (math.log(0.05), 3.0),
    "bits": (-1.0, 0.5),
    "curve": (0.0, 0.15),
    "format": (0.0, 0.30),
    "method": (0.0, 0.50),
    "imatrix": (-0.2, 0.3),
    "imatrix of": (0.0, 0.12),
    "group": (0.15, 0.05),
    "size": (-0.2, 0.10),
    "early": (-1.0, 0.5),
    "measure": (0.0, 1.0),
    "model": (0.0, 0.3),
    "protocol": (0.0, 0.20),
}
# How methods differ from the curve of GGUF types before any row is seen, in the guide's order: calibrated before
# uncalibrated ones; what 8-bit activations add, little in FP8, more in INT8 (arXiv 2411.02355: none, and 1 to 3 %).
METHODS: Final = {
    "awq": 0.0, "gptq": 0.1, "hqq": 0.25, "nf4": 0.25, "rtn": 0.4, "nvfp4": 0.4, "fp8": 0.7, "int8": 1.1, "w8a8": 1.2,
}  # fmt: skip
ROW: Final = 0.15
# Between formats, models below half a billion weights differ more from larger ones.
_SMALL: Final = 500_000_000
_SMALL_ROW: Final = 0.2
# What a figure is uncertain by however small it is: rounding, the noise between two runs, of scores the sampling error.
FLOORS: Final = {"kld": 3e-4, "median_kld": 3e-4, "perplexity_ratio": 2e-3, "recovery": 1e-2}
MEASURES: Final = tuple(FLOORS)
# Bits a weight of whole Llama-3.1-8B files (llama.cpp tools/quantize/README.md), for GGUF types.
BITS: Final[dict[str, float]] = {
    "iq1_s": 2.00, "iq1_m": 2.15, "iq2_xxs": 2.38, "iq2_xs": 2.59, "iq2_s": 2.74, "iq2_m": 2.93, "q2_k_s": 2.97,
    "q2_k": 3.16, "iq3_xxs": 3.25, "iq3_xs": 3.50, "q3_k_s": 3.64, "iq3_s": 3.66, "iq3_m": 3.76, "q3_k_m": 4.00,
    "q3_k_l": 4.30, "iq4_xs": 4.46, "iq4_nl": 4.68, "q4_0": 4.66, "q4_k_s": 4.67, "q4_k_m": 4.89, "q4_1": 5.13,
    "q5_0": 5.57, "q5_k_s": 5.57, "q5_k_m": 5.70, "q5_1": 6.05, "q6_k": 6.56, "q8_0": 8.50, "f16": 16.0, "bf16": 16.0,
    "nf4": 4.13, "nvfp4": 4.5, "mxfp4": 4.25, "int8": 8.0, "w8a8": 8.0, "fp8": 8.0,
}  # fmt: skip
# Bits count less and less: the curve is over min(bits, this).
_MOST_BITS: Final = 8.5
# Where nothing was published: the loss in nats at the reference size, and on what it rests.
STATED: Final[dict[tuple[str, str], tuple[float, str]]] = {
    ("gguf", "f16"): (0.00055, "Llama-3-8B in F16 against F32 (llama.cpp tools/perplexity/README.md)"),
    ("gguf", "bf16"): (0.0006, "taken as F16: rounding between the two 16-bit formats"),
    ("none", "*"): (0.0006, "taken as F16 of GGUF: rounding between the two 16-bit formats"),
    ("mxfp4", "*"): (0.16, "NVFP4 times what scales that are powers of two cost (arXiv 2509.23202)"),
    ("awq", "2"): (2.5, "extrapolated: two bits without a code book do not work"),
    ("gptq", "2"): (3.0, "extrapolated: two bits without a code book do not work"),
    ("rtn", "2"): (4.0, "extrapolated: two bits without a code book do not work"),
    ("hqq", "2"): (1.5, "extrapolated: two bits without a code book do not work"),
    ("awq", "8"): (0.003, "extrapolated from four bits"),
    ("gptq", "8"): (0.003, "extrapolated from four bits"),
    ("rtn", "8"): (0.004, "extrapolated from four bits"),
    ("hqq", "8"): (0.003, "extrapolated from four bits"),
}
_STATED_WIDTH: Final = 0.7
# The guide's order, least loss first. Where the rows tell another one by less than ``_OPEN``, which is what a few rows
# of one or two models leave open, the methods get the same loss.
_OPEN: Final = 0.5
ORDER: Final = (
    (("fp8", "*"), ("int8", "*"), ("w8a8", "*")),
    (("awq", "4"), ("gptq", "4"), ("hqq", "4"), ("nf4", "*"), ("nvfp4", "*"), ("rtn", "4"), ("mxfp4", "*")),
    (("awq", "3"), ("gptq", "3"), ("rtn", "3")),
)
EARLY: Final = ("LLaMA-", "Llama-2-", "Mistral-7B", "Mixtral-")
# Models that share their weights, or nearly: left out together.
FAMILIES: Final = {
    "llama-3-8b": (
        "Meta-Llama-3-8B",
        "Llama-3-8B",
        "Llama-3.1-8B",
        "Meta-Llama-3.1-8B",
        "DeepSeek-R1-Distill-Llama-8B",
    ),
    "llama-3-70b": ("Meta-Llama-3-70B", "Meta-Llama-3.1-70B"),
    "mistral-7b": ("Mistral-7B",),
}


class Row(NamedTuple):
    """One loss: ``value`` is the divergence, its median, the logarithm of the perplexity ratio (nats), or the share of
    a task score that is lost."""

    model: str
    params: int
    method: str
    format: str
    imatrix: bool
    measure: str
    protocol: str
    value: float
    source: str

    @property
    def early(self) -> bool:
        """Whether the model is of the generation of 2023."""
        return self.model.startswith(EARLY)

    @property
    def family(self) -> str:
        """The name under which a model and its near copies are left out together."""
        return next((f for f, names in FAMILIES.items() if self.model.startswith(names)), self.model)


class Told(NamedTuple):
    """A prediction: the logarithm of the loss and its standard deviation for a model that was not seen."""

    mean: float
    deviation: float


def key_of(method: str, fmt: str) -> tuple[str, str]:
    """Method and the key of losses.json: bits of grouped formats, else the format itself."""
    if fmt.startswith("hqq"):
        return method, fmt[3]
    if method in ("awq", "gptq", "rtn"):
        return method, fmt[1]
    return method, fmt if method == "gguf" else "*"


def group_of(fmt: str) -> int:
    """Group size of a grouped format, else 128."""
    return int(fmt.rpartition("-g")[2]) if "-g" in fmt else 128


def bits_of(method: str, fmt: str) -> float:
    """Bits a weight for the curve, scales of groups of 128 included."""
    if fmt in BITS:
        return min(BITS[fmt], _MOST_BITS)
    return min(int(key_of(method, fmt)[1]) + 0.15, _MOST_BITS)


def imatrix_share(fmt: str) -> float:
    """How much of the effect of an importance matrix a file type has: Q8_0 ignores it, below five bits it is whole."""
    return min(1.0, max(0.0, (7.0 - BITS[fmt]) / 2))


def load(path: Path = FOLDER / "evidence.json") -> list[dict[str, Any]]:
    """The published figures."""
    points: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["points"]
    return points


def rows(points: Iterable[dict[str, Any]]) -> list[Row]:
    """Losses of all points; 16-bit rows, which have nothing to learn from, left out."""
    out = []
    for p in points:
        if p["method"] == "none" or p["format"] in ("f16", "bf16"):
            continue
        for measure in MEASURES:
            value = p.get(measure)
            if value is None or (measure == "perplexity_ratio" and p.get("kld") is not None):
                continue  # one row a file: its divergence says more
            if measure == "perplexity_ratio":
                value = math.log(value)
            elif measure == "recovery":
                value = 1 - value
            out.append(
                Row(
                    p["model"], p["params"], p["method"], p["format"], p.get("imatrix", False), measure,
                    p["protocol"], value, p["source"],
                )
            )  # fmt: skip
    return out


def effects(row: Row) -> dict[tuple[str, ...], float]:
    """The effects that make up the logarithm of a loss, each with its weight; those of the model itself apart."""
    method, key = key_of(row.method, row.format)
    bits = bits_of(row.method, row.format) - 4.5
    out: dict[tuple[str, ...], float] = {
        ("level",): 1.0,
        ("bits",): bits,
        ("curve",): bits * bits,
        ("format", method, key): 1.0,
        ("size",): math.log(row.params / REFERENCE),
    }
    if method != "gguf":
        out[("method", method)] = 1.0
        out[("group",)] = math.log2(group_of(row.format) / 128)
    if row.imatrix and (share := imatrix_share(row.format)):
        out[("imatrix",)] = share
        out[("imatrix of", key)] = share
    if row.early:
        out[("early",)] = 1.0
    if row.measure != "kld":
        out[("measure", row.measure)] = 1.0
    return out


def own_effects(row: Row) -> dict[tuple[str, ...], float]:
    """The effects of the model, and of the model within the protocol."""
    return {("model", row.family): 1.0, ("protocol", row.model, row.protocol): 1.0}


class Fit:
    """Effects fitted to rows; ``tell`` predicts a row of a model that was not among them."""

    def __init__(self, given: Sequence[Row]) -> None:
        used = list(given)
        designs = [{**effects(r), **own_effects(r)} for r in used]
        self.names = sorted({name for d in designs for name in d})
        self.at = {name: i for i, name in enumerate(self.names)}
        n = len(self.names)
        matrix = [[0.0] * n for _ in range(n)]
        right = [0.0] * n
        for i, name in enumerate(self.names):
            mean, width = _prior(name)
            matrix[i][i] = 1 / width**2
            right[i] = mean / width**2
        for row, design in zip(used, designs, strict=True):
            floor = FLOORS[row.measure]
            value = max(row.value, floor / 2)
            noise = (_SMALL_ROW if row.params < _SMALL else ROW) ** 2 + (floor / value) ** 2
            y = math.log(value)
            items = [(self.at[name], weight) for name, weight in design.items()]
            for i, a in items:
                right[i] += a * y / noise
                for j, b in items:
                    matrix[i][j] += a * b / noise
        self.lower = _cholesky(matrix)
        self.mean = _solve(self.lower, right)
        self.rows = used

    def effect(self, *name: str) -> float:
        """Mean of an effect; of one that no row has, its prior."""
        return self.mean[self.at[name]] if name in self.at else _prior(name)[0]

    def deviation(self, *name: str) -> float:
        """Standard deviation of an effect."""
        unit = [float(n == name) for n in self.names]
        return math.sqrt(sum(v * v for v in _forward(self.lower, unit)))

    def tell(self, row: Row) -> Told:
        """The loss of a row as of a model that is not known: its own effects are left open."""
        design = effects(row)
        variance = (_SMALL_ROW if row.params < _SMALL else ROW) ** 2
        variance += PRIORS["model"][1] ** 2 + PRIORS["protocol"][1] ** 2
        vector = [0.0] * len(self.names)
        mean = 0.0
        for name, weight in design.items():
            mean += weight * self.effect(*name)
            if name in self.at:
                vector[self.at[name]] = weight
            else:
                variance += (weight * _prior(name)[1]) ** 2
        half = _forward(self.lower, vector)
        return Told(mean, math.sqrt(variance + sum(v * v for v in half)))

    def anchor(self, method: str, fmt: str, *, imatrix: bool = False) -> Told:
        """The divergence of a late model of the reference size."""
        return self.tell(Row("?", REFERENCE, method, fmt, imatrix, "kld", "?", 1.0, ""))


def _prior(name: tuple[str, ...]) -> tuple[float, float]:
    mean, width = PRIORS[name[0]]
    return (METHODS[name[1]], width) if name[0] == "method" else (mean, width)


def _cholesky(matrix: list[list[float]]) -> list[list[float]]:
    n = len(matrix)
    lower = [[0.0] * n for _ in range(n)]
    for i in range(n):
        row = lower[i]
        for j in range(i + 1):
            left = matrix[i][j] - sum(a * b for a, b in zip(row[:j], lower[j][:j], strict=True))
            row[j] = math.sqrt(left) if i == j else left / lower[j][j]
    return lower


def _forward(lower: list[list[float]], right: Sequence[float]) -> list[float]:
    out: list[float] = []
    for i, row in enumerate(lower):
        out.append((right[i] - sum(a * b for a, b in zip(row[:i], out, strict=True))) / row[i])
    return out


def _solve(lower: list[list[float]], right: Sequence[float]) -> list[float]:
    half = _forward(lower, right)
    n = len(half)
    out = [0.0] * n
    for i in reversed(range(n)):
        out[i] = (half[i] - sum(lower[k][i] * out[k] for k in range(i + 1, n))) / lower[i][i]
    return out


def in_order(values: Sequence[float]) -> list[float]:
    """Logarithms of losses, least first: neighbours that are the wrong way round by little get their mean."""
    pools: list[list[float]] = []
    for value in values:
        pools.append([value])
        while len(pools) > 1:
            before, last = (sum(pool) / len(pool) for pool in pools[-2:])
            if not 0 < before - last < _OPEN:
                break
            pools[-2:] = [pools[-2] + pools[-1]]
    return [sum(pool) / len(pool) for pool in pools for _ in pool]


def _sources(fit: Fit, method: str, key: str) -> str:
    own = [r for r in fit.rows if key_of(r.method, r.format) == (method, key)]
    models = sorted({r.model for r in own})
    if not own:
        return "no rows of its own: what the method loses at other bits, along the curve over bits"
    named = ", ".join(models[:4]) + (" …" if models[4:] else "")
    return f"fit of {len(own)} published rows of {len(models)} models ({named})"


def losses(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The content of losses.json; what is not fitted (groups, caches, agreement) is taken over from the file."""
    fit = Fit(rows(points))
    old = json.loads((FOLDER / "losses.json").read_text(encoding="utf-8"))
    for gone in ("spread", "recovery_source", "size_exponent"):
        old.pop(gone, None)
    anchors: dict[str, dict[str, Any]] = {}
    for method, known in old["anchors"].items():
        anchors[method] = {}
        keys = dict.fromkeys([*known, *(key_of(r.method, r.format)[1] for r in fit.rows if r.method == method)])
        for key in keys:
            fmt = key if method == "gguf" else f"hqq{key}-g128" if method == "hqq" else f"w{key}a16-g128"
            if key == "*":
                fmt = method
            if (method, key) in STATED:
                value, source = STATED[method, key]
                entry = {"kld": value, "kld_imatrix": value, "deviation": _STATED_WIDTH, "source": source}
            else:
                plain = fit.anchor(method, fmt)
                matrix = fit.anchor(method, fmt, imatrix=True).mean if method == "gguf" else plain.mean
                entry = {
                    "kld": _short(math.exp(plain.mean)),
                    "kld_imatrix": _short(math.exp(min(matrix, plain.mean))),
                    "deviation": _short(plain.deviation),
                    "source": _sources(fit, method, key),
                }
            anchors[method][key] = entry
    for order in ORDER:
        entries = [anchors[method][key] for method, key in order]
        for entry, told in zip(entries, in_order([math.log(e["kld"]) for e in entries]), strict=True):
            if abs(told - math.log(entry["kld"])) > 1e-9:
                entry["kld"] = entry["kld_imatrix"] = _short(math.exp(told))
                entry["source"] += "; the rows leave the guide's order open, so neighbours share their mean"
    return old | {
        "about": (
            "Mean KL divergence in nats of a model of 8 billion weights against its 16-bit original, by method and "
            "format; 'kld_imatrix' with an importance matrix, 'deviation' of its natural logarithm between models. "
            "Keys below a method are formats, or bits a weight for grouped formats (of groups of 128), or * for any. "
            "Made by benchmarks/fit_quality.py from evidence.json."
        ),
        "size_exponent": {"value": _short(fit.effect("size")), "deviation": _short(fit.deviation("size"))},
        "early_factor": _short(math.exp(fit.effect("early"))),
        "recovery_per_nat": _short(math.exp(fit.effect("measure", "recovery"))),
        "fit_source": f"benchmarks/fit_quality.py: {len(fit.rows)} rows of {len({r.model for r in fit.rows})} models",
        "group": {str(g): _short(math.exp(fit.effect("group") * math.log2(g / 128))) for g in (16, 32, 64, 128, 256)},
        "perplexity_per_nat": _short(math.exp(fit.effect("measure", "perplexity_ratio"))),
        "anchors": anchors,
    }


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def main() -> None:
    """Fit, print, and write where it is asked for."""
    points = load()
    table = losses(points)
    for method, known in table["anchors"].items():
        for key, a in known.items():
            print(f"{method:6} {key:8} {a['kld']:<9} {a['kld_imatrix']:<9} ±{a['deviation']:<6} {a['source']}")
    print({k: v for k, v in table.items() if k not in ("anchors", "about", "kv", "kv_source")})
    if "--write" in sys.argv[1:]:
        (FOLDER / "losses.json").write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
