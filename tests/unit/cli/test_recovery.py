"""``up --recover``: whether the next plan is taken when one fails."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from advisor.errors import AdvisorError
from tests.support import samples

from .conftest import Outcome

Advise = Callable[..., Outcome]


class Library:
    """``up`` fails for the model and names a next plan, which works or fails, too."""

    def __init__(self, *, next_works: bool = True) -> None:
        self.calls: list[tuple[str | None, dict[str, Any]]] = []
        self.next_works = next_works

    def up(self, model: str | None = None, **options: Any) -> Any:
        self.calls.append((model, options))
        if model == "p-0000bb" and self.next_works:
            return samples.sample_up()
        raise AdvisorError(
            "quality-gate-failed", "Too far from the original.", context=["KLD 0.5"], data={"next_plan": "p-0000bb"}
        )


@pytest.fixture
def library(fake: Callable[..., None]) -> Library:
    made = Library()
    fake(up=made.up)
    return made


def test_auto_takes_the_next_plan(advise: Advise, library: Library) -> None:
    done = advise("up", "8B", "--goal", "coding", "--recover", "auto", "--name", "mine", "--port", "9000", "-q")
    assert done.code == 0
    assert [model for model, _ in library.calls] == ["8B", "p-0000bb"]
    kept = library.calls[1][1]
    assert (kept["name"], kept["port"]) == ("mine", 9000)
    assert "goal" not in kept
    assert "Too far from the original." in done.err


def test_never_stops(advise: Advise, library: Library) -> None:
    assert advise("up", "8B", "--recover", "never").code == 3
    assert len(library.calls) == 1


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_ask_without_a_terminal_stops_and_names_the_next_step(
    advise: Advise, library: Library, extra: list[str]
) -> None:
    done = advise("up", "8B", *extra)
    assert done.code == 3
    assert len(library.calls) == 1
    if extra:
        assert json.loads(done.out)["error"]["hint"] == "advisor up p-0000bb"
    else:
        assert "hint: advisor up p-0000bb" in done.err


@pytest.mark.parametrize(("answer", "code", "calls"), [("y\n", 0, 2), ("\n", 3, 1), ("", 3, 1), ("no\n", 3, 1)])
def test_ask_on_a_terminal(
    advise: Advise, library: Library, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, calls: int
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(answer))
    done = advise("up", "8B")
    assert done.code == code
    assert len(library.calls) == calls
    assert "Take the next plan, p-0000bb? [y/N]" in done.err
    assert done.err.count("Too far from the original.") == 1
    assert done.err.count("KLD 0.5") == 1
    assert ("hint: advisor up p-0000bb" in done.err) is (code == 3)


def test_yes_answers(advise: Advise, library: Library) -> None:
    assert advise("up", "8B", "--yes").code == 0


def test_the_setting_decides_where_no_option_is_given(
    advise: Advise, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVISOR_RECOVER", "auto")
    assert advise("up", "8B").code == 0


def test_it_ends_when_the_next_plan_fails_too(advise: Advise, fake: Callable[..., None]) -> None:
    library = Library(next_works=False)
    fake(up=library.up)
    assert advise("up", "8B", "--recover", "auto").code == 3
    assert len(library.calls) == 2


def test_other_failures_are_not_recovered(advise: Advise, fake: Callable[..., None]) -> None:
    calls = []

    def up(model: str | None = None, **_: Any) -> Any:
        calls.append(model)
        raise AdvisorError("port-taken", "The port is in use.")

    fake(up=up)
    assert advise("up", "8B", "--recover", "auto").code == 8
    assert calls == ["8B"]


def test_a_step_of_the_ladder_is_asked_for_in_its_own_words(
    advise: Advise, fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    calls = []

    def up(model: str | None = None, **options: Any) -> Any:
        calls.append((model, options["recover"]))
        step = {"change": "context 8192 -> 4096", "given_up": "conversations of 4096 tokens at most"}
        hint = "advisor up p-0000bb --name mine"
        data = {"next_plan": "p-0000bb", "ladder": [step]}
        raise AdvisorError("server-failed", "Memory ran out.", hint=hint, data=data)

    fake(up=up)
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    done = advise("up", "8B", "--name", "mine")
    assert done.code == 1
    assert calls == [("8B", "ask")]
    said = " ".join(done.err.split())
    assert "Take the next step: context 8192 -> 4096 (given up: conversations of 4096 tokens at most)?" in said
    assert "hint: advisor up p-0000bb --name mine" in said
