"""Checkpoints proven through the runtimes that serve them: a model against itself, sound artifacts, broken ones."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from advisor.execute import envs, texts
from advisor.execute.envs import Env
from advisor.execute.proc import RUNNERS, run
from advisor.execute.prompts import PROMPTS
from advisor.execute.store import Store
from advisor.execute.verify_checkpoint import MeasuringRuntime, verify_checkpoint
from advisor.facts.recipe import Recipe
from advisor.facts.results import Verification
from advisor.model.resolve import resolve
from tests.support import checkpoints, edit_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
NF4 = Recipe(
    method="nf4", format="nf4", quantizer="bitsandbytes", bits=4, group_size=64, double_quant=True, at_load=True
)
W8A8 = Recipe(method="w8a8", format="w8a8", quantizer="llmcompressor", bits=8)
RUNTIMES: tuple[MeasuringRuntime, ...] = ("transformers", "vllm")


@pytest.fixture(scope="module")
def two(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.two_layers(shared_home, tmp_path_factory.mktemp("two") / "checkpoint")


@pytest.fixture(scope="module")
def eight(two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two layers in W8A8."""
    return edit_checkpoint.to_int8(two, tmp_path_factory.mktemp("eight") / "checkpoint")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The originals are measured once for all tests of this module."""
    return Store(tmp_path_factory.mktemp("store"))


def env_of(home: Path, runtime: str) -> Env:
    return envs.ensure(runtime, settings=checkpoints.settings_of(home))


def prove(
    artifact: Path,
    reference: Path,
    home: Path,
    runtime: MeasuringRuntime,
    store: Store,
    log: Path,
    *,
    recipe: Recipe | None = None,
    **more: Any,
) -> Verification:
    found = verify_checkpoint(
        artifact,
        reference,
        env=env_of(home, runtime),
        runtime=runtime,
        recipe=recipe,
        model=resolve(str(reference)),
        method=recipe.method if recipe is not None else "none",
        fmt=recipe.format if recipe is not None else "bf16",
        log=log,
        store=store,
        **{"chunks": 1, "threads": 2, **more},
    )
    assert found.text_sha256 == texts.verification_text().sha256
    return found


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_checkpoint_agrees_with_itself(
    two: Path, shared_home: Path, store: Store, tmp_path: Path, runtime: MeasuringRuntime
) -> None:
    task = tmp_path / "task.jsonl"
    lines = [{"question": "Which animal barks?", "choices": ["dog", "cat"], "answer": i} for i in (0, 1)]
    task.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = prove(two, two, shared_home, runtime, store, tmp_path / "log", tasks=task)
    assert found.kld is not None
    assert 0 <= found.kld < 1e-5
    assert found.top1_agreement == 1.0
    assert found.perplexity == found.perplexity_reference
    assert found.positions == 255
    assert found.findings == ()
    assert found.gate.verdict == "pass", found.gate.because
    assert all(p.same for p in found.prompts)
    assert {p.name for p in found.prompts} >= {"one-character", "near-the-context", "other-script"}
    assert found.task is not None
    # One of the two contradicting questions is right, whatever the model prefers.
    assert (found.task.items, found.task.correct, found.task.reference_correct) == (2, 1, 1)
    assert runtime in found.loaded["versions"]


@pytest.mark.long
def test_nf4_of_a_whole_model_is_near_its_original(shared_home: Path, store: Store, tmp_path: Path) -> None:
    model = checkpoints.whole(shared_home)
    # Two prompts beside the edge cases: without kernels of its own NF4 answers with some tokens a second here.
    few = {"prompts": PROMPTS[:2]}
    found = prove(model, model, shared_home, "transformers", store, tmp_path / "log", recipe=NF4, **few)
    assert found.gate.verdict in ("pass", "warn"), found.gate.because
    assert found.kld is not None
    assert 0.1 < found.kld < 0.6  # .27 to .29 were measured
    assert found.top1_agreement is not None
    assert found.top1_agreement > 0.6
    assert "Linear4bit" in found.loaded["modules"]
    assert found.perplexity is not None
    assert found.perplexity < 60


@pytest.mark.long
def test_a_sound_eight_bit_checkpoint_passes(
    two: Path, eight: Path, shared_home: Path, store: Store, tmp_path: Path
) -> None:
    found = prove(eight, two, shared_home, "vllm", store, tmp_path / "log", recipe=W8A8)
    assert found.gate.verdict == "pass", found.gate.because
    assert found.findings == ()
    assert found.kld is not None
    assert 0 < found.kld < 0.07
    assert found.types["i8"] == 14
    assert "Int8" in found.loaded["modules"]


def test_a_zeroed_layer_fails_and_is_named(two: Path, shared_home: Path, store: Store, tmp_path: Path) -> None:
    def zero(name: str, _: str, data: bytes) -> bytes:
        return bytes(len(data)) if ".layers.1." in name and "_proj" in name else data

    broken = edit_checkpoint.copy(two, tmp_path / "broken", zero)
    found = prove(broken, two, shared_home, "transformers", store, tmp_path / "log")
    assert found.gate.verdict == "fail"
    (finding,) = [f for f in found.findings if f.code == "zeroed-layer"]
    assert "layers.1.self_attn" in finding.message
    assert "layers.1.mlp" in finding.message
    assert "layers.0" not in finding.message


def test_wrong_scales_fail_and_their_layer_is_named(
    two: Path, eight: Path, shared_home: Path, store: Store, tmp_path: Path
) -> None:
    def larger(name: str, dtype: str, data: bytes) -> bytes:
        wrong = ".layers.0.mlp." in name and name.endswith("_scale")
        return edit_checkpoint.scaled(dtype, data, 4.0) if wrong else data

    broken = edit_checkpoint.copy(eight, tmp_path / "broken", larger)
    found = prove(broken, two, shared_home, "vllm", store, tmp_path / "log", recipe=W8A8)
    assert found.gate.verdict == "fail", found.gate.because
    codes = [f.code for f in found.findings]
    assert "bad-scales" in codes
    assert "quality-loss" in codes or "garbled-output" in codes
    (finding,) = [f for f in found.findings if f.code == "bad-scales"]
    assert "layers.0.mlp" in finding.message


def test_captured_logits_are_those_of_vllms_own_log_probabilities(two: Path, shared_home: Path, tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import json, os, sys
        sys.path.insert(0, {str(RUNNERS)!r})
        if __name__ == "__main__":
            import measure_vllm, numpy as np, scores
            engine = measure_vllm.VllmEngine({{"model": {str(two)!r}, "context": 128, "max_tokens": 8}})
            tokens = engine.encode(open({str(tmp_path / "text.txt")!r}).read())[:128]
            logits, own = engine.scored(tokens, 64)
            logp, _ = scores.log_softmax(logits)
            mine = logp[np.arange(63), np.array(tokens[65:])]
            print("RESULT", json.dumps([len(own), engine.vocab, float(abs(mine - np.array(own)).max())]))
    """)
    (tmp_path / "text.txt").write_text(texts.verification_text().text[:4000])
    env = env_of(shared_home, "vllm")
    done = run([env.python, "-I", "-c", script], log=tmp_path / "log", step="verify", threads=2)
    line = next(text for text in (tmp_path / "log").read_text().splitlines() if text.startswith("RESULT"))
    count, vocab, difference = json.loads(line.removeprefix("RESULT"))
    assert done.returncode == 0
    assert (count, vocab) == (63, 49152)
    assert difference < 1e-4
