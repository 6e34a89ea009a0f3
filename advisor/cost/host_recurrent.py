"""Recurrent parts of layers as llama.cpp computes them: Mamba, Mamba-2, gated delta nets, short convolutions."""

from __future__ import annotations

from advisor.cost.graph import Graph, Tensor

Shapes = dict[str, tuple[int, ...]]


def recurrent(g: Graph, n: Tensor, t: Shapes, tokens: int, sequences: int, heads: int) -> Tensor:
    """The recurrent part of a layer with tensors ``t`` on normed input ``n``; the result has the model's width.

    Args:
        g: the graph.
        n: normed input.
        t: shapes by name within the layer.
        tokens: of a batch.
        sequences: that the batch serves.
        heads: attention heads of the model, for Kimi's delta attention.
    """
    g.expand(n)
    part = _Part(g, t, tokens, sequences)
    if "shortconv.conv.weight" in t:
        return part.short(n)
    if "ssm_conv1d_q.weight" in t:
        return part.kimi(n, heads)
    if "ssm_ba.weight" in t or "ssm_beta.weight" in t:
        return part.delta(n)
    return part.mamba(n) if "ssm_x.weight" in t else part.mamba2(n)


class _Part:
    def __init__(self, g: Graph, t: Shapes, tokens: int, sequences: int) -> None:
        self.g, self.t, self.sequences = g, t, sequences
        self.row = 4 * tokens
        self.each = -(-tokens // sequences)

    def _rows(self, size: int) -> Tensor:
        """The states of the batch's sequences, taken from the cache."""
        rows = self.g.op(4 * size * self.sequences)
        self.g.expand(rows)
        return rows

    def _rolled(self, x: Tensor, channels: int, taps: int, before: Tensor | None = None) -> Tensor:
        """The last inputs of each sequence put before those of the batch; the new last ones go to the cache."""
        g = self.g
        held = before or self._rows((taps - 1) * channels)
        joined = g.op(4 * (taps - 1 + self.each) * channels * self.sequences, g.view(held), g.view(x))
        g.expand(g.stored(g.view(joined)))
        return joined

    def short(self, n: Tensor) -> Tensor:
        g, row = self.g, self.row
        width, taps = self.t["shortconv.conv.weight"]
        three = g.op(3 * row * width, g.view(n))
        product = g.op(row * width, g.view(three), g.view(three))
        joined = self._rolled(product, width, taps)
        out = g.same(g.view(three, row * width), g.op(row * width, joined))
        return g.op(row * width, out)

    def mamba2(self, n: Tensor) -> Tensor:
        g, t, row = self.g, self.t, self.row
        channels, taps = t["ssm_conv1d.weight"]
        heads, inner = t["ssm_a"][0], t["ssm_out.weight"][1]
        groups = t["ssm_norm.weight"][0] if "ssm_norm.weight" in t else 1
        state = (channels - inner) // (2 * groups) * inner
        held = self._rows((taps - 1) * channels)
        whole = g.op(row * t["ssm_in.weight"][0], n)
        joined = self._rolled(whole, channels, taps, held)
        mixed = g.op(row * channels, joined)
        mixed = g.same(g.same(mixed))
        step = g.same(g.op(row * heads, g.view(whole)))
        scanned = g.op(row * inner + 4 * state * self.sequences, g.view(mixed), step, g.view(mixed), g.view(mixed))
        g.expand(scanned)
        g.expand(g.stored(g.view(scanned)))
        out = g.same(g.view(scanned, row * inner), g.op(row * inner, g.view(mixed)))
        out = g.op(row * inner, g.op(row * inner, g.view(whole)), out)
        if "ssm_norm.weight" in t:
            out = g.same(g.same(g.view(out)))
        return g.op(row * t["ssm_out.weight"][0], g.view(out))

    def mamba(self, n: Tensor) -> Tensor:
        g, t, row = self.g, self.t, self.row
        inner, taps = t["ssm_conv1d.weight"]
        state, rank = t["ssm_a"][1], t["ssm_dt.weight"][1]
        held = self._rows((taps - 1) * inner)
        whole = g.op(2 * row * inner, g.view(n))
        joined = self._rolled(whole, inner, taps, held)
        mixed = g.same(g.same(g.op(row * inner, joined)))
        parts = g.op(row * (rank + 2 * state), mixed)
        step, b, c = (g.view(parts, row * width) for width in (rank, state, state))
        if "ssm_dt_norm.weight" in t:
            step, b, c = (g.same(g.same(x)) for x in (step, b, c))
        else:
            step = g.op(row * rank, step)
        step = g.same(g.op(row * inner, step))
        scanned = g.op(row * inner + 4 * state * inner * self.sequences, g.view(mixed), step, b, c)
        g.expand(scanned)
        g.expand(g.stored(g.view(scanned)))
        out = g.same(g.view(scanned, row * inner), g.same(mixed))
        out = g.op(row * inner, g.op(row * inner, g.view(whole)), out)
        return g.op(row * t["ssm_out.weight"][0], out)

    def delta(self, n: Tensor) -> Tensor:
        g, t, row = self.g, self.t, self.row
        channels, taps = t["ssm_conv1d.weight"]
        value, heads, dim = t["attn_gate.weight"][0], t["ssm_a"][0], t["ssm_norm.weight"][0]
        keys = (channels - value) // 2
        z = g.op(row * value, n)
        if "ssm_ba.weight" in t:
            both = g.op(2 * row * heads, n)
            write = g.same(g.op(row * heads, g.view(both)))
            forget = g.op(row * heads, g.view(both))
        else:
            write = g.same(g.view(g.op(row * heads, n)))
            forget = g.view(g.op(row * heads, n))
        forget = g.view(g.same(g.same(g.same(forget))))
        held = self._rows((taps - 1) * channels)
        joined = self._rolled(g.op(row * channels, n), channels, taps, held)
        state = self._rows(dim * value)
        mixed = g.same(g.op(row * channels, joined))
        q, k = (g.same(g.same(g.view(mixed, row * keys))) for _ in range(2))
        done = g.op(row * value + 4 * dim * value * self.sequences, q, k, g.view(mixed), forget, write, g.view(state))
        g.expand(g.stored(g.view(done)))
        return self._gated(done, z, value)

    def _gated(self, done: Tensor, z: Tensor, value: int) -> Tensor:
        g, row = self.g, self.row
        normed = g.same(g.same(g.view(done, row * value)))
        out = g.same(normed, g.same(g.view(z)))
        rows = self.t.get("ssm_out.weight", self.t.get("attn_output.weight", (value, value)))[0]
        return g.op(row * rows, g.view(out))

    def kimi(self, n: Tensor, heads: int) -> Tensor:
        g, t, row = self.g, self.t, self.row
        inner, taps = t["ssm_conv1d_q.weight"][-3], t["ssm_conv1d_q.weight"][-1]
        dim = inner // heads
        held = self._rows(3 * (taps - 1) * inner)
        streams = []
        for _ in range(3):
            joined = self._rolled(g.op(row * inner, n), inner, taps, held)
            streams.append(g.view(g.same(g.view(g.op(row * inner, joined)))))
        forget = g.op(row * inner, g.op(row * dim, n))
        forget = g.view(g.same(g.view(g.same(g.same(forget)))))
        write = g.same(g.view(g.op(row * heads, n)))
        state = self._rows(dim * inner)
        q, k = (g.same(g.same(stream)) for stream in streams[:2])
        done = g.op(row * inner + 4 * dim * inner * self.sequences, q, k, streams[2], forget, write, g.view(state))
        out = g.op(row * inner, g.view(done))
        g.expand(g.stored(g.view(done)))
        z = g.op(row * inner, g.op(row * dim, g.view(n)))
        normed = g.same(g.same(g.view(out)))
        gated = g.op(row * inner, g.same(normed, g.same(g.view(z))))
        return g.op(row * t["attn_output.weight"][0], gated)
