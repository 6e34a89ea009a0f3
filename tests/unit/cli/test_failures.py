"""Whatever goes wrong: one exit code, one answer, no traceback."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from advisor.errors import CATALOGUE, AdvisorError
from tests.support.documents import check

from .conftest import Outcome

Advise = Callable[..., Outcome]


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def function(*_: Any, **__: Any) -> NoReturn:
        raise error

    return function


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_code_has_its_exit_code_and_document(advise: Advise, fake: Callable[..., None], code: str) -> None:
    fake(recommend=raising(AdvisorError(code, "What went wrong.", context=["which"], hint="advisor doctor")))
    done = advise("recommend", "8B", "--json")
    assert done.code == CATALOGUE[code].exit_code
    document = json.loads(done.out)
    check(document, "recommend")
    assert document["data"] is None
    assert document["error"]["code"] == code
    assert document["error"]["docs"] == f"docs/errors.md#{code}"


def test_people_get_what_which_and_what_to_do(advise: Advise, fake: Callable[..., None]) -> None:
    fake(recommend=raising(AdvisorError("network", "It broke.", context=["one", "two\nthree"], hint="advisor doctor")))
    done = advise("recommend", "8B")
    assert done.out == ""
    assert done.err == "error: It broke.\n  one\n  two\n  three\nhint: advisor doctor\n"
    assert "code: network" in advise("recommend", "8B", "-v").err


def test_foreign_text_cannot_drive_the_terminal(advise: Advise, fake: Callable[..., None]) -> None:
    evil = "evil \x1b]0;title\x07\x1b[31mred\u202e name"
    fake(recommend=raising(AdvisorError("model-not-found", evil, context=[evil], hint=evil)))
    done = advise("recommend", "8B")
    assert "\x1b" not in done.err
    assert "\u202e" not in done.err
    assert "evil red name" in done.err


# ------------------------------------------------------------------------------ bugs


def test_a_bug_is_one_line_with_a_private_log(advise: Advise, fake: Callable[..., None]) -> None:
    fake(recommend=raising(ZeroDivisionError("boom")))
    done = advise("recommend", "8B")
    assert done.code == 70
    assert done.err.count("\n") == 1
    assert "boom" in done.err
    log = Path(done.err.rsplit("log: ", 1)[1].strip())
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert "ZeroDivisionError" in log.read_text()
    assert "Traceback" in log.read_text()


def test_a_bug_in_json_is_still_one_document(advise: Advise, fake: Callable[..., None]) -> None:
    fake(recommend=raising(RecursionError("deep")))
    done = advise("recommend", "8B", "--json")
    assert done.code == 70
    document = json.loads(done.out)
    check(document, "recommend")
    assert document["error"]["data"]["exception"] == "RecursionError"
    assert Path(document["error"]["data"]["log"]).is_file()


def test_a_bug_without_a_writable_home_logs_elsewhere(
    advise: Advise, fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("ADVISOR_HOME", str(blocked))
    fake(recommend=raising(ZeroDivisionError("boom")))
    done = advise("recommend", "8B")
    assert done.code == 70
    assert Path(done.err.rsplit("log: ", 1)[1].strip()).is_file()


@pytest.mark.parametrize("error", [SystemExit(1), GeneratorExit(), BaseException("odd")])
def test_even_exits_are_answered(advise: Advise, fake: Callable[..., None], error: BaseException) -> None:
    fake(recommend=raising(error))
    done = advise("recommend", "8B", "--json")
    assert done.code == 70
    assert json.loads(done.out)["error"]["code"] == "bug"


def test_unserialisable_detail_does_not_hide_the_error(advise: Advise, fake: Callable[..., None]) -> None:
    detail: dict[str, Any] = {"path": Path("/x"), "set": {1}, "deep": [{"o": object()}]}
    fake(recommend=raising(AdvisorError("network", "It broke.", data=detail)))
    done = advise("recommend", "8B", "--json")
    assert done.code == 6
    assert json.loads(done.out)["error"]["data"]["path"] == "/x"


# ---------------------------------------------------------- exceptions of the system


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (KeyboardInterrupt(), "interrupted", 130),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "disk-full", 5),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "not-writable", 5),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "not-writable", 5),
        (MemoryError(), "out-of-memory", 1),
        (OSError(errno.EIO, "Input/output error"), "bug", 70),
    ],
)
def test_exceptions_of_the_system(
    advise: Advise, fake: Callable[..., None], error: BaseException, code: str, exit_code: int
) -> None:
    fake(recommend=raising(error))
    done = advise("recommend", "8B", "--json")
    assert done.code == exit_code
    assert json.loads(done.out)["error"]["code"] == code
    assert advise("recommend", "8B").code == exit_code


# ----------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("recomend 8B", "usage", 'Did you mean "recommend"?'),
        ("rules lst", "usage", 'Did you mean "list"?'),
        ("rules", "usage", "command"),
        ("recommend --gaol chat", "bad-option", "--goal"),
        ("recommend 8B more", "usage", "more"),
        ("estimate", "usage", "MODEL"),
        ("recommend 8B --memory 24G", "bad-option", "24GB or 24GiB"),
        ("recommend 8B --bandwidth fast", "bad-option", "1008GB/s"),
        ("recommend 8B --within soon", "bad-option", "10m"),
        ("recommend 8B --top 0", "bad-option", "0"),
        ("recommend 8B --min-quality 1.5", "bad-option", "1.5"),
        ("up --port 70000", "bad-option", "70000"),
        ("up --recover maybe", "bad-option", "'ask', 'auto', 'never'"),
        ("status -q -v", "contradictory-options", "--quiet"),
    ],
)
def test_usage_errors(advise: Advise, line: str, code: str, told: str) -> None:
    done = advise(*line.split(), "--json")
    assert done.code == 2
    document = json.loads(done.out)
    assert document["error"]["code"] == code
    assert told in document["error"]["message"]
    check(document, "envelope")
    shown = advise(*line.split())
    assert shown.code == 2
    assert shown.out == ""
    assert shown.err.startswith("error: ")


def test_usage_errors_name_their_command(advise: Advise) -> None:
    assert json.loads(advise("rules", "show", "--json").out)["schema"] == "advisor/rules-show/v1"
    assert json.loads(advise("nothing", "--json").out)["schema"] == "advisor/error/v1"
    assert "hint: advisor rules show --help" in advise("rules", "show").err


def test_a_file_that_is_not_there_is_not_a_usage_error(advise: Advise) -> None:
    for line in ("recommend --machine /no/such", "recommend --model-facts /no/such", "rules lint /no/such"):
        done = advise(*line.split(), "--json")
        assert done.code == 4
        assert json.loads(done.out)["error"]["code"] == "file-not-found"


@pytest.mark.parametrize("name", ["; rm -rf ~", "$(id)", "a\nb", "x" * 10000, "\x1b[31m", "../../etc/passwd"])
def test_odd_names_are_only_names(advise: Advise, fake: Callable[..., None], name: str) -> None:
    seen = []

    def describe(model: str, **_: Any) -> NoReturn:
        seen.append(model)
        raise AdvisorError("model-not-found", f"There is no model {model!r}.")

    fake(describe=describe)
    done = advise("models", "show", "--", name)
    assert done.code == 4
    assert seen == [name]
    assert "\x1b" not in done.err


def test_a_name_like_an_option_needs_the_separator(advise: Advise, fake: Callable[..., None]) -> None:
    seen = []
    fake(describe=lambda model, **_: seen.append(model) or raising(AdvisorError("model-not-found", "No."))())
    assert advise("models", "show", "--", "--help").code == 4
    assert seen == ["--help"]


# --------------------------------------------------------------------------- secrets

CANARY = "canary-4f1d9a77b2"


@pytest.mark.parametrize("mode", [[], ["--json"], ["-v"]])
def test_secrets_are_blotted_out_of_errors_and_logs(
    advise: Advise, fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch, mode: list[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    error = AdvisorError(
        "network",
        f"401 with {CANARY}",
        context=[f"Authorization: Bearer {CANARY}"],
        hint=f"curl {CANARY}",
        data={"header": [CANARY]},
    )
    for raised in (error, RuntimeError(f"bad {CANARY}")):
        fake(recommend=raising(raised))
        done = advise("recommend", "8B", *mode)
        assert CANARY not in done.out + done.err
    for log in Path(os.environ["ADVISOR_HOME"]).rglob("bug-*.log"):
        assert CANARY not in log.read_text()


@pytest.mark.parametrize("words", [("recommend", "8B"), ("--version",), ()])
def test_windows_is_told_of_wsl(words: tuple[str, ...], advise: Advise, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advisor.cli.main.sys.platform", "win32")
    done = advise(*words)
    assert done.code == 5
    assert "WSL 2" in done.err
    assert "wsl --install" in done.err
