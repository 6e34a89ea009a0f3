"""Files of a model's shapes with random weights, to measure formats that nobody has made.

The speed of an engine does not depend on the values of the weights, so that a file of random blocks is as good as a
quantized one, and takes seconds instead of an hour. Of a large model some of the layers stand for all: every layer of a
plain decoder takes the same time. The format that is there for real is measured by a stand-in, too, and the others
count relative to it, so that a disturbance of the moment falls out.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from advisor.cost.gguf_mix import assign
from advisor.cost.gguf_types import tensor_bytes
from advisor.errors import AdvisorError
from advisor.execute.oracle import header
from advisor.facts.bench import Work
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Settings
from advisor.planner.token_work import work_of

# One of each kind of kernel; the mixes between them follow from their types.
FORMATS: Final = ("q4_0", "q8_0", "q4_k_m", "q5_k_m", "q6_k", "q3_k_m", "q2_k", "iq4_xs", "iq4_nl", "q4_1", "q5_0",
                  "q5_1", "f16", "bf16")  # fmt: skip
# Bytes of weights from which on layers are left out: enough to exceed the caches of most processors.
_ENOUGH: Final = 384 << 20
_FEWEST_LAYERS: Final = 2
# Layers that differ from each other, or whose shapes take metadata that is not written here.
_UNKNOWN_SHAPES: Final = ("recurrent", "both", "latent", "none")


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
