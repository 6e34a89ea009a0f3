"""Adapters are read without being loaded, and held against the model they are for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from advisor.errors import AdvisorError
from advisor.model.adapters import CONFIG, WEIGHTS, check, read
from advisor.model.architectures import from_config
from tests.support.lora import write_adapter

SMALL = {
    "model_type": "llama",
    "num_hidden_layers": 3,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 100,
}
MODEL = from_config(SMALL, name="small", ref="small")


def adapter(folder: Path, **changes: object) -> Path:
    wanted = {"layers": 3, "widths": {"q_proj": (64, 64), "v_proj": (64, 32)}, **changes}
    return write_adapter(folder, **wanted)  # type: ignore[arg-type]


def test_what_it_is_and_that_it_fits(tmp_path: Path) -> None:
    found = read(adapter(tmp_path))
    assert (found.rank, found.alpha, found.base, found.layers) == (4, 8.0, "base/model", 3)
    assert found.targets == ("q_proj", "v_proj")
    assert found.shapes["v_proj.B"] == (32, 4)
    check(found, MODEL)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": 4}, "layer 4, the model 3"),
        ({"widths": {"q_proj": (128, 64)}}, "q_proj has the width 128, the model's 64"),
        ({"widths": {"v_proj": (64, 64)}}, "v_proj has the width 64, the model's 32"),
    ],
)
def test_one_of_another_model_is_refused(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(AdvisorError, match=words) as e:
        check(read(adapter(tmp_path, **changes)), MODEL)
    assert e.value.code == "contradictory-options"
    assert "base/model" in e.value.message


def test_parts_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(AdvisorError) as gone:
        read(tmp_path / "nowhere")
    assert gone.value.code == "file-not-found"
    with pytest.raises(AdvisorError, match=CONFIG) as e:
        read(tmp_path)
    assert e.value.code == "missing-part"
    adapter(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(AdvisorError, match=WEIGHTS) as e:
        read(tmp_path)
    assert e.value.code == "missing-part"
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(AdvisorError) as e:
        read(tmp_path)
    assert e.value.code == "pickle-refused"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"peft_type": "IA3"}, "bad-option"),
        ({"r": 0}, "untrusted-model-config"),
        ({"r": "8"}, "untrusted-model-config"),
        ({"r": 1 << 40}, "untrusted-model-config"),
    ],
)
def test_other_kinds_and_absurd_ranks_are_refused(change: dict[str, object], code: str, tmp_path: Path) -> None:
    adapter(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))
    (tmp_path / CONFIG).write_text(json.dumps({**config, **change}), encoding="utf-8")
    with pytest.raises(AdvisorError) as e:
        read(tmp_path)
    assert e.value.code == code
