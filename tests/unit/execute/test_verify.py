from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advisor.cost.gguf_mix import assign
from advisor.errors import AdvisorError
from advisor.execute import verify as module
from advisor.execute.envs import Env
from advisor.execute.gguf_files import check_types as hold_types
from advisor.execute.prompts import Prompt
from advisor.execute.store import Store
from advisor.execute.tasks import read_tasks
from advisor.execute.texts import Text
from advisor.execute.verify import check_types, content_sha256, verify, weight_bytes
from advisor.facts.results import Verification
from advisor.model.gguf import read_header
from advisor.model.resolve import resolve
from advisor.model.tensors import tensors
from tests.support.gguf_writer import llama_like, write_gguf

ENV = Env(name="llama.cpp", path="/nowhere", python="/nowhere/python", digest="d")
PROMPTS = (Prompt("a", "Water is"), Prompt("b", "The sky is"))
TEXT = Text(name="t", text="some text", sha256="0" * 64)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return llama_like(tmp_path / "f16.gguf", layers=4, types="f16")


@pytest.fixture
def artifact(tmp_path: Path, original: Path) -> Path:
    """A file with exactly the types of q4_k_m."""
    return quantized(original, tmp_path / "q4.gguf", "q4_k_m")


def quantized(original: Path, path: Path, fmt: str) -> Path:
    facts = resolve(str(original))
    types = {a.tensor.name: a.type for a in assign(facts, tensors(facts), fmt, imatrix=False)}
    header = read_header(original)
    meta = {k: v for k, v in header.metadata.items() if isinstance(v, (str, int, float))}
    return write_gguf(path, meta, [(t.name, t.shape, types[t.name]) for t in header.tensors])


class Runner:
    """Stands in for the measurement in a managed environment."""

    def __init__(self, **result: Any) -> None:
        self.requests: list[dict[str, Any]] = []
        self.choices: list[Any] = result.pop("choices", [[], []])
        self.result = {
            "perplexity": [10.0, 10.1],
            "kld": 0.01,
            "top1_agreement": 0.97,
            "positions": 1020,
            "non_finite": 0,
            "prompts": None,
            "seconds": 1.0,
            **result,
        }

    def __call__(self, env: Env, script: str, request: dict[str, Any], **_: Any) -> dict[str, Any]:
        assert script == "logits.py"
        assert Path(request["text"]).read_text() == "some text"
        self.requests.append(request)
        answers = self.result["prompts"] or [["wet.", "blue."] + ["no"] * 9, ["wet.", "clear."] + ["no"] * 9]
        sides = [a[: len(request["prompts"])] for a in answers][-len(request["models"]) :]
        if len(request["models"]) == 1:
            alone = {"perplexity": [10.1], "kld": None, "top1_agreement": None}
            return {**self.result, **alone, "prompts": sides, "choices": self.choices[-1:]}
        return {**self.result, "prompts": sides, "choices": self.choices}


def run(
    monkeypatch: pytest.MonkeyPatch, runner: Runner, artifact: Path, original: Path | None, **kwargs: Any
) -> Verification:
    monkeypatch.setattr(module, "run_runner", runner)
    facts = resolve(str(original or artifact))
    given: dict[str, Any] = {"fmt": "q4_k_m", "text": TEXT, "prompts": PROMPTS, "log": Path("unused"), **kwargs}
    return verify(artifact, original, env=ENV, model=facts, method="gguf", **given)


def test_good_artifact_passes(monkeypatch: pytest.MonkeyPatch, artifact: Path, original: Path) -> None:
    v = run(monkeypatch, runner := Runner(), artifact, original, chunks=4, threads=2)
    assert (v.perplexity, v.perplexity_reference, v.kld, v.positions) == (10.1, 10.0, 0.01, 1020)
    assert v.gate.verdict == "pass", v.gate
    assert v.findings == ()
    assert [p.same for p in v.prompts] == [True, False]
    assert all(p.coherent for p in v.prompts)
    assert v.types["q4_k"] > 0
    assert "f16" not in v.types
    assert runner.requests[0]["models"] == [str(original), str(artifact)]
    assert runner.requests[0]["chunks"] == 4


def test_original_under_a_quantized_name_fails(monkeypatch: pytest.MonkeyPatch, original: Path) -> None:
    v = run(monkeypatch, Runner(kld=0.0, perplexity=[10.0, 10.0]), original, original)
    assert {f.code for f in v.findings} == {"wrong-types", "memory-not-lower"}
    assert v.gate.verdict == "fail"


def test_garbage_is_diagnosed(monkeypatch: pytest.MonkeyPatch, artifact: Path, original: Path) -> None:
    bad = [["wet.", "blue."], ["\ufffd\ufffd\ufffd", ""]]
    v = run(monkeypatch, Runner(kld=5.0, perplexity=[10.0, 4000.0], prompts=bad), artifact, original)
    assert [f.code for f in v.findings] == ["garbled-output"]
    assert "--format q5_k_m" in v.findings[0].remedy
    assert v.gate.verdict == "fail"


def test_an_original_that_rambles_is_no_measure(
    monkeypatch: pytest.MonkeyPatch, artifact: Path, original: Path
) -> None:
    v = run(monkeypatch, Runner(prompts=[["", ""], ["", ""]]), artifact, original)
    assert v.findings == ()


def test_nan_fails(monkeypatch: pytest.MonkeyPatch, artifact: Path, original: Path) -> None:
    v = run(monkeypatch, Runner(non_finite=7, kld=None, perplexity=[None, None]), artifact, original)
    assert [f.code for f in v.findings] == ["non-finite"]
    assert v.gate.verdict == "fail"


def test_without_an_original_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch, artifact: Path) -> None:
    v = run(monkeypatch, Runner(), artifact, None)
    assert (v.perplexity, v.perplexity_reference, v.kld) == (10.1, None, None)
    assert v.gate.verdict == "pass"
    assert set(v.gate.bands) == {"perplexity"}, "no more is claimed than that it knows something"
    assert not any(p.same for p in v.prompts)


def test_format_without_figures_is_measured(monkeypatch: pytest.MonkeyPatch, artifact: Path, original: Path) -> None:
    v = run(monkeypatch, Runner(), artifact, original, fmt="no-such-format")
    assert v.kld == 0.01
    assert v.gate.bands == {}


def test_measurement_is_kept_in_the_store(
    monkeypatch: pytest.MonkeyPatch, artifact: Path, original: Path, tmp_path: Path
) -> None:
    store, runner = Store(tmp_path / "store"), Runner()
    first = run(monkeypatch, runner, artifact, original, store=store)
    assert run(monkeypatch, runner, artifact, original, store=store) == first
    assert len(runner.requests) == 1
    run(monkeypatch, runner, artifact, original, store=store, chunks=3)
    assert len(runner.requests) == 2
    with artifact.open("r+b") as f:
        f.seek(-1, 2)
        f.write(b"\1")
    run(monkeypatch, runner, artifact, original, store=store)
    assert len(runner.requests) == 3


def test_task_is_scored_on_both_sides(
    monkeypatch: pytest.MonkeyPatch, artifact: Path, original: Path, tmp_path: Path
) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"q{i}", "expect": "Yes"}) for i in range(3)) + "\n\n")
    answers = [["wet.", "blue.", "yes.", "YES", "no"], ["wet.", "blue.", "no", "oh yes", "no"]]
    v = run(monkeypatch, Runner(prompts=answers), artifact, original, tasks=path)
    assert v.task is not None
    assert (v.task.items, v.task.reference_correct, v.task.correct) == (3, 2, 1)
    assert len(v.prompts) == 2


@pytest.mark.parametrize(
    "line", ["", "not json", '{"prompt": "x"}', '{"prompt": "", "expect": "y"}', '{"prompt": 1, "expect": "y"}', "[]"]
)
def test_bad_tasks(tmp_path: Path, line: str) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(AdvisorError) as e:
        read_tasks(path)
    assert e.value.code == "bad-option"
    with pytest.raises(AdvisorError) as e:
        read_tasks(tmp_path / "none")
    assert e.value.code == "file-not-found"


@pytest.mark.parametrize("fmt", ["q2_k", "q3_k_m", "q4_0", "q4_k_m", "q5_k_m", "q6_k", "q8_0"])
def test_types_of_each_format_are_its_own(original: Path, tmp_path: Path, fmt: str) -> None:
    path = quantized(original, tmp_path / "q.gguf", fmt)
    types, finding = check_types(path, fmt=fmt, imatrix=False)
    assert finding is None
    assert sum(types.values()) == len(tensors(resolve(str(path))))
    assert check_types(path, fmt="f16", imatrix=False)[1] is not None
    assert weight_bytes(path) < weight_bytes(original)


def test_a_mix_is_of_the_file_type_that_most_of_its_weights_have(original: Path, tmp_path: Path) -> None:
    mix = "q4_k_m:ffn_down=q8_0"
    path = quantized(original, tmp_path / "mix.gguf", mix)
    assert check_types(path, fmt=mix, imatrix=False)[1] is None
    # somebody who has only the file has only its file type
    types, finding = check_types(path, fmt="q4_k_m", imatrix=False)
    assert finding is None and types["q8_0"] >= 4
    named = check_types(path, fmt="q8_0:ffn_up=q6_k", imatrix=False)[1]
    assert named is not None and "--format q8_0 --tensor-type 'ffn_up=q6_k'" in named.remedy
    # most weights in a larger type are no mix of the smaller one
    other = quantized(original, tmp_path / "other.gguf", "q8_0")
    assert check_types(other, fmt="q4_k_m", imatrix=False)[1] is not None


def test_a_type_that_was_asked_for_by_name_is_exact(original: Path, tmp_path: Path) -> None:
    mix = "q4_k_m:blk.0.ffn_down=q8_0"
    facts = resolve(str(original))
    wanted = {a.tensor.name: a.type for a in assign(facts, tensors(facts), mix, imatrix=False)}
    plain = read_header(quantized(original, tmp_path / "plain.gguf", "q4_k_m"))
    assert hold_types(plain, {t.name: t.type for t in plain.tensors}, "q4_k_m", exactly=False) == []
    with pytest.raises(AdvisorError, match=r"blk\.0\.ffn_down\.weight is"):
        hold_types(plain, wanted, mix, exactly=False)


def test_hash_of_a_stored_file_comes_from_its_manifest(
    tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    key = store.key("quantize", {})
    with store.work(key) as tmp:
        (tmp / "m.gguf").write_bytes(original.read_bytes())
        path = store.publish(tmp, key, {}) / "m.gguf"
    expected = content_sha256(original)

    def must_not_read(path: Path) -> str:
        raise AssertionError(path)

    monkeypatch.setattr(module, "file_sha256", must_not_read)
    assert content_sha256(path) == expected
