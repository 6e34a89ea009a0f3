"""Streams that close or lack characters, narrow terminals, whatever words are typed: one answer, no traceback."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from advisor import api
from advisor.cli.app import build
from advisor.cli.main import main
from tests.support.documents import check

REPO = Path(__file__).resolve().parents[2]
LINES = [
    "paths",
    "config show",
    "recommend 8B",
    "recommend 8B -v --hardware rtx-4090",
    "recommend 70B --hardware cpu --memory 8GB",
    "estimate 8B",
    "probe",
    "status",
    "rules list",
    "rules show RT-004",
    "hardware list",
    "models list",
    "goals list",
    "explain network",
    "doctor",
    "recommend no/such/model",
    "logs nothing",
]


def run(line: str, redirect: str = "", **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["sh", "-c", f'exec "$0" -m advisor "$@" {redirect}', sys.executable, *line.split()],
        cwd=REPO,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("line", LINES)
def test_any_encoding_and_any_width(line: str) -> None:
    """Twenty columns are enough, and no character that an encoding lacks is an error."""
    code = run(line).returncode
    assert code in (0, 3, 4, 5)
    for encoding in ("ascii", "cp1252") if "-v" in line else ("ascii",):
        done = run(line, PYTHONIOENCODING=encoding, LC_ALL="C", PYTHONUTF8="0", COLUMNS="20")
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr
        assert b"UnicodeEncodeError" not in done.stderr
        text = done.stdout.decode(encoding)
        assert text.strip() or code == 4 or line == "status"
        # Only a word that no row could hold sticks out: an address, a path, an id is never cut.
        assert [row for row in text.splitlines() if len(row) > 20 and max(map(len, row.split())) < 18] == []
        assert "\x1b" not in text


@pytest.mark.parametrize("line", ["recommend 8B --json", "rules list", "--help"])
@pytest.mark.parametrize("redirect", ["| head -c 1", ">&-", "<&- >&- 2>&-"])
def test_readers_that_leave_and_streams_that_are_closed(line: str, redirect: str) -> None:
    done = run(line, redirect)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert b"Error" not in done.stderr


def test_a_question_without_a_terminal_names_the_flag() -> None:
    done = run("env remove llama.cpp")
    assert done.returncode == 2
    assert b"--yes" in done.stderr


# --------------------------------------------------------------------------------- bugs

BROKEN = (
    "import sys; from advisor.model import resolve; "
    "resolve.resolve = lambda *a, **k: [][1]; "
    "from advisor.cli.main import run; run()"
)


@pytest.mark.parametrize("words", [["recommend", "8B"], ["estimate", "8B"], ["models", "show", "8B"], ["up", "8B"]])
def test_a_bug_anywhere_is_one_line_with_a_log(words: list[str]) -> None:
    def broken(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", BROKEN, *words, *more],
            cwd=REPO,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    shown = broken("--quiet")
    assert (shown.returncode, shown.stdout) == (70, "")
    assert shown.stderr.count("\n") == 1
    log = Path(shown.stderr.rpartition("log: ")[2].strip())
    assert "IndexError" in log.read_text()
    assert str(log).startswith(os.environ["ADVISOR_HOME"])
    told = broken("--json")
    document = json.loads(told.stdout)
    check(document, "envelope")
    assert (told.returncode, document["error"]["code"]) == (70, "bug")
    assert Path(document["error"]["data"]["log"]).is_file()
    assert all(json.loads(line) for line in told.stderr.splitlines())


TEXT = st.text(max_size=30) | st.sampled_from(
    ["8B", "70B:7B", "0B", "999999999999B", "1e9B", "pypi:x", "./x", "/", "~", "p-3f2a9c", "..", "cpu", "rtx-4090:0"]
)
OPTIONS = ["--context", "--parallel", "--hardware", "--memory", "--vram", "--bandwidth", "--format", "--goal", "--top"]


@pytest.mark.parametrize(
    "command",
    ["recommend", "estimate", "explain", "rules show", "hardware show", "models show", "logs", "status"],
)
@given(st.lists(TEXT, max_size=2), st.dictionaries(st.sampled_from(OPTIONS), TEXT, max_size=2))
@hypothesis_settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
def test_whatever_is_typed_is_answered(
    capfd: pytest.CaptureFixture[str], command: str, words: list[str], options: dict[str, str]
) -> None:
    capfd.readouterr()
    line = [*command.split(), "--json", *(f"{k}={v}" for k, v in options.items()), "--", *words]
    code = main([w.replace("\0", "") for w in line])
    told = capfd.readouterr()
    document = json.loads(told.out)
    assert code in (0, 2, 3, 4, 5, 7), document
    assert ("error" in document) == (document["data"] is None) == (code not in (0, 3))
    assert "Traceback" not in told.err


def test_the_library_never_prints(capfd: pytest.CaptureFixture[str]) -> None:
    api.recommend("8B")
    api.doctor()
    assert capfd.readouterr() == ("", "")


def hints() -> set[str]:
    """The beginnings of all hints in the source that are commands of advisor's, up to the first thing filled in."""
    found = set()
    for path in (REPO / "advisor").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg in ("hint", "remedy"):
                first = node.value.values[0] if isinstance(node.value, ast.JoinedStr) else node.value
                if isinstance(first, ast.Constant) and str(first.value).startswith("advisor "):
                    found.add(str(first.value))
    return found


def test_every_hint_names_a_command_that_there_is() -> None:
    assert len(hints()) > 20
    group = build()
    for hint in hints():
        words = hint.split()[1:]
        if not words:
            continue  # the command itself is filled in
        command = group.get_command(click.Context(group), words[0])
        assert command is not None, hint
        if isinstance(command, click.Group):
            assert words[1:] and command.get_command(click.Context(command), words[1]) is not None, hint
