from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advisor.execute import verify_checkpoint as module
from advisor.execute.envs import Env
from advisor.execute.prompts import EDGES, Prompt, long_prompt
from advisor.execute.store import Store
from advisor.execute.texts import Text
from advisor.execute.verify_checkpoint import folder_identity, verify_checkpoint
from advisor.facts.recipe import Recipe
from advisor.facts.results import Verification
from advisor.model.resolve import resolve
from tests.support.safetensors_writer import llama_tensors, write_safetensors

ENV = Env(name="vllm", path="/nowhere", python="/nowhere/python", digest="d")
TEXT = Text(name="t", text="some text", sha256="0" * 64)
PROMPTS = (Prompt("a", "Water is"), Prompt("b", "The sky is"))
ASKED = len(PROMPTS) + len(EDGES) + 1
NF4 = Recipe(method="nf4", format="nf4", quantizer="bitsandbytes", bits=4, group_size=64, at_load=True)
BLOCKS = {"layers.0.mlp": 1.0, "layers.0.self_attn": 0.5, "layers.1.mlp": 2.0, "layers.1.self_attn": 0.5}
ORIGINAL = {"bytes": 1000, "dtype": "bfloat16", "modules": {"Linear": 14}, "quantized": 0, "kept": [], "versions": {}}
QUANTIZED = {"bytes": 400, "dtype": "bfloat16", "modules": {"Linear4bit": 14}, "quantized": 14, "kept": ["lm_head"]}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with a true header and no weights worth the name."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100,
        "max_position_embeddings": 512, "tie_word_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    tensors = llama_tensors(layers=2, hidden=64, heads=4, kv_heads=2, ff=128, vocab=100, tied=True)
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


class Runner:
    """Stands in for the measurement in a managed environment: the original first, then the artifact."""

    def __init__(self, artifact: dict[str, Any] | None = None, original: dict[str, Any] | None = None) -> None:
        self.requests: list[dict[str, Any]] = []
        base = {
            "perplexity": 10.0,
            "kld": None,
            "top1_agreement": None,
            "positions": 510,
            "non_finite": 0,
            "prompts": ["it is wet."] * ASKED,
            "choices": [],
            "blocks": BLOCKS,
            "loaded": ORIGINAL,
            "peak_bytes": 5000,
            "load_seconds": 1.0,
            "seconds": 2.0,
        }
        self.original = {**base, **(original or {})}
        self.artifact = {
            **base,
            "perplexity": 11.0,
            "kld": 0.1,
            "top1_agreement": 0.85,
            "loaded": QUANTIZED,
            **(artifact or {}),
        }

    def __call__(self, env: Env, script: str, request: dict[str, Any], **_: Any) -> dict[str, Any]:
        assert script == "measure_transformers.py"
        assert Path(request["text"]).read_text() == "some text"
        self.requests.append(request)
        if request.get("write"):
            Path(request["write"]).write_bytes(b"kept")
        if request.get("reference"):
            assert Path(request["reference"]).read_bytes() == b"kept"
        return self.artifact if request["recipe"] or not request.get("write") else self.original


def run(monkeypatch: pytest.MonkeyPatch, runner: Runner, folder: Path, **kwargs: Any) -> Verification:
    monkeypatch.setattr(module, "run_runner", runner)
    given: dict[str, Any] = {"reference": folder, "recipe": NF4, "method": "nf4", "fmt": "nf4", **kwargs}
    return verify_checkpoint(
        folder,
        given.pop("reference"),
        env=ENV,
        runtime="transformers",
        model=resolve(str(folder)),
        log=Path("unused"),
        text=TEXT,
        prompts=PROMPTS,
        **given,
    )


def test_the_original_is_measured_first_and_once(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
) -> None:
    store, runner = Store(tmp_path / "store"), Runner()
    found = run(monkeypatch, runner, checkpoint, store=store, chunks=2, threads=1)
    assert (found.perplexity, found.perplexity_reference, found.kld, found.positions) == (11.0, 10.0, 0.1, 510)
    assert found.gate.verdict == "pass", found.gate.because
    assert found.findings == ()
    assert found.types == {"bf16": 20}
    assert found.loaded["modules"] == "14 Linear4bit"
    assert len(found.prompts) == ASKED
    assert [bool(r["recipe"]) for r in runner.requests] == [False, True]
    assert (runner.requests[0]["chunks"], runner.requests[0]["threads"]) == (2, 1)
    again = run(monkeypatch, runner, checkpoint, store=store, chunks=2, threads=4)
    assert again == found
    assert len(runner.requests) == 2
    int8 = Recipe(method="int8", format="int8", quantizer="bitsandbytes", bits=8, at_load=True)
    run(monkeypatch, runner, checkpoint, store=store, chunks=2, recipe=int8, method="int8", fmt="int8")
    assert len(runner.requests) == 3  # only the artifact


def test_without_a_store_nothing_is_left(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    runner = Runner()
    run(monkeypatch, runner, checkpoint)
    assert len(runner.requests) == 2
    assert not Path(runner.requests[0]["write"]).exists()


def test_alone_it_is_held_against_its_vocabulary(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    runner = Runner({"kld": None, "top1_agreement": None, "perplexity": 9.0})
    found = run(monkeypatch, runner, checkpoint, reference=None)
    assert (found.perplexity_reference, found.kld) == (None, None)
    assert list(found.gate.bands) == ["perplexity"]
    assert found.gate.verdict == "pass"
    assert len(runner.requests) == 1


@pytest.mark.parametrize(
    ("artifact", "codes", "verdict"),
    [
        ({"blocks": {**BLOCKS, "layers.1.mlp": 0.0}, "kld": 3.0}, ["quality-loss", "zeroed-layer"], "fail"),
        ({"blocks": {**BLOCKS, "layers.0.mlp": 8.0}, "kld": 3.0}, ["quality-loss", "bad-scales"], "fail"),
        ({"blocks": {k: v for k, v in BLOCKS.items() if "0" in k}}, ["bad-scales"], "warn"),
        ({"loaded": {**ORIGINAL, "kept": ["x"]}, "kld": 0.0}, ["wrong-types", "memory-not-lower"], "fail"),
        ({"non_finite": 3, "kld": None, "perplexity": None}, ["non-finite"], "fail"),
        ({"prompts": ["\ufffd\ufffd\ufffd"] * ASKED}, ["garbled-output", "degenerate-edge-cases"], "fail"),
        ({"prompts": ["wet."] * (ASKED - 1) + [""]}, [], "pass"),
        ({"prompts": ["wet."] * (ASKED - 2) + ["", "  "]}, ["degenerate-edge-cases"], "warn"),
        ({"prompts": ["wet."] * (ASKED - 1) + ["\ufffd\ufffd"]}, ["degenerate-edge-cases"], "warn"),
        ({"loaded": {**QUANTIZED, "modules": {"A/EmulationNvFp4LinearKernel": 1}}}, ["no-speed-up"], "warn"),
    ],
)
def test_findings(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, artifact: dict[str, Any], codes: list[str], verdict: str
) -> None:
    found = run(monkeypatch, Runner(artifact), checkpoint)
    assert [f.code for f in found.findings] == codes
    assert found.gate.verdict == verdict
    assert all(f.remedy and f.sources for f in found.findings)


def test_remedies_name_the_next_choice_of_the_method(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    found = run(monkeypatch, Runner({"kld": 3.0}), checkpoint)
    assert "advisor up MODEL --method int8 --format int8" in found.findings[0].remedy


def test_an_original_that_overflows_is_no_measure(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    found = run(monkeypatch, Runner(original={"non_finite": 9, "perplexity": None}), checkpoint)
    assert (found.kld, found.top1_agreement, found.perplexity_reference) == (None, None, None)
    assert found.gate.verdict == "warn"
    assert any("was not measured" in line for line in found.gate.because)


def test_an_edge_case_that_the_original_does_not_manage_is_no_measure(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    silent = {"prompts": [""] * ASKED}
    assert run(monkeypatch, Runner(silent, silent), checkpoint).findings == ()


def test_a_users_choices_are_scored_on_both_sides(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text('{"question": "q", "choices": ["x", "y"], "answer": "y"}\n')
    runner = Runner({"choices": [[[-1.0, 1, 1], [-2.0, 1, 1]]]}, {"choices": [[[-2.0, 1, 1], [-1.0, 1, 1]]]})
    found = run(monkeypatch, runner, checkpoint, tasks=path)
    assert found.task is not None
    assert (found.task.items, found.task.correct, found.task.reference_correct) == (1, 0, 1)
    assert runner.requests[0]["choices"] == [{"prompt": "Question: q\nAnswer:", "choices": ["x", "y"]}]


def test_identity_is_of_the_content(checkpoint: Path) -> None:
    before = folder_identity(checkpoint)
    assert folder_identity(checkpoint) == before
    with (checkpoint / "model.safetensors").open("r+b") as f:
        f.seek(-1, 2)
        f.write(b"\1")
    assert folder_identity(checkpoint) != before


def test_the_long_prompt_is_longer_than_any_context_in_tokens() -> None:
    assert len(long_prompt("word " * 10_000, 512).text) == 4096
