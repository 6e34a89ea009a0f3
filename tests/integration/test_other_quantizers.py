"""GPTQModel, optimum, AutoAWQ and bitsandbytes for real: made, of the size predicted, and loaded again."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from advisor.backends.recipes import recipe
from advisor.errors import AdvisorError
from advisor.events import Cancel, Event
from advisor.execute.checkpoint import quantize_checkpoint
from advisor.execute.envs import ensure
from advisor.execute.make import Made, Making
from advisor.execute.texts import verification_text
from advisor.facts.recipe import Recipe, RecipeOptions
from tests.support import checkpoints, surprise

pytestmark = pytest.mark.slow
FEW = RecipeOptions(samples=4, sequence_length=128)
ORDERED = RecipeOptions(desc_act=True, samples=4, sequence_length=128)
EIGHT_BIT, FOUR_BIT = 0.01, 0.2  # nats, of two layers
# AutoAWQ's result on the model cut to two layers: 1.05 nats, with the library's own clip search as with the one by
# products; why it is that much there has not been looked into.
CLIPPED = 2.0


@pytest.fixture(scope="module")
def two(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.two_layers(shared_home, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def whole(shared_home: Path) -> Path:
    return checkpoints.whole(shared_home)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.text_lines(tmp_path_factory.mktemp("text") / "calibration.jsonl")


def made_by(home: Path, source: Path, asked: Recipe, text: Path | None, matrices: int) -> Made:
    """The checkpoint, and everything that holds for all of them."""
    env = {"gptqmodel": "gptqmodel", "optimum": "gptqmodel", "autoawq": "autoawq"}.get(asked.quantizer, "transformers")
    making: Making = checkpoints.making(home, env)
    made = quantize_checkpoint(making, source, asked, name="two", calibration=text)
    m = made.manifest
    assert m["packed"] == m["quantized"] == matrices
    assert m["kept"] == ["lm_head"]
    assert m["non_finite"] == 0
    assert m["tensor_bytes"] == pytest.approx(m["predicted_bytes"], rel=0.01)
    assert m["peak_bytes"] > m["bytes"]
    assert m["versions"][asked.quantizer]
    assert (m["samples"] > 0) == (asked.samples > 0)
    assert {p.suffix for p in made.path.iterdir()} <= {".json", ".jinja", ".safetensors", ".txt"}
    config = (made.path / "config.json").read_text(encoding="utf-8")
    assert str(home) not in config
    assert "input_ids" not in config
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (made.path / name).read_bytes() == (source / name).read_bytes()
    return made


def distance(home: Path, env: str, made: Path, source: Path, tmp_path: Path) -> dict[str, Any]:
    """What the checkpoint, loaded in ``env``, predicts against the original."""
    held_out = tmp_path / "text.txt"
    held_out.write_text(verification_text().text[:3000], encoding="utf-8")
    python = ensure(env, settings=checkpoints.settings_of(home)).python
    words = [python, "-I", str(surprise.__file__), str(made), str(source), str(held_out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["finite"]
    assert told["packed"] > 0
    return told


@pytest.mark.parametrize(
    ("fmt", "options", "quantizer", "limit"),
    [
        ("w4a16-g64", FEW, "gptqmodel", FOUR_BIT),
        pytest.param("w4a16-g32", ORDERED, "gptqmodel", FOUR_BIT, marks=pytest.mark.long),
        pytest.param("w8a16-g64", FEW, "gptqmodel", EIGHT_BIT, marks=pytest.mark.long),
        pytest.param("w4a16-g64", FEW, "optimum", FOUR_BIT, marks=pytest.mark.long),
    ],
)
def test_gptq(
    shared_home: Path,
    two: Path,
    text: Path,
    tmp_path: Path,
    fmt: str,
    options: RecipeOptions,
    quantizer: str,
    limit: float,
) -> None:
    made = made_by(shared_home, two, recipe("gptq", fmt, quantizer, options), text, 14)
    config = json.loads((made.path / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    assert config["checkpoint_format"] == "gptq"
    assert config["desc_act"] == bool(options.desc_act)
    assert 0 <= distance(shared_home, "gptqmodel", made.path, two, tmp_path)["kl"] < limit


def test_layers_of_a_killed_run_are_not_made_again(shared_home: Path, two: Path, text: Path, tmp_path: Path) -> None:
    stop = Cancel()

    def after_a_layer(event: Event) -> None:
        if event.unit == "layers" and event.done == 1:
            stop.set()

    making = checkpoints.making(shared_home, "gptqmodel", store=tmp_path / "store")
    asked = recipe("gptq", "w4a16-g64", "gptqmodel", FEW)
    with pytest.raises(AdvisorError) as e:
        quantize_checkpoint(
            replace(making, reporter=after_a_layer, cancel=stop), two, asked, name="two", calibration=text
        )
    assert e.value.code == "interrupted"
    (kept,) = (tmp_path / "store" / "partial").iterdir()
    assert making.store.entries() == ()
    made = quantize_checkpoint(making, two, asked, name="two", calibration=text)
    assert made.manifest["resumed"]
    assert made.manifest["packed"] == 14
    assert not kept.exists()
    # What was kept and is damaged since does not stand in the way.
    making.store.remove(made.key)
    kept.mkdir(parents=True)
    (kept / "CURRENT").write_bytes(b"no such thing")
    again = quantize_checkpoint(making, two, asked, name="two", calibration=text)
    assert not again.manifest["resumed"]
    assert again.manifest["packed"] == 14


@pytest.mark.long
def test_awq_loads_where_gptq_does(shared_home: Path, two: Path, text: Path, tmp_path: Path) -> None:
    """AutoAWQ itself loads on a GPU only; transformers loads its format through GPTQModel's kernels."""
    made = made_by(shared_home, two, recipe("awq", "w4a16-g64", "autoawq", FEW), text, 14)
    assert 0 <= distance(shared_home, "gptqmodel", made.path, two, tmp_path)["kl"] < CLIPPED


@pytest.mark.parametrize(
    ("method", "options", "limit"),
    [
        ("nf4", RecipeOptions(), 0.8),
        pytest.param("nf4", RecipeOptions(double_quant=False), 0.8, marks=pytest.mark.long),
        ("int8", RecipeOptions(), 0.1),
    ],
)
def test_bitsandbytes_on_the_whole_model(
    shared_home: Path, whole: Path, tmp_path: Path, method: str, options: RecipeOptions, limit: float
) -> None:
    made = made_by(shared_home, whole, recipe(method, method, "bitsandbytes", options), None, 210)
    told = distance(shared_home, "transformers", made.path, whole, tmp_path)
    assert 0 < told["kl"] < limit
    assert told["ratio"] < 1.6


def test_a_group_that_nothing_loads_is_not_made(shared_home: Path, two: Path, text: Path) -> None:
    """GPTQModel would write it without complaint; its runner refuses before it loads anything."""
    making = checkpoints.making(shared_home, "gptqmodel")
    with pytest.raises(AdvisorError) as e:
        quantize_checkpoint(making, two, recipe("gptq", "w4a16-g128", "gptqmodel", FEW), name="two", calibration=text)
    assert "128" in e.value.message
    assert "576" in e.value.message
    assert not list(making.store.root.glob("tmp/*/checkpoint/*.safetensors"))
