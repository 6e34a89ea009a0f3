from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts
from advisor.model.folder import facts
from advisor.model.paths import check_names
from tests.support.gguf_writer import llama_like
from tests.support.safetensors_writer import llama_tensors, write_safetensors

FIXTURES = Path(__file__).parents[2] / "fixtures" / "models"
SHAPE: dict[str, Any] = {"layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2, "ff": 128, "vocab": 100}
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "torch_dtype": "float32",
}


def model(folder: Path, config: dict[str, Any] | None = None, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def sharded(folder: Path, weight_map: dict[str, Any] | None = None) -> Path:
    model(folder)
    every = llama_tensors(**SHAPE)
    names = sorted(every)
    shards = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for shard, held in shards.items():
        write_safetensors(folder / shard, {n: every[n] for n in held})
    index = {"metadata": {}, "weight_map": weight_map or {n: s for s, held in shards.items() for n in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def refused(folder: Path, code: str) -> AdvisorError:
    with pytest.raises(AdvisorError) as e:
        facts(folder, ref=str(folder))
    assert e.value.code == code, e.value.message
    return e.value


def get(folder: Path) -> ModelFacts:
    return facts(folder, ref=str(folder))


def test_config_alone_is_enough_for_planning() -> None:
    f = get(FIXTURES / "llama-1b-config")
    assert (f.params, f.weights_format, f.weights_bytes, f.weights_dtype) == (1_235_814_400, "none", None, "bf16")
    assert (f.chat_template, f.license, f.kind, f.name) == (True, "llama3.2", "folder", "llama-1b-config")
    assert f.path == str((FIXTURES / "llama-1b-config").absolute())
    assert not f.notes


def test_multimodal_defaults_of_gemma_3() -> None:
    f = get(FIXTURES / "gemma3-multimodal")
    assert (f.heads, f.kv_heads, f.head_dim, f.vocab, f.tie_embeddings) == (8, 4, 256, 262_208, True)
    assert f.params == 3_880_263_168  # the language model of gemma-3-4b as its hub page counts it


def test_unknown_architecture_has_low_confidence() -> None:
    f = get(FIXTURES / "unknown-arch")
    assert f.confidence == "low"
    assert "low confidence: unknown architecture banana" in f.notes
    assert f.kv_heads == 16


def test_code_of_its_own_is_refused_by_name_of_file() -> None:
    error = refused(FIXTURES / "remote-code", "remote-code-refused")
    assert error.exit_code == 7
    assert error.data["files"] == ["configuration_banana.py", "modeling_banana.py"]
    assert "modeling_banana.py" in error.message


def test_code_of_the_tokenizer_is_refused_too(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["t.T", None]}}))
    refused(folder, "remote-code-refused")


def test_stray_code_is_noted_and_not_needed(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    (folder / "example.py").write_text("raise SystemExit")
    assert any("example.py" in n for n in get(folder).notes)


def test_single_file_of_weights(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    path = write_safetensors(folder / "model.safetensors", llama_tensors(**SHAPE))
    f = get(folder)
    assert (f.weights_format, f.weights_dtype, f.confidence) == ("safetensors", "bf16", "exact")
    assert f.weights_bytes == path.stat().st_size
    assert f.params == 86_848
    assert not f.notes


def test_shards(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m")
    f = get(folder)
    assert f.confidence == "exact"
    assert f.weights_bytes == sum(p.stat().st_size for p in folder.glob("*.safetensors"))


def test_missing_shard_is_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m")
    (folder / "model-00002-of-00002.safetensors").unlink()
    error = refused(folder, "missing-part")
    assert error.exit_code == 4
    assert "model-00002-of-00002.safetensors" in error.message


def test_missing_index_is_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m")
    (folder / "model.safetensors.index.json").unlink()
    assert "index.json is missing" in refused(folder, "missing-part").message


def test_tensor_that_no_shard_holds(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m", {"ghost": "model-00001-of-00002.safetensors"})
    assert "ghost" in refused(folder, "missing-part").message


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "..\\..\\x",
        "/etc/passwd",
        "C:\\x",
        "\\\\host\\x",
        "~/x",
        "a/../../b",
        "a//b",
        "./a",
        "",
        "CON",
        "con.safetensors",
        "LPT1",
        "a:b",
        "a\nb",
        "a\0b",
        "a*b",
        "\u202ea",
        "x" * 300,
        "dot.",
        "space ",
    ],
)
def test_listed_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    error = refused(sharded(tmp_path / "m", {"w": name}), "untrusted-model-path")
    assert error.exit_code == 7
    assert "\n" not in error.message
    assert "\u202e" not in error.message


def test_listed_names_that_collide(tmp_path: Path) -> None:
    error = refused(sharded(tmp_path / "m", {"a": "W.safetensors", "b": "w.safetensors"}), "untrusted-model-path")
    assert "case" in error.message


def test_number_of_listed_names_is_limited() -> None:
    with pytest.raises(AdvisorError):
        check_names(f"f{i}" for i in range(10_001))
    assert check_names(["b", "a", "b"]) == ("a", "b")


@pytest.mark.parametrize("link", ["model.safetensors", "config.json", "README.md", "tokenizer_config.json"])
def test_links_out_of_the_folder(tmp_path: Path, link: str) -> None:
    folder = model(tmp_path / "m")
    (folder / link).unlink(missing_ok=True)
    secret = tmp_path / "secret"
    secret.write_text(json.dumps(CONFIG))
    (folder / link).symlink_to(secret)
    refused(folder, "untrusted-model-path")


def test_links_of_a_hub_cache_are_followed(tmp_path: Path) -> None:
    entry = tmp_path / "models--org--small"
    (entry / "blobs").mkdir(parents=True)
    snapshot = entry / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (entry / "blobs" / "c0ffee").write_text(json.dumps(CONFIG))
    os.symlink("../../blobs/c0ffee", snapshot / "config.json")
    f = get(snapshot)
    assert (f.name, f.revision) == ("org/small", "0123abcd")
    (snapshot / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    refused(snapshot, "untrusted-model-path")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt", "m.pkl", "consolidated.00.pth"])
@pytest.mark.parametrize("with_config", [True, False])
def test_pickles_alone_are_refused(tmp_path: Path, name: str, with_config: bool) -> None:
    folder = model(tmp_path / "m")
    if not with_config:
        (folder / "config.json").unlink()
    (folder / name).write_bytes(b"\x80\x04.")
    error = refused(folder, "pickle-refused")
    assert error.exit_code == 7
    assert name in error.message
    assert error.hint


def test_safetensors_are_preferred_to_pickles(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    write_safetensors(folder / "model.safetensors", llama_tensors(**SHAPE))
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    f = get(folder)
    assert f.weights_format == "safetensors"
    assert any("pytorch_model.bin" in n for n in f.notes)


def test_configuration_that_disagrees_with_the_weights(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    write_safetensors(folder / "model.safetensors", llama_tensors(**{**SHAPE, "layers": 8}))
    f = get(folder)
    assert f.params == sum(_elements(s) for _, s in llama_tensors(**{**SHAPE, "layers": 8}).values())
    assert f.confidence == "low"
    assert [n for n in f.notes if n.startswith("mismatch:")]


def _elements(shape: tuple[int, ...]) -> int:
    n = 1
    for d in shape:
        n *= d
    return n


def test_tied_output_that_is_stored_twice(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", {**CONFIG, "tie_word_embeddings": True})
    write_safetensors(folder / "model.safetensors", llama_tensors(**SHAPE))
    f = get(folder)
    assert f.confidence == "exact"
    assert f.params == sum(_elements(s) for _, s in llama_tensors(**SHAPE, tied=True).values())


def test_packed_weights_are_not_counted_as_weights(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    tensors = llama_tensors(**SHAPE) | {"model.layers.0.self_attn.q_proj.qweight": ("I32", (64, 8))}
    write_safetensors(folder / "model.safetensors", tensors)
    f = get(folder)
    assert f.params == 86_848
    assert "already quantized: the tensors are packed" in f.notes


def test_folder_name_that_lies_about_the_size(tmp_path: Path) -> None:
    f = get(model(tmp_path / "Great-7B"))
    assert [n for n in f.notes if n.startswith("mismatch:") and "7B" in n]


def test_tokenizer_configuration_that_cannot_be_read(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    (folder / "tokenizer_config.json").write_text("[" * 5000)
    f = get(folder)
    assert f.chat_template is None
    assert any("tokenizer_config.json was left out" in n for n in f.notes)
    (folder / "chat_template.jinja").write_text("{% for i in range(10**9) %}{% endfor %}")
    assert get(folder).chat_template is True


def test_folder_with_gguf_files(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    llama_like(folder / "a-q4.gguf")
    llama_like(folder / "mmproj-a.gguf")
    f = get(folder)
    assert (f.weights_format, f.kind, f.path) == ("gguf", "folder", str(folder / "a-q4.gguf"))
    model(folder)
    assert get(folder).weights_format == "gguf"
    llama_like(folder / "a-q8.gguf")
    error = refused(folder, "model-not-found")
    assert "a-q8.gguf" in error.message
    assert error.hint is not None
    assert "a-q4.gguf" in error.hint


def test_folders_without_a_model(tmp_path: Path) -> None:
    refused(tmp_path, "model-not-found")
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "adapter" in refused(tmp_path, "missing-part").message


def test_broken_configurations(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", {**CONFIG, "num_hidden_layers": 10**9})
    assert "num_hidden_layers" in refused(folder, "untrusted-model-config").message
    (folder / "config.json").write_text("[" * 10_000 + "]" * 10_000)
    assert "nests" in refused(folder, "untrusted-model-config").message
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    refused(folder, "file-unreadable")


def test_file_names_that_are_not_text_are_left_out(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", {**CONFIG, "model_type": "x\ud800y"})
    (folder / "a\udcff.py").write_text("")
    (folder / "b\x1b[2J.py").write_text("")
    f = get(folder)
    assert f.model_type == "xy"
    assert f.dumps()
    assert not any(".py" in n for n in f.notes)


def test_names_with_escapes_are_cleaned(tmp_path: Path) -> None:
    assert get(model(tmp_path / "a\x1b[31mb\u202ec")).name == "abc"


def test_parts_for_images_are_their_own_figure(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", {"model_type": "llava", "text_config": CONFIG, "vision_config": {"depth": 1}})
    language = {f"language_model.{n}": t for n, t in llama_tensors(**SHAPE).items()}
    seen = {"vision_tower.layers.0.q": ("BF16", (64, 64)), "multi_modal_projector.linear_1.weight": ("BF16", (64, 64))}
    write_safetensors(folder / "model.safetensors", language | seen)
    f = get(folder)
    assert (f.params, f.vision_params, f.confidence) == (86_848, 2 * 64 * 64, "exact")


@pytest.mark.parametrize(
    "names", [("model.layers.2.eh_proj.weight", "model.layers.2.mlp.up_proj.weight"), ("mtp.fc.weight", "mtp.x.weight")]
)
def test_layers_that_predict_ahead_are_not_counted(tmp_path: Path, names: tuple[str, str]) -> None:
    folder = model(tmp_path / "m")
    ahead = dict.fromkeys(names, ("BF16", (64, 128)))
    write_safetensors(folder / "model.safetensors", llama_tensors(**SHAPE) | ahead)
    f = get(folder)
    assert (f.params, f.confidence) == (86_848, "exact")
    assert not f.notes
