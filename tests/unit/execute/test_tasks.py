from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advisor.errors import AdvisorError
from advisor.execute.tasks import Answers, Task, free_prompts, read_tasks, score, weighed

CHOICES = ["London", "Paris", "a tree"]


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("answer", [1, "Paris", "B", "b"])
def test_the_answer_is_an_index_a_letter_or_the_text(tmp_path: Path, answer: object) -> None:
    path = write(tmp_path / "t.jsonl", {"question": "Capital of France?", "choices": CHOICES, "answer": answer})
    (task,) = read_tasks(path)
    assert task == Task("Question: Capital of France?\nAnswer:", "", tuple(CHOICES), 1)
    assert weighed([task]) == [{"prompt": task.prompt, "choices": CHOICES}]
    assert free_prompts([task]) == []


def test_a_choice_that_looks_like_a_letter_is_taken_as_its_text(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", {"prompt": "Vitamin of oranges:", "choices": ["C", "A", "B"], "answer": "A"})
    assert read_tasks(path)[0].answer == 1
    assert read_tasks(path)[0].prompt == "Vitamin of oranges:"


@pytest.mark.parametrize(
    "line",
    [
        {"question": "q", "choices": ["one"], "answer": 0},
        {"question": "q", "choices": ["one", "one"], "answer": 0},
        {"question": "q", "choices": ["one", 2], "answer": 0},
        {"question": "q", "choices": "ab", "answer": 0},
        {"question": "q", "choices": ["one", "two"], "answer": 2},
        {"question": "q", "choices": ["one", "two"], "answer": -1},
        {"question": "q", "choices": ["one", "two"], "answer": True},
        {"question": "q", "choices": ["one", "two"], "answer": "three"},
        {"question": "q", "choices": ["one", "two"]},
        {"question": " ", "choices": ["one", "two"], "answer": 0},
        {"question": "q" * 2000, "choices": ["one", "two"], "answer": 0},
        {"question": "q"},
        {"prompt": "p", "expect": 3},
    ],
)
def test_bad_questions_are_named_by_their_line(tmp_path: Path, line: dict[str, Any]) -> None:
    good = {"question": "q", "choices": ["one", "two"], "answer": 0}
    with pytest.raises(AdvisorError) as e:
        read_tasks(write(tmp_path / "t.jsonl", good, line))
    assert e.value.code == "bad-option"
    assert "line 2" in e.value.message


def test_kinds_are_not_mixed(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl", {"prompt": "p", "expect": "e"}, {"prompt": "p", "choices": ["a", "b"], "answer": 0}
    )
    with pytest.raises(AdvisorError) as e:
        read_tasks(path)
    assert "line 2" in e.value.message


def test_free_answers_are_right_where_they_contain_what_is_expected() -> None:
    tasks = [Task("a", "Wet"), Task("b", "blue")]
    found = score("t", tasks, Answers(["it is wet.", "red"], []), Answers(["wet", "Blue!"], []))
    assert found is not None
    assert (found.items, found.correct, found.reference_correct, found.kind) == (2, 1, 2, "answers")
    assert found.correct_normalized is None


def test_choices_are_counted_by_sum_and_by_length() -> None:
    task = Task("q", "", ("no", "certainly so"), 1)
    # The short one is likelier in all, the long one by the byte.
    artifact = Answers([], [[[-4.0, 1, 2], [-6.0, 3, 12]]])
    broken = Answers([], [[[None, 1, 2], [None, 3, 12]]])
    found = score("t", [task], artifact, None)
    assert found is not None
    assert (found.correct, found.correct_normalized) == (0, 1)
    assert (found.reference_correct, found.reference_correct_normalized) == (None, None)
    assert (found.kind, found.metric) == ("choices", "log-likelihood")
    nothing = score("t", [Task("q", "", ("a", "b"), 0)], broken, artifact)
    assert nothing is not None
    assert (nothing.correct, nothing.correct_normalized) == (0, 0)
    assert (nothing.reference_correct, nothing.reference_correct_normalized) == (1, 0)


def test_no_questions_no_score() -> None:
    assert score("t", (), Answers([], []), None) is None
