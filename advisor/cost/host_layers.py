"""The layers of a model as llama.cpp computes them, laid out from the tensors that they have.

Which operations a layer needs follows from its tensors: what is normed and where, whether queries are gated, whether
keys and values are compressed, whether there are experts. Sizes are bytes of f32 rows, one for each token of a batch.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from advisor.cost.graph import Graph, Tensor
from advisor.cost.host_recurrent import recurrent

Shapes = dict[str, tuple[int, ...]]
_STATE: Final = ("ssm_conv1d.weight", "ssm_conv1d_q.weight", "shortconv.conv.weight")


class Batch(NamedTuple):
    """What a reserved batch looks like: tokens, sequences, rows of logits, cells of the caches by kind of layer."""

    tokens: int
    sequences: int
    outputs: int
    cells: int
    window_cells: int


class Widths(NamedTuple):
    """Numbers and habits of the model that its tensors do not tell.

    ``turned``: queries, keys and values are turned for a quantized cache. ``positions``: numbers that a token's place
    takes. ``attention_first``: attention's result joins the others before the network's, where both see the same input.
    ``rotated_windows_only``: layers with the whole context have no rotary positions. ``weighed_before``: inputs of
    experts are weighed, not their results. ``per_layer``: width of the inputs that each layer gets for itself, all
    layers together.
    """

    hidden: int
    heads: int
    vocab: int
    used: int
    turned: bool
    positions: int
    attention_first: bool
    rotated_windows_only: bool
    weighed_before: bool
    per_layer: int


class LayerShape(NamedTuple):
    """One layer: its tensors, and whether it attends to a window; without cache it reads another layer's."""

    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    window: bool
    cached: bool


class HostGraph:
    """A batch through some layers and, at the end, the output matrix."""

    def __init__(self, layers: tuple[LayerShape, ...], w: Widths, b: Batch) -> None:
        self.g, self.w, self.b = Graph(), w, b
        self.row = 4 * b.tokens
        g = self.g
        g.given(self.row)  # tokens
        g.given(self.row * w.hidden)  # embeddings, for batches of nothing else
        mixed = g.given(self.row * w.hidden)  # embeddings that come between tokens
        g.given(self.row * w.per_layer)  # looked up,
        g.given(self.row * w.per_layer)  # and mixed with what the embeddings say
        self.position = g.given(self.row * w.positions)
        self.wanted = g.given(4 * b.outputs)
        self.masks: dict[bool, Tensor] = {}
        for layer in layers:
            shapes = dict(layer.tensors)
            if _attends(shapes) and layer.window not in self.masks:
                cells = b.window_cells if layer.window else b.cells
                self.masks[layer.window] = g.given(2 * b.tokens * cells)
                g.given(16 * b.tokens)  # where keys and values go
        x = g.op(self.row * w.hidden)
        g.expand(x)
        # The graph also has embeddings of tokens that are written between given ones, and does not use them.
        g.expand(g.written(g.op(self.row * w.hidden), g.op(self.row * w.hidden, mixed)))
        for i, layer in enumerate(layers):
            g.expand(x)
            x = self._layer(x, layer, last=i == len(layers) - 1)
        g.expand(g.op(4 * b.outputs * w.vocab, self._norm(x)))

    def bytes(self) -> int:
        """Bytes of the work buffer."""
        return self.g.bytes()

    def _norm(self, x: Tensor) -> Tensor:
        return self.g.same(self.g.same(x))

    def _times(self, x: Tensor, rows: int, *, row: int | None = None) -> Tensor:
        return self.g.op((row or self.row) * rows, x)

    def _biased(self, x: Tensor, t: Shapes, name: str) -> Tensor:
        return self.g.same(x) if f"{name}.bias" in t else x

    def _layer(self, x: Tensor, layer: LayerShape, *, last: bool) -> Tensor:
        g, t = self.g, dict(layer.tensors)
        before = x
        n = self._norm(x) if "attn_norm.weight" in t else x
        alone = not _attends(t) and not any(name in t for name in _STATE)
        if alone:  # a layer that is nothing but a network
            return g.same(self._network(n, t), x)
        mixed: Tensor | None = None
        if _attends(t):
            mixed = self._attention(n, t, layer)
        if any(name in t for name in _STATE):
            state = recurrent(
                g, n if mixed is None else self._norm(x), t, self.b.tokens, self.b.sequences, self.w.heads
            )
            mixed = state if mixed is None else g.same(mixed, state)
        assert mixed is not None
        parallel = not any(k in t for k in ("ffn_norm.weight", "ffn_norm", "post_attention_norm.weight"))
        if not has_network(t):
            return g.same(mixed, x)
        own = "ffn_norm.weight" in t or "ffn_norm" in t or "attn_norm.weight" not in t
        if "post_attention_norm.weight" in t and own:
            mixed = self._norm(mixed)
        if last:
            mixed, before = (g.op(4 * self.b.outputs * self.w.hidden, y, self.wanted) for y in (mixed, before))
        if parallel:
            out = self._network(n, t)
            if last:
                return g.same(mixed, before)
            return g.same(g.same(mixed, out) if self.w.attention_first else g.same(out, mixed), before)
        middle = g.same(mixed, before)
        pre = self._norm(middle) if "attn_norm.weight" in t else middle
        out = self._network(pre, t, row=4 * self.b.outputs if last else None)
        if "post_ffw_norm.weight" in t:
            out = self._norm(out)
        return g.same(out, middle)

    def _turned(self, x: Tensor) -> Tensor:
        return self.g.view(self.g.op(x.size, self.g.view(x))) if self.w.turned else x

    def _attention(self, n: Tensor, t: Shapes, layer: LayerShape) -> Tensor:
        if "attn_kv_a_mqa.weight" in t and "attn_k_b.weight" in t:
            return self._latent(n, t, layer)
        g, row = self.g, self.row
        wide = t["attn_output.weight"][1]
        gate: Tensor | None = None
        if "attn_qkv.weight" in t:
            whole = self._biased(self._times(n, t["attn_qkv.weight"][0]), t, "attn_qkv")
            rest = (t["attn_qkv.weight"][0] - wide) // 2
            q, k, v = (g.view(whole, row * width) for width in (wide, rest, rest))
        else:
            rows = t["attn_q.weight"][0]
            q = self._biased(self._times(n, rows), t, "attn_q")
            if rows == 2 * wide:  # queries, and a gate of the output
                gate = g.op(row * wide, g.view(q))
            q = q if q.size == row * wide else g.view(q, row * wide)
            k = v = g.view(n)
            if layer.cached:
                k = self._biased(self._times(n, t["attn_k.weight"][0]), t, "attn_k")
                values = t.get("attn_v.weight", t["attn_k.weight"])[0]
                v = g.view(self._biased(self._times(n, values), t, "attn_v"))
        rotated = layer.window or not self.w.rotated_windows_only
        q = self._placed(q, t, "attn_q_norm.weight", rotated)
        if layer.cached:
            k = self._placed(k, t, "attn_k_norm.weight", rotated)
            q, k, v = self._turned(q), self._turned(k), self._turned(v)
            g.expand(q, v, k)
            for stored in (k, v):
                g.expand(g.stored(g.view(stored)))
        out = g.op(row * wide, g.view(q), self.masks[layer.window])
        g.expand(out)
        out = self._turned(g.view(out))
        if gate is not None:
            out = g.same(out, g.same(gate))
        return self._biased(self._times(out, self.w.hidden), t, "attn_output")

    def _placed(self, x: Tensor, t: Shapes, norm: str, rotated: bool) -> Tensor:
        """Normed where there is a norm, over the whole width or by head, and ``rotated`` by position."""
        if norm in t and 4 * t[norm][0] * self.b.tokens == x.size:
            x = self.g.view(self._norm(x))
        else:
            x = self.g.view(x)
            x = self._norm(x) if norm in t else x
        return self.g.same(x, self.position) if rotated else x

    def _latent(self, n: Tensor, t: Shapes, layer: LayerShape) -> Tensor:
        """Attention over compressed keys: what queries see is as wide as the compressed key, for each head."""
        g, row = self.g, self.row
        heads, latent, _ = t["attn_k_b.weight"]
        value = t["attn_v_b.weight"][1]
        rope = t["attn_kv_a_mqa.weight"][0] - latent
        if "attn_q_a.weight" in t:
            low = self._norm(self._times(n, t["attn_q_a.weight"][0]))
            q = self._times(low, t["attn_q_b.weight"][0])
        else:
            q = self._times(n, t["attn_q.weight"][0])
        both = self._times(n, latent + rope)
        turned = g.same(g.view(q, row * heads * rope), self.position)
        key = g.same(g.view(both, row * rope), self.position)
        short = self._norm(g.view(both, row * latent))
        absorbed = g.op(row * heads * latent, g.view(q))
        q = g.op(row * heads * (latent + rope), g.view(absorbed), turned)
        k = g.op(row * (latent + rope), g.view(short), key)
        g.expand(q, g.view(short), k)
        g.expand(g.stored(g.view(k)))
        out = g.op(row * heads * latent, g.view(q), self.masks[layer.window])
        out = g.op(row * heads * value, g.view(out))
        out = g.op(row * heads * value, g.view(out))
        out = g.view(out)
        g.expand(out)
        return self._biased(self._times(out, self.w.hidden), t, "attn_output")

    def _network(self, n: Tensor, t: Shapes, *, row: int | None = None) -> Tensor:
        row = row or self.row
        if "ffn_gate_inp.weight" not in t or "ffn_down_exps.weight" not in t:
            return self._dense(n, t, "", row)
        seen = n
        if "ffn_latent_down.weight" in t:
            seen = self._times(n, t["ffn_latent_down.weight"][0], row=row)
        out = self._experts(n, seen, t, row)
        if "ffn_latent_up.weight" in t:
            out = self._times(out, self.w.hidden, row=row)
        if "ffn_up_shexp.weight" in t:
            shared = self._dense(n, t, "_shexp", row)
            if "ffn_gate_inp_shexp.weight" in t:
                shared = self.g.same(shared, self.g.same(self._times(n, 1, row=row)))
            out = self.g.same(out, shared)
        elif "ffn_up.weight" in t:  # a dense network beside the experts
            out = self.g.same(out, self._dense(n, t, "", row))
        return out

    def _dense(self, n: Tensor, t: Shapes, suffix: str, row: int) -> Tensor:
        g = self.g
        wide = t[f"ffn_down{suffix}.weight"][1]
        up = self._biased(self._times(n, t[f"ffn_up{suffix}.weight"][0], row=row), t, f"ffn_up{suffix}")
        if f"ffn_gate{suffix}.weight" in t:
            gate = self._biased(self._times(n, wide, row=row), t, f"ffn_gate{suffix}")
            inner = g.op(row * wide, gate, up)
        elif t[f"ffn_up{suffix}.weight"][0] == 2 * wide:
            inner = g.op(row * wide, up)
        else:
            inner = g.same(up)
        return self._biased(self._times(inner, self.w.hidden, row=row), t, f"ffn_down{suffix}")

    def _experts(self, n: Tensor, seen: Tensor, t: Shapes, row: int) -> Tensor:
        g, used = self.g, self.w.used
        experts, width, inner = t["ffn_down_exps.weight"]
        shares = g.same(self._biased(self._times(n, experts, row=row), t, "ffn_gate_inp"))
        choice = g.same(shares) if "exp_probs_b.bias" in t else shares
        chosen = g.view(g.op(row * experts, choice), row * used)
        factors = g.view(g.op(row * used, g.view(shares), chosen))
        whole = g.same(g.op(row, factors))
        factors = g.view(g.same(factors, whole))
        g.expand(factors)
        seen = g.view(seen)
        if self.w.weighed_before:
            seen = g.same(g.op(row * used * width, seen), factors)
        if "ffn_gate_up_exps.weight" in t:
            both = g.op(2 * row * used * inner, seen, chosen)
            middle = g.op(row * used * inner, g.view(both), g.view(both))
        else:
            up = g.op(row * used * inner, seen, chosen)
            up = g.same(up, chosen) if "ffn_up_exps.bias" in t else up
            if "ffn_gate_exps.weight" in t:
                gate = g.op(row * used * inner, seen, chosen)
                gate = g.same(gate, chosen) if "ffn_gate_exps.bias" in t else gate
                middle = g.op(row * used * inner, gate, up)
            else:
                middle = g.same(up)
        down = g.op(row * used * width, middle, chosen)
        down = g.same(down, chosen) if "ffn_down_exps.bias" in t else down
        down = down if self.w.weighed_before else g.same(down, factors)
        g.expand(down)
        ways = [g.view(down, row * width) for _ in range(used)]
        g.expand(*ways)
        out = ways[0]
        for way in ways[1:]:
            out = g.same(out, way)
            g.expand(out)
        return out if used > 1 else g.op(row * width, out)


def _attends(t: Shapes) -> bool:
    """Whether the layer computes attention; a delta net has a matrix called ``attn_qkv``, too."""
    if "attn_output.weight" not in t:
        return False
    return not any(name in t for name in ("ssm_conv1d_q.weight",)) and (
        "attn_q.weight" in t or "attn_q_b.weight" in t or ("attn_qkv.weight" in t and "ssm_out.weight" not in t)
    )


def has_network(t: Shapes) -> bool:
    """Whether the layer has a feed-forward network."""
    return "ffn_down.weight" in t or "ffn_down_exps.weight" in t
