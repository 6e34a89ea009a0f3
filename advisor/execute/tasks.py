"""A user's own questions: read from a file, and scored.

Two kinds, one a file: ``{"prompt", "expect"}``, answered freely, right where the answer contains what is expected; and
``{"question" or "prompt", "choices", "answer"}``, where each choice is weighed by its log-likelihood after the
question.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from advisor.errors import AdvisorError
from advisor.facts.results import TaskScore

MAX_TASKS: Final = 200
MAX_PROMPT: Final = 1400
_MAX_CHOICES: Final = 26
_KINDS: Final = 'neither {"prompt", "expect"} nor {"question", "choices", "answer"}'


class Task(NamedTuple):
    """A question and what a right answer contains (``expect``), or its ``choices`` and which of them is right."""

    prompt: str
    expect: str = ""
    choices: tuple[str, ...] = ()
    answer: int = 0


def read_tasks(path: Path) -> tuple[Task, ...]:
    """Read a user's task, JSON lines of one kind, at most 200. ``answer`` is the index of the right choice from 0 on,
    its letter (``"B"``), or its text. A ``question`` is asked as ``Question: ...\\nAnswer:``, a ``prompt`` as it is.

    Raises:
        AdvisorError: ``file-not-found`` or ``bad-option`` with the line.
    """
    if not path.is_file():
        raise AdvisorError("file-not-found", f"There is no file {path}.")
    out: list[Task] = []
    with path.open("rb") as f:
        for number, raw in enumerate(f, 1):
            if not raw.strip():
                continue
            if len(out) >= MAX_TASKS:
                raise AdvisorError("bad-option", f"{path} has more than {MAX_TASKS} questions.")
            where = f"{path}, line {number}"
            try:
                task = _task(msgspec.json.decode(raw, type=dict[str, Any]), where)
            except (msgspec.MsgspecError, UnicodeDecodeError) as e:
                raise AdvisorError("bad-option", f"{where}: {_KINDS}: {e}.") from e
            if out and bool(out[0].choices) != bool(task.choices):
                raise AdvisorError("bad-option", f"{where}: free and multiple-choice questions need a file each.")
            out.append(task)
    if not out:
        raise AdvisorError("bad-option", f"{path} holds no questions.")
    return tuple(out)


def _task(line: dict[str, Any], where: str) -> Task:
    prompt = line.get("question", line.get("prompt"))
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > MAX_PROMPT:
        raise AdvisorError("bad-option", f"{where}: a question has 1 to {MAX_PROMPT} characters ({_KINDS}).")
    if "choices" not in line:
        expect = line.get("expect")
        if not isinstance(expect, str) or not expect.strip():
            raise AdvisorError("bad-option", f"{where}: {_KINDS}.")
        return Task(prompt, expect)
    choices = line["choices"]
    if (
        not isinstance(choices, list)
        or not 2 <= len(choices) <= _MAX_CHOICES
        or not all(isinstance(c, str) and c.strip() and len(c) <= MAX_PROMPT for c in choices)
        or len(set(choices)) < len(choices)
    ):
        raise AdvisorError("bad-option", f"{where}: choices are 2 to {_MAX_CHOICES} different texts.")
    if "question" in line:
        prompt = f"Question: {prompt}\nAnswer:"
    return Task(prompt, "", tuple(choices), _index(line.get("answer"), choices, where))


def _index(answer: object, choices: list[str], where: str) -> int:
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    if isinstance(answer, str):
        if answer in choices:
            return choices.index(answer)
        letter = answer.strip().upper()
        if len(letter) == 1 and 0 <= ord(letter) - ord("A") < len(choices):
            return ord(letter) - ord("A")
    raise AdvisorError(
        "bad-option",
        f"{where}: the answer {answer!r} is none of the choices, nor an index from 0 to {len(choices) - 1}.",
    )


def free_prompts(tasks: Sequence[Task]) -> list[str]:
    """What is to be answered freely."""
    return [t.prompt for t in tasks if not t.choices]


def weighed(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """What is to be weighed, as measuring runners take it."""
    return [{"prompt": t.prompt, "choices": list(t.choices)} for t in tasks if t.choices]


class Answers(NamedTuple):
    """One model's: free answers in the order of ``free_prompts``, and ``[log-likelihood, tokens, bytes]`` of each
    choice in the order of ``weighed``."""

    free: Sequence[str]
    weighed: Sequence[Sequence[Sequence[float | None]]]


def score(name: str, tasks: Sequence[Task], artifact: Answers, reference: Answers | None) -> TaskScore | None:
    """How many questions both sides get right; ``None`` without questions.

    Of choices the likeliest is taken: by the sum of its tokens' log-probabilities, and (``correct_normalized``) by that
    sum divided by its bytes, which does not favour short ones. A choice whose likelihood is not finite is never taken.
    """
    if not tasks:
        return None
    if not tasks[0].choices:
        return TaskScore(
            name=name,
            items=len(tasks),
            reference_correct=None if reference is None else _contains(tasks, reference.free),
            correct=_contains(tasks, artifact.free),
        )
    return TaskScore(
        name=name,
        items=len(tasks),
        reference_correct=None if reference is None else _likeliest(tasks, reference.weighed, normalized=False),
        correct=_likeliest(tasks, artifact.weighed, normalized=False),
        kind="choices",
        metric="log-likelihood",
        correct_normalized=_likeliest(tasks, artifact.weighed, normalized=True),
        reference_correct_normalized=(
            None if reference is None else _likeliest(tasks, reference.weighed, normalized=True)
        ),
    )


def _contains(tasks: Sequence[Task], answers: Sequence[str]) -> int:
    return sum(t.expect.strip().casefold() in a.casefold() for t, a in zip(tasks, answers, strict=True))


def _likeliest(tasks: Sequence[Task], weighed_: Sequence[Sequence[Sequence[float | None]]], *, normalized: bool) -> int:
    correct = 0
    for task, found in zip(tasks, weighed_, strict=True):
        values = [
            float("-inf") if total is None else total / (length or 1 if normalized else 1)
            for total, _tokens, length in found
        ]
        best = max(values)
        correct += best > float("-inf") and values.index(best) == task.answer
    return correct
