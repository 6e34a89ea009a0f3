"""A model of which a part lies on a device predicts the same as one on the CPU alone."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from advisor.execute.offload import Loaded, Offload, Text
from advisor.execute.texts import verification_text
from advisor.facts.plan import Settings
from tests.support import random_model, shapes
from tests.support.offloading import LIMIT, File

pytestmark = pytest.mark.slow
# Batches under 32 tokens: only then does the engine compute the host's layers on the host, as it does when it answers.
SMALL = Settings(context=256, batch=256, ubatch=16, threads=2)
# The weights are f32, but cached keys and values are f16 on both sides, and the device rounds what it multiplies to f16
# (2^-11 = 5e-4 relative). Measured: at most 0.0022 in the log-probability of a token, 3.8e-4 of its value.
TOKEN, PERPLEXITY = 0.005, 1e-3
# Layers of Q8_0 on the CPU round the activations to 8 bits, on the device they do not. Measured: 0.5 % in perplexity
# with 12 of 31 layers on the device (the F16 file is 1.3 % away, on the CPU alone).
ROUNDED = 0.01


@pytest.fixture
def text(tmp_path: Path) -> Path:
    written = tmp_path / "text.txt"
    written.write_text(verification_text().text[:4000], encoding="utf-8")
    return written


def score(offload: Offload, file: Path, settings: Settings, text: Path, tokens: int) -> Loaded:
    return offload.load(file, settings, limit_bytes=LIMIT, text=Text(text, chunks=1, chunk_tokens=tokens))


def without_device(offload: Offload) -> Offload:
    """The same build that sees no device."""
    return Offload(
        offload.env, offload.log, variables={**offload.variables, "VK_DRIVER_FILES": "", "VK_ICD_FILENAMES": ""}
    )


@pytest.mark.parametrize("kind", ["dense", "experts"])
def test_float_weights_differ_by_rounding_only(kind: str, tmp_path: Path, text: Path, offload: Offload) -> None:
    arch = random_model.MOE
    if kind == "dense":
        arch = shapes.Arch("llama", 4, 128, 256, 4, 2, 32, 320)
    file = random_model.write(tmp_path / "random.gguf", arch)
    cpu = score(without_device(offload), file, SMALL, text, 48)
    assert "Vulkan0" not in cpu.buffers
    placed = msgspec.structs.replace(SMALL, gpu_layers=5 if kind == "experts" else 3)
    if kind == "experts":
        placed = msgspec.structs.replace(placed, cpu_moe_layers=2)
    part = score(offload, file, placed, text, 48)
    assert part.offloaded == placed.gpu_layers
    assert part.buffers["Vulkan0"]["weights"] > 0
    assert part.buffers["host"]["weights"] > 0
    assert len(cpu.logprobs) == len(part.logprobs) == 23
    assert max(cpu.logprobs) - min(cpu.logprobs) > 0.1  # not the uniform guess of a model without weights
    assert part.logprobs == pytest.approx(cpu.logprobs, abs=TOKEN)
    assert part.perplexity == pytest.approx(cpu.perplexity, rel=PERPLEXITY)


def test_a_real_file_predicts_as_well_with_layers_on_the_device(q8_0: File, text: Path, offload: Offload) -> None:
    cpu = score(without_device(offload), q8_0.path, SMALL, text, 64)
    part = score(offload, q8_0.path, msgspec.structs.replace(SMALL, gpu_layers=12), text, 64)
    assert part.offloaded == 12
    assert cpu.perplexity is not None
    assert cpu.perplexity < 100
    assert part.perplexity == pytest.approx(cpu.perplexity, rel=ROUNDED)
