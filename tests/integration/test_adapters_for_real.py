"""A LoRA adapter merged into a real checkpoint by peft, and turned into a GGUF adapter by llama.cpp's converter."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

import advisor
from advisor import settings as settings_
from advisor.api import adapters
from advisor.errors import AdvisorError
from advisor.execute.steps import Steps
from advisor.model.gguf import read_header
from advisor.model.resolve import resolve
from tests.support.checkpoints import two_layers
from tests.support.lora import write_adapter

pytestmark = pytest.mark.slow
WIDTHS = {"q_proj": (576, 576), "v_proj": (576, 192)}
RANK, ALPHA = 4, 8.0


def values(folder: Path, name: str) -> list[float]:
    """A tensor of a checkpoint as floats: 16-bit kinds and float32."""
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as f:
            size = int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(size))
            if name not in header:
                continue
            first, last = header[name]["data_offsets"]
            f.seek(8 + size + first)
            raw = f.read(last - first)
            kind = header[name]["dtype"]
        if kind == "BF16":
            whole = b"".join(b"\0\0" + raw[i : i + 2] for i in range(0, len(raw), 2))
            return list(struct.unpack(f"<{len(raw) // 2}f", whole))
        return list(struct.unpack(f"<{len(raw) // (2 if kind == 'F16' else 4)}{'e' if kind == 'F16' else 'f'}", raw))
    raise AssertionError(f"no {name} in {folder}")


@pytest.fixture(scope="module")
def two(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model's first two layers."""
    return two_layers(shared_home, tmp_path_factory.mktemp("two") / "smollm2-two")


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of those two layers."""
    return write_adapter(tmp_path_factory.mktemp("lora") / "mine", layers=2, widths=WIDTHS, rank=RANK, alpha=ALPHA)


def test_merged_weights_are_the_original_plus_the_product(two: Path, lora: Path, in_shared_home: Path) -> None:
    merged = adapters.merged(settings_.load(), Steps(), resolve(str(two)), lora)
    assert merged.path is not None
    assert merged.name == "smollm2-two-mine"
    assert any("rank 4" in note for note in merged.notes)
    name = "model.layers.1.self_attn.v_proj"
    before, after = values(two, f"{name}.weight"), values(Path(merged.path), f"{name}.weight")
    a = values(lora, f"base_model.{name.replace('model.', 'model.model.', 1)}.lora_A.weight")
    b = values(lora, f"base_model.{name.replace('model.', 'model.model.', 1)}.lora_B.weight")
    inside, outside = WIDTHS["v_proj"]
    for row, column in ((0, 0), (5, 17), (outside - 1, inside - 1)):
        change = ALPHA / RANK * sum(b[row * RANK + k] * a[k * inside + column] for k in range(RANK))
        at = row * inside + column
        assert after[at] == pytest.approx(before[at] + change, abs=2e-3)
    assert values(two, "model.layers.1.self_attn.k_proj.weight") == values(
        Path(merged.path), "model.layers.1.self_attn.k_proj.weight"
    )


def test_a_merged_model_is_quantized_like_any_other(two: Path, lora: Path, in_shared_home: Path) -> None:
    plain = advisor.quantize(str(two), format="q8_0", verify=False)
    made = advisor.quantize(str(two), format="q8_0", adapter=lora, verify=False)
    assert made.bytes == plain.bytes
    assert made.sha256 != plain.sha256


def test_the_adapter_alone_as_a_gguf_file(two: Path, lora: Path, in_shared_home: Path, tmp_path: Path) -> None:
    made = advisor.quantize(str(two), adapter=lora, adapter_only=True, out=tmp_path / "mine.gguf")
    header = read_header(Path(made.path))
    assert header.metadata["general.type"] == "adapter"
    assert {t.name for t in header.tensors} == {
        f"blk.{i}.attn_{m}.weight.lora_{s}" for i in (0, 1) for m in ("q", "v") for s in ("a", "b")
    }


def test_an_adapter_of_another_width_is_refused_before_anything_is_built(two: Path, tmp_path: Path) -> None:
    other = write_adapter(tmp_path / "other", layers=2, widths={"q_proj": (640, 640)})
    with pytest.raises(AdvisorError, match="the model's 576"):
        advisor.quantize(str(two), format="q8_0", adapter=other)
    assert not settings_.load().paths.envs.exists()
