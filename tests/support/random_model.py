"""Small models with random weights, whole enough that an engine computes with them."""

from __future__ import annotations

import random
from array import array
from pathlib import Path

from advisor.facts.ggml_types import BLOCKS
from tests.support import shapes

MOE = shapes.Arch(
    "qwen3moe", 4, 128, 256, 4, 2, 32, 320, qk_norm=True, experts=8, used=2, expert_ff=64
)  # about 0.9 million weights


def write(path: Path, arch: shapes.Arch, *, seed: int = 0) -> Path:
    """Write ``arch`` in f32 with a vocabulary; matrices are Gaussian, norms are one."""
    shapes.write(path, arch, "f32", words=True)
    rng = random.Random(seed)
    listed = shapes.shapes(arch)
    sizes = []
    for name, shape in listed:
        n = 1
        for d in shape:
            n *= d
        sizes.append((name, n))
    body = sum(-(-n * BLOCKS["f32"][1] // 32) * 32 for _, n in sizes)
    with path.open("r+b") as f:
        f.seek(path.stat().st_size - body)
        for name, n in sizes:
            values = array("f", [1.0] * n if "norm" in name else [rng.gauss(0, 0.08) for _ in range(n)])
            f.write(values.tobytes())
            f.write(bytes(-values.itemsize * n % 32))
    return path
