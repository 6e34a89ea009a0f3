"""What one token costs on each device: bytes to read, arithmetic, and the way between devices."""

from __future__ import annotations

from typing import Final, NamedTuple

from advisor.cost.formats import checkpoint
from advisor.cost.gguf_file import OUTPUT, Part, WeightMap, weight_map
from advisor.cost.gguf_types import BLOCKS
from advisor.cost.kv import layers as cache_layers
from advisor.cost.kv import read_per_token
from advisor.cost.placement import HOST, Placement, place
from advisor.facts.machine import Device, Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Settings

# Types of the weights that a token reads, and the share of the weights in each.
Kinds = tuple[tuple[str, float], ...]

# 10^9 bytes a second of one PCIe lane by generation, after its encoding, and the share that copies reach.
_LANE: Final = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563}
_LINK_SHARE: Final = 0.8
LINK_UNKNOWN: Final = 7.9e9 * _LINK_SHARE  # eight lanes of PCIe 3.0


class Work(NamedTuple):
    """What one token costs on one device: bytes of weights, bytes of cache, weights that take part, operations of
    attention, layers (parts of one, where its experts are elsewhere), and bytes of its weights as they lie there."""

    weights: int
    cache: int
    params: float
    attention: float = 0.0
    layers: float = 0.0
    held: int = 0


class Shares(NamedTuple):
    """Work by device key, how often a token's activations go from one device to another, types of the weights read."""

    work: dict[str, Work]
    crossings: int
    kinds: Kinds


def _is_read(part: Part, *, tied: bool) -> bool:
    """Whether a token reads the whole tensor in a product. Of an embedding it reads a row, unless that is the output
    matrix too; norms and biases count with a layer's fixed cost."""
    if not part.matrix:
        return False
    return part.place >= 0 or part.place == OUTPUT or (tied and part.name == "token_embd.weight")


def bytes_read(weights: WeightMap, model: ModelFacts) -> dict[str, float]:
    """Bytes of the matrices that a token is multiplied with, by type; of experts those that are used."""
    found: dict[str, float] = {}
    used = model.experts_used / model.experts if model.experts else 1.0
    for part in weights.parts:
        if _is_read(part, tied=weights.tied):
            found[part.type] = found.get(part.type, 0.0) + part.bytes * (used if part.expert else 1.0)
    return found


def weights_of(kind: str, size: float) -> float:
    """Weights of a GGUF type that ``size`` bytes hold."""
    block, bytes_ = BLOCKS[kind]
    return size / bytes_ * block


def types_read(weights: WeightMap, model: ModelFacts) -> Kinds:
    """Types of the matrices that a token is multiplied with and their share of the weights, the most first."""
    found = {kind: weights_of(kind, size) for kind, size in bytes_read(weights, model).items()}
    total = sum(found.values()) or 1.0
    return tuple((kind, n / total) for kind, n in sorted(found.items(), key=lambda one: -one[1]))


def attention_operations(model: ModelFacts, tensors: tuple[TensorSpec, ...], depth: int) -> float:
    """Operations of one token on the cache: 4 * heads * head size * tokens seen, in each layer that has a cache."""
    seen = 0
    for one in cache_layers(model, tensors)[0]:
        seen += min(depth, model.sliding_window) if one.window and model.sliding_window else depth
    return 4.0 * model.heads * model.head_dim * seen


def shares(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    *,
    method: str,
    fmt: str,
    settings: Settings,
    machine: Machine,
    devices: tuple[str, ...],
    imatrix: bool,
    as_is: bool | None,
    depth: int,
) -> Shares:
    """Work of one token by device key. Layers are read where they lie, one after the other.

    Raises:
        AdvisorError: ``bad-option`` for a format that cannot be sized.
        KeyError: an unknown device.
    """
    kv = read_per_token(model, tensors, settings, depth)
    operations = attention_operations(model, tensors, depth)
    gpus = [d for d in devices if d != HOST]
    if method != "gguf":
        size = checkpoint(model, tensors, method, fmt)
        homes = gpus or [HOST]
        n = len(homes)
        groups = settings.pipeline_parallel if n % max(settings.pipeline_parallel, 1) == 0 else 1
        one = Work(
            weights=size.read // n,
            cache=kv // n,
            params=model.active_params / n,
            attention=operations / n,
            layers=model.layers / groups,
            held=int(size.total.value) // n,
        )
        return Shares(dict.fromkeys(homes, one), groups - 1, ((fmt, 1.0),))
    weights = weight_map(model, tensors, fmt, imatrix=imatrix, as_is=as_is)
    count = len(weights.read_layers)
    at: Placement = place(len(weights.layers), settings, machine, devices)
    sums: dict[str, list[float]] = {}
    crossings = 0
    previous: str | None = None
    for i, size_read in enumerate(weights.read_layers):
        home = at.layers[i]
        row = sums.setdefault(home, [0.0, 0.0, 0.0, 0.0])
        away = away_held = 0
        if i in at.experts_on_host and home != HOST and model.experts:
            away = weights.experts[i] * model.experts_used // model.experts
            away_held = weights.experts[i]
            other = sums.setdefault(HOST, [0.0, 0.0, 0.0, 0.0])
            other[0] += away
            other[2] += 0.5
            other[3] += away_held
            crossings += 2
        row[0] += size_read - away
        row[1] += 1 / count
        row[2] += 0.5 if away else 1.0
        row[3] += weights.layers[i] - away_held
        crossings += previous is not None and home != previous
        previous = home
    crossings += previous is not None and at.output != previous
    last = sums.setdefault(at.output, [0.0, 0.0, 0.0, 0.0])
    last[0] += weights.read - sum(weights.read_layers)
    last[3] += weights.output
    whole = max(weights.read, 1)
    return Shares(
        {
            key: Work(
                weights=int(read),
                cache=int(kv * part),
                params=model.active_params * read / whole,
                attention=operations * part,
                layers=n,
                held=int(held),
            )
            for key, (read, part, n, held) in sums.items()
        },
        crossings,
        types_read(weights, model),
    )


def link_bandwidth(device: Device) -> float:
    """Bytes a second between host and device."""
    if device.unified_memory:
        return float(device.bandwidth.value) / 2 if device.bandwidth is not None else LINK_UNKNOWN
    link = device.link
    if link is None:
        return LINK_UNKNOWN
    width = link.pcie_width_now or link.pcie_width
    lane = _LANE.get(link.pcie_gen or 0)
    return lane * width * 1e9 * _LINK_SHARE if lane and width else LINK_UNKNOWN
