"""Files of a model's shapes with random weights, to measure formats that nobody has made.

The speed of an engine does not depend on the values of the weights, so that a file of random blocks is as good as a
quantized one, and takes seconds instead of an hour. Of a large model some of the layers stand for all: every layer of a
plain decoder takes the same time. The format that is there for real is measured by a stand-in, too, and the others
count relative to it: they decode in turns, so that a disturbance of the moment falls out. Several rounds, each with
files written anew: where in memory a file comes to lie can make it slower for as long as it lies there.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from advisor.cost.gguf_mix import assign
from advisor.cost.gguf_types import tensor_bytes
from advisor.errors import AdvisorError
from advisor.execute.oracle import header
from advisor.facts.bench import Work
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Settings
from advisor.planner.token_work import work_of

if TYPE_CHECKING:
    from advisor.execute.speeds import Driver, Turns

# One of each kind of kernel; the mixes between them follow from their types.
FORMATS: Final = ("q4_0", "q8_0", "q4_k_m", "q5_k_m", "q6_k", "q3_k_m", "q2_k", "iq4_xs", "iq4_nl", "q4_1", "q5_0",
                  "q5_1", "f16", "bf16")  # fmt: skip
# Bytes of weights from which on layers are left out: enough to exceed the caches of most processors.
_ENOUGH: Final = 384 << 20
_FEWEST_LAYERS: Final = 2
# Layers that differ from each other, or whose shapes take metadata that is not written here.
_UNKNOWN_SHAPES: Final = ("recurrent", "both", "latent", "none")


# Rounds, the most turns of a group and the seconds for them; files that are open together, in number and bytes.
_ROUNDS: Final = 3
_TURNS: Final = 12
_SPEND_S: Final = 6.0
_TOGETHER: Final = 5
_TOGETHER_BYTES: Final = 5 << 29


class StandIn(NamedTuple):
    """A file to be filled with random blocks. ``model`` and ``tensors`` are what it holds: all layers if ``whole``."""

    format: str
    model: ModelFacts
    tensors: tuple[TensorSpec, ...]
    metadata: dict[str, Any]
    whole: bool

    def request(self) -> dict[str, Any]:
        """For the measuring runner."""
        return {
            "label": self.format,
            "metadata": self.metadata,
            "tensors": [[t.name, list(t.shape), t.gguf_type] for t in self.tensors],
        }

    def work(self, depth: int) -> Work:
        """What a token of it costs."""
        settings = Settings(context=depth + 64)
        return work_of(
            self.model, self.tensors, method="gguf", fmt=self.format, settings=settings, depth=depth, as_is=True
        )


def plan(model: ModelFacts, tensors: tuple[TensorSpec, ...], *, own: str, room_bytes: int) -> tuple[StandIn, ...]:
    """The files to measure; none for models whose layers differ, or are routed: which experts are read matters there.

    Args:
        model: any source of facts.
        tensors: its tensors.
        own: the format that is measured for real; it comes first.
        room_bytes: a larger file is left out.
    """
    if model.experts or not tensors or any(k in _UNKNOWN_SHAPES for k in model.layer_kinds):
        return ()
    bare = msgspec.structs.replace(model, weights_format="none", path=None, weights_bytes=None, source_types={})
    plain = tuple(msgspec.structs.replace(t, gguf_type=None) for t in tensors)
    out = []
    for fmt in dict.fromkeys((own, *FORMATS)):
        try:
            typed = tuple(
                msgspec.structs.replace(a.tensor, gguf_type=a.type) for a in assign(bare, plain, fmt, imatrix=False)
            )
        except AdvisorError:
            continue
        whole = _sum(typed)
        layers = _layers(bare.layers, typed)
        kept = tuple(t for t in typed if t.layer is None or t.layer < layers)
        if min(whole, _sum(kept)) > room_bytes:
            continue
        held = msgspec.structs.replace(bare, layers=layers, weights_format="gguf", ref=f"{model.ref} {fmt} {layers}")
        rope = [t.width for t in typed if t.name.startswith("rope_factors")]
        metadata = header(msgspec.structs.replace(bare, layers=layers), rotary=2 * rope[0] if rope else bare.head_dim)
        out.append(StandIn(fmt, held, kept, metadata, layers == bare.layers))
    return tuple(out)


class Relation(NamedTuple):
    """A format's time of a token by that of the reference, in each round. ``reference_s``: of the reference in the
    same turns, the least of the rounds; ``cpu_share``: the worst."""

    ratios: tuple[float, ...]
    reference_s: float
    cpu_share: float | None

    @property
    def ratio(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.ratios)


def relations(
    driver: Driver, made: Sequence[StandIn], *, depth: int, threads: int, room_bytes: int
) -> dict[str, Relation]:
    """Each format relative to the first of ``made``, by format; those that could not be measured are left out.

    Args:
        driver: what measures.
        made: what ``plan`` gave.
        depth: tokens in the cache.
        threads: of the engine.
        room_bytes: memory for the files that are open together, of which more than two take a quarter at most, since
            the engine may keep weights twice.

    Raises:
        AdvisorError: as ``Driver.in_turns``.
    """
    most = min(_TOGETHER_BYTES, room_bytes // 4)
    first, *others = made

    def measure(groups: list[list[StandIn]]) -> list[Turns]:
        asked = [[m.request() for m in g] for g in groups]
        found = driver.in_turns(asked, depth=depth, threads=threads, turns=_TURNS, spend_s=_SPEND_S)
        return [t for t in found if t.seconds]

    found = measure([g for turn in range(_ROUNDS) for g in _groups(first, others[turn:] + others[:turn], most)])
    # One that does not load takes those beside it along.
    alone = [m for m in others if not any(m.format in t.labels for t in found)]
    if found and alone:
        try:
            found += measure([[first, m] for m in alone])
        except AdvisorError as e:
            if e.code == "interrupted":
                raise
    out = {}
    for one in made:
        own = [t for t in found if one.format in t.labels]
        if own:
            out[one.format] = Relation(
                tuple(t.ratio(one.format, first.format) for t in own),
                min(t.of(first.format) for t in own),
                min((t.cpu_share for t in own if t.cpu_share is not None), default=None),
            )
    return out


def _groups(first: StandIn, others: Sequence[StandIn], most_bytes: int) -> list[list[StandIn]]:
    """The others, each beside the first, as many together as have room; the first alone where there are none."""
    out: list[list[StandIn]] = []
    for one in others:
        if not out or len(out[-1]) == _TOGETHER or sum(_sum(m.tensors) for m in (*out[-1], one)) > most_bytes:
            out.append([first])
        out[-1].append(one)
    return out or [[first]]


def _sum(tensors: tuple[TensorSpec, ...]) -> int:
    return sum(tensor_bytes(t, t.gguf_type or "f32") for t in tensors)


def _layers(count: int, typed: tuple[TensorSpec, ...]) -> int:
    """As many layers as make enough bytes, evenly from the front; all of a small model."""
    outside = _sum(tuple(t for t in typed if t.layer is None))
    inside = _sum(typed) - outside
    if inside + outside <= _ENOUGH or not inside:
        return count
    wanted = (_ENOUGH - outside) * count // inside
    return max(min(_FEWEST_LAYERS, count), min(count, wanted))
