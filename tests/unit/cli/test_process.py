"""What only a real process shows: pipes, closed streams, encodings, signals, imports, completion."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from advisor.cli.app import COMMANDS

# A child that answers `recommend` at once, as often as asked, and then runs the command line.
FAKE = """
import sys
from advisor import api
from advisor.cli.main import run
from tests.support import samples
api.recommend = lambda model=None, **_: samples.sample_recommendation(
    rejected=tuple(samples.sample_rejected(because=f"reason {i} … “quoted” ≥") for i in range(1000))
)
api.follow = lambda name, **_: iter(lambda: "line", None)
def up(model=None, *, cancel, reporter, **_):
    from advisor.events import Event
    ready = model == "ready"
    reporter(Event(kind="step-started", step="launch"))
    if ready:
        reporter(Event(kind="step-finished", step="launch"))
    print("GO", file=sys.stderr, flush=True)
    if not cancel.wait(60):
        raise SystemExit("nobody interrupted")
    if model == "stubborn":
        print("GO", file=sys.stderr, flush=True)
        import time
        time.sleep(60)
    cancel.check()
api.up = up
run()
"""
REPO = Path(__file__).resolve().parents[3]


def child(*words: str, code: str = FAKE, **env: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO), **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finished(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("words", [["recommend", "8B", "-v"], ["recommend", "8B", "--json"], ["logs", "x", "-f"]])
def test_a_reader_that_goes_away_is_no_error(words: list[str]) -> None:
    process = child(*words)
    assert process.stdout is not None
    assert process.stdout.read(10)
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0
    assert b"Traceback" not in err
    assert b"BrokenPipe" not in err
    assert b"error" not in err


@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize("words", ["recommend 8B", "recommend 8B --json", "--help"])
def test_closed_streams_are_survived(redirect: str, words: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {words} {redirect}', sys.executable, FAKE],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("words", ["recommend 8B", "recommend 8B --json", "paths"])
def test_a_full_disk_behind_stdout_is_told(words: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {words} > /dev/full', sys.executable, FAKE],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 5
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_encoding_can_be_written(encoding: str) -> None:
    code, out, err = finished(child("recommend", "8B", "-v", PYTHONIOENCODING=encoding, COLUMNS="100"))
    assert code == 0, err
    text = out.decode(encoding)
    assert "reason 7" in text
    assert ("..." if encoding == "ascii" else "…") in text


def test_json_is_utf8_in_any_locale() -> None:
    code, out, _ = finished(child("recommend", "8B", "--json", PYTHONIOENCODING="ascii"))
    assert code == 0
    assert "… “quoted” ≥" in out.decode("utf-8")


def test_colour_is_for_terminals() -> None:
    _, out, err = finished(child("recommend", "8B"))
    assert b"\x1b" not in out + err


# ------------------------------------------------------------------------- interrupts


def interrupted(what: str, times: int = 1, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
    process = child("up", what, "--name", "mine")
    assert process.stderr is not None
    told = b""
    for _ in range(times):
        while b"GO\n" not in (line := process.stderr.readline()):
            assert line, told
            told += line
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    return process.returncode, (told + err).decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_interrupt_stops_at_a_safe_point(number: signal.Signals) -> None:
    code, err = interrupted("8B", number=number)
    assert code == 130
    assert "Stopping at the next safe point" in err
    assert "keeps running" not in err
    assert "Traceback" not in err


def test_the_second_interrupt_stops_at_once() -> None:
    code, err = interrupted("stubborn", times=2)
    assert code == 130
    assert "Traceback" not in err


def test_after_ready_the_server_is_left_running_and_that_is_said() -> None:
    code, err = interrupted("ready")
    assert code == 130
    assert "keeps running" in err
    assert "hint: advisor down mine" in err


# ------------------------------------------------------------------ start-up and entry

DENIED = ("yaml", "rich", "msgspec", "subprocess", "asyncio", "socket", "tempfile", "json", "huggingface_hub", "pynvml")
IMPORTS = """
import sys
before = set(sys.modules)
from advisor.cli.main import main
code = main({words!r})
print("\\n".join(sorted(set(sys.modules) - before)), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("words", [["--version"], ["--help"], [], ["rules", "--help"]])
def test_little_is_imported_to_say_hello(words: list[str]) -> None:
    code, out, err = finished(child(code=IMPORTS.format(words=words)))
    assert code == 0
    assert out
    loaded = err.decode().split()
    assert [m for m in loaded if m.split(".")[0] in DENIED] == []
    assert "urllib.request" not in loaded
    assert [m for m in loaded if m.startswith("advisor.api")] == []
    assert len([m for m in loaded if m.startswith("advisor.")]) <= 20


def test_json_needs_no_rich() -> None:
    loaded = "import sys, atexit; atexit.register(lambda: print('rich' in sys.modules, file=sys.stderr))" + FAKE
    code, _, err = finished(child("recommend", "8B", "--json", code=loaded))
    assert (code, err) == (0, b"False\n")


def test_python_m_advisor() -> None:
    done = subprocess.run([sys.executable, "-m", "advisor", "--version"], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("advisor ")


def test_the_table_of_commands_is_true() -> None:
    import importlib

    import click

    for name, (module, attribute, short) in COMMANDS.items():
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        assert command.name == name
        assert short.endswith(".")
        assert command.help


@pytest.mark.parametrize(
    ("line", "offered"),
    [("re", "recommend"), ("recommend --goal c", "coding"), ("recommend --format q4", "q4_k_m"), ("rules l", "lint")],
)
def test_completion(line: str, offered: str) -> None:
    words = f"advisor {line}".split()
    code, out, err = finished(
        child(_ADVISOR_COMPLETE="bash_complete", COMP_WORDS=" ".join(words), COMP_CWORD=str(len(words) - 1))
    )
    assert code == 0, err
    assert f"plain,{offered}" in out.decode().splitlines()


def test_completion_script() -> None:
    code, out, _ = finished(child(_ADVISOR_COMPLETE="zsh_source"))
    assert code == 0
    assert b"#compdef advisor" in out
