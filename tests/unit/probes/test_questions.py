"""Tools of the system are started with a fixed environment, for a limited time, and read up to a limit."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from advisor.probes import questions
from advisor.probes.detect import detect
from advisor.probes.source import LiveSource
from tests.unit.probes.fake import FakeSource


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that programs are taken from."""
    monkeypatch.setattr(questions, "_PROGRAM_FOLDERS", (str(tmp_path),))
    return tmp_path


def program(folder: Path, script: str) -> None:
    path = folder / "nvidia-smi"
    path.write_text("#!/bin/sh\n" + textwrap.dedent(script))
    path.chmod(0o755)


def test_what_it_prints_and_how_it_ends(folder: Path) -> None:
    program(folder, 'echo "$@"; echo noise >&2; exit 9\n')
    assert LiveSource().ask("nvidia-smi", 20.0) == {"stdout": "-q -x\n", "exit": 9}


def test_the_language_of_the_user_and_his_path_play_no_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("PATH", f"/somewhere/else:{os.environ['PATH']}")
    monkeypatch.setenv("LD_PRELOAD_MARK", "x")
    program(folder, 'echo "$LC_ALL|$LANG|$LD_PRELOAD_MARK|$PATH"\n')
    assert LiveSource().ask("nvidia-smi", 20.0)["stdout"] == f"C|||{os.defpath}\n"


def test_a_program_that_is_not_there(folder: Path) -> None:
    assert LiveSource().ask("nvidia-smi", 20.0)["error"]["code"] == "not-installed"
    (folder / "nvidia-smi").write_text("no program")
    assert LiveSource().ask("nvidia-smi", 20.0)["error"]["code"] == "not-installed"
    (folder / "nvidia-smi").chmod(0o755)
    assert LiveSource().ask("nvidia-smi", 20.0)["error"]["code"] == "not-started"


@pytest.mark.parametrize(
    "script",
    [
        "sleep 600\n",
        "echo some; sleep 600\n",
        "sleep 600 & wait\n",
        "exec >&-; sleep 600\n",
        "trap '' TERM; sleep 600\n",
    ],
)
def test_a_program_that_hangs_costs_its_deadline(folder: Path, script: str) -> None:
    program(folder, script)
    assert LiveSource().ask("nvidia-smi", 0.3)["error"]["code"] == "deadline"


def test_ten_megabytes_are_not_read(folder: Path) -> None:
    program(folder, "head -c 10485760 /dev/zero\n")
    reply = LiveSource().ask("nvidia-smi", 20.0)
    assert reply["error"]["code"] == "no-answer"
    assert str(questions.MAX_STDOUT_BYTES) in reply["error"]["message"]


def test_an_endless_answer_is_cut_off(folder: Path) -> None:
    program(folder, "exec cat /dev/zero\n")
    assert LiveSource().ask("nvidia-smi", 60.0)["error"]["code"] == "no-answer"


def test_as_much_as_is_allowed_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "MAX_STDOUT_BYTES", 1000)
    program(folder, "head -c 1000 /dev/zero\n")
    assert LiveSource().ask("nvidia-smi", 20.0) == {"stdout": "\0" * 1000, "exit": 0}
    program(folder, "head -c 1001 /dev/zero\n")
    assert "error" in LiveSource().ask("nvidia-smi", 20.0)


def test_bytes_that_are_no_text(folder: Path) -> None:
    program(folder, r"printf 'a\377\200b'" + "\n")
    assert LiveSource().ask("nvidia-smi", 20.0)["stdout"] == "a\ufffd\ufffdb"


class HalfLive(FakeSource):
    """A made-up machine on which programs really run."""

    def ask(self, question: str, deadline_s: float, /) -> dict[str, object]:
        self.asked += 1
        if question == "nvml":
            return {"error": {"code": "not-installed", "message": ""}}
        return LiveSource().ask(question, deadline_s)


@pytest.mark.parametrize(
    "script",
    [
        "sleep 600\n",
        "exec cat /dev/zero\n",
        "exit 1\n",
        "kill -SEGV $$\n",
        r"printf '\377\376<nvidia_smi_log>'" + "\n",
        "echo '<nvidia_smi_log></nvidia_smi_log>'\n",
        "echo 'Es wurden keine Geräte gefunden'\n",
    ],
)
def test_whatever_the_tool_does_the_device_is_listed_with_a_reason(folder: Path, script: str) -> None:
    program(folder, script)
    source = HalfLive(present=("/dev/nvidiactl",))
    (device,) = detect(source, deadline_s=1.0).machine.devices
    assert "cannot be asked" in (device.unusable or "")
