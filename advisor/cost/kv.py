"""Cache of keys and values, and recurrent state, as llama.cpp allocates them."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from advisor.cost.gguf_file import speculative_layers
from advisor.cost.gguf_types import BLOCKS, pad
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Settings

CELLS: Final = 256  # the engine rounds contexts and windows up to this many cells
SOURCE: Final = "llama.cpp: rows of n_embd_k_gqa and n_embd_v_gqa a cell, contexts padded to 256"


class KvLayer(NamedTuple):
    """Widths of one layer's cache in elements a token; ``window`` marks a sliding-window layer."""

    layer: int
    keys: int
    values: int
    window: bool


class StateLayer(NamedTuple):
    """Recurrent state of one layer in f32 elements a sequence: the convolution's part and the rest."""

    layer: int
    conv: int
    state: int
    sure: bool


class Cells(NamedTuple):
    """Cells a stream of full and of window layers, number of streams, and context of one sequence."""

    full: int
    window: int
    streams: int
    sequence: int


def cells(model: ModelFacts, settings: Settings, *, unified: bool = False) -> Cells:
    """How many cache cells the server reserves.

    Args:
        model: for its window.
        settings: ``context`` is for all ``parallel`` slots together.
        unified: one buffer for all slots; otherwise one stream a slot, which is what a fixed number of slots gets.
    """
    context = pad(max(settings.context, 1), CELLS)
    slots = max(settings.parallel, 1)
    streams = 1 if unified else slots
    sequence = context if unified else pad(context // slots, CELLS) or CELLS
    window = sequence
    if model.sliding_window:
        reach = model.sliding_window * (slots if unified else 1) + settings.ubatch
        window = pad(min(sequence, reach), CELLS)
    return Cells(full=sequence, window=window, streams=streams, sequence=sequence)


def _is_window(model: ModelFacts, layer: int) -> bool:
    if not model.sliding_window:
        return False
    if len(model.layer_kinds) > layer:
        return model.layer_kinds[layer] == "window"
    if model.sliding_pattern is None:
        return False
    pattern = model.sliding_pattern
    return pattern == 0 or layer % pattern < pattern - 1


Block = dict[str, TensorSpec]
_Kept = tuple[object, tuple[KvLayer, ...], tuple[StateLayer, ...], dict[int, Block]]
_LAYERS: Final[dict[tuple[object, ...], _Kept]] = {}


def layers(model: ModelFacts, tensors: tuple[TensorSpec, ...]) -> tuple[tuple[KvLayer, ...], tuple[StateLayer, ...]]:
    """Cached layers and recurrent layers, read from the shapes of the model's tensors and the kinds of its layers.

    Without tensors every layer has the heads that the model facts name.
    """
    _, cached, state, _ = _read(model, tensors)
    return cached, state


def blocks(model: ModelFacts, tensors: tuple[TensorSpec, ...]) -> dict[int, Block]:
    """The tensors of each layer under their names within it; blocks for multi-token prediction are left out."""
    return _read(model, tensors)[3]


def _read(model: ModelFacts, tensors: tuple[TensorSpec, ...]) -> _Kept:
    facts = (model.ref, model.layers, model.heads, model.kv_heads, model.head_dim)
    key = (id(tensors), facts, model.sliding_window, model.sliding_pattern, model.layer_kinds)
    found = _LAYERS.get(key)
    if found is not None and found[0] is tensors:
        return found
    extra = speculative_layers(tensors)
    grouped: dict[int, Block] = {}
    for t in tensors:
        if t.layer is not None and t.layer not in extra:
            grouped.setdefault(t.layer, {})[t.name.split(".", 2)[2]] = t
    cached: list[KvLayer] = []
    state: list[StateLayer] = []
    for i, block in sorted(grouped.items()) or ((i, {}) for i in range(model.layers)):
        kind = model.layer_kinds[i] if len(model.layer_kinds) > i else ""
        recurrent = _state(model, i, block) if kind in ("", "recurrent", "both") else None
        if recurrent:
            state.append(recurrent)
        widths = None if kind in ("recurrent", "none") else _cached(model, block, recurrent is not None)
        if widths is not None:
            cached.append(KvLayer(i, *widths, _is_window(model, i)))
    if len(_LAYERS) > 256:
        _LAYERS.clear()
    built = (tensors, tuple(cached), tuple(state), grouped)
    _LAYERS[key] = built  # another thread may clear it at once
    return built


def _cached(model: ModelFacts, block: Block, recurrent: bool) -> tuple[int, int] | None:
    """Widths of keys and values of one layer's cache; ``None`` where it has none."""
    width = model.kv_heads * model.head_dim
    if (latent := block.get("attn_kv_a_mqa.weight")) is not None:
        whole, queries = block.get("attn_kv_b.weight"), block.get("attn_q_b.weight") or block.get("attn_q.weight")
        if whole is None or queries is None or "attn_k_b.weight" in block:
            index = block.get("indexer.attn_k.weight")  # sparse attention keeps the keys of its indexer, too
            return latent.shape[0] + (index.shape[0] if index is not None else 0), 0
        # Files that keep the decompression in one matrix are served with keys and values of every head.
        plain = queries.shape[0] - model.heads * (latent.shape[0] - whole.width)
        return queries.shape[0], max(whole.shape[0] - plain, 0)
    if "ssm_conv1d_q.weight" in block:
        return None
    if (keys := block.get("attn_k.weight")) is not None:
        values = block.get("attn_v.weight", keys)
        return keys.shape[0], values.shape[0]
    if recurrent:
        return None
    if (fused := block.get("attn_qkv.weight")) is not None:
        out = block.get("attn_output.weight")
        rest = fused.shape[0] - out.width if out is not None else 0
        return (rest // 2, rest // 2) if rest > 0 else (width, width)
    return (width, width) if width and not block else None


def _state(model: ModelFacts, layer: int, block: Block) -> StateLayer | None:
    """The recurrent state, as llama.cpp's ``n_embd_r`` and ``n_embd_s`` have it."""
    if (short := block.get("shortconv.conv.weight")) is not None:
        return StateLayer(layer, short.shape[0] * (short.width - 1), 0, True)
    if (first := block.get("ssm_conv1d_q.weight")) is not None:
        inner = first.elements // first.width
        head = block["ssm_f_a.weight"].shape[0] if "ssm_f_a.weight" in block else 128
        return StateLayer(layer, 3 * (first.width - 1) * inner, inner * head, "ssm_f_a.weight" in block)
    conv = block.get("ssm_conv1d.weight")
    if conv is None:
        return None
    channels, taps = conv.shape[0], conv.width
    a, norm, out = block.get("ssm_a"), block.get("ssm_norm.weight"), block.get("ssm_out.weight")
    rolled = (taps - 1) * channels
    if a is not None and len(a.shape) == 2 and a.width > 1:  # Mamba: a row of d_state for each inner channel
        return StateLayer(layer, rolled, a.elements, True)
    inner = out.width if out is not None else channels
    if "ssm_beta_alpha.weight" in block or "ssm_ba.weight" in block or "ssm_alpha.weight" in block:
        head = norm.elements if norm is not None else 128  # gated delta net: key and value heads of one size
        return StateLayer(layer, rolled, inner * head, norm is not None)
    groups = norm.shape[0] if norm is not None and len(norm.shape) == 2 else model.widths.get("ssm.group_count", 0)
    per_group = max(channels - inner, 0) // (2 * (groups or 1))
    return StateLayer(layer, rolled, per_group * inner, out is not None and groups > 0)


@lru_cache(maxsize=64)
def element_rows(kv_type: str, elements: int) -> int:
    """Bytes of a row of ``elements`` in cache type ``kv_type``; rounded up to whole blocks.

    Raises:
        KeyError: no such type.
    """
    weights, size = BLOCKS[kv_type]
    return -(-elements // weights) * size


def cache_by_layer(
    model: ModelFacts, tensors: tuple[TensorSpec, ...], settings: Settings, *, unified: bool = False
) -> dict[int, int]:
    """Bytes of the cache by layer, over all streams."""
    room = cells(model, settings, unified=unified)
    out: dict[int, int] = {}
    for one in layers(model, tensors)[0]:
        row = element_rows(settings.kv_type, one.keys) + element_rows(settings.kv_type, one.values)
        out[one.layer] = row * (room.window if one.window else room.full) * room.streams
    return out


def state_by_layer(model: ModelFacts, tensors: tuple[TensorSpec, ...], settings: Settings) -> dict[int, int]:
    """Bytes of recurrent state by layer: f32, one a slot, whatever the context."""
    return {s.layer: 4 * (s.conv + s.state) * max(settings.parallel, 1) for s in layers(model, tensors)[1]}


def read_per_token(model: ModelFacts, tensors: tuple[TensorSpec, ...], settings: Settings, depth: int) -> int:
    """Bytes of cache that one new token reads when ``depth`` tokens are in it."""
    out = 0
    for one in layers(model, tensors)[0]:
        seen = min(depth, model.sliding_window) if one.window and model.sliding_window else depth
        out += seen * (element_rows(settings.kv_type, one.keys) + element_rows(settings.kv_type, one.values))
    return out
