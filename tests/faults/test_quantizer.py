"""Quantizers that die, or end well and leave nothing usable: nothing is published, the log's tail is told, and the next
run makes it anew. Through the real command line, over scripted runners."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from advisor.execute.store import Store
from tests.support import scripted


class Bench:
    """A home, a small model and scripted runners."""

    def __init__(self, root: Path) -> None:
        self.home = Path(os.environ["ADVISOR_HOME"])
        self.folder = root / "runners"
        self.model = scripted.model(root / "small-F16.gguf")
        self.store = Store(self.home / "cache" / "store" / "v1")

    def quantize(self, **habits: Any) -> tuple[int, dict[str, Any]]:
        scripted.runners(self.folder, **habits)
        done = scripted.advisor(self.folder, *self.words())
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads(done.stdout)

    def words(self) -> tuple[str, ...]:
        return ("quantize", str(self.model), "--format", "q4_k_m", "--json")

    def kinds(self) -> list[str]:
        return [e.key.rpartition("-")[0] for e in self.store.entries()]

    def leftovers(self) -> list[str]:
        return [p.name for p in (self.store.root / "tmp").iterdir()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize(
    ("habit", "exit_code", "words"),
    [
        (int(signal.SIGKILL), 137, "memory ran out"),
        (int(signal.SIGSEGV), 139, "wrong memory access"),
        (int(signal.SIGABRT), 134, "SIGABRT"),
        ("exit 3", 3, "exit status 3"),
    ],
)
def test_a_quantizer_that_dies(bench: Bench, habit: int | str, exit_code: int, words: str) -> None:
    code, document = bench.quantize(quantize=habit)
    error = document["error"]
    assert (code, error["code"]) == (1, "quantizer-failed")
    assert words in error["message"]
    assert error["data"]["backend_exit"] == exit_code
    assert error["data"]["step"] == "quantize"
    assert "last line of the quantizer" in error["context"]
    assert Path(error["data"]["log"]).is_file()
    assert any(error["data"]["log"] in line for line in error["context"])
    assert (bench.kinds(), bench.leftovers()) == ([], [])
    assert bench.quantize()[0] == 0


@pytest.mark.parametrize("habit", ["nothing", "empty", "garbage", "cut", "sixteen"])
def test_a_quantizer_that_ends_well_and_leaves_nothing_usable(bench: Bench, habit: str) -> None:
    code, document = bench.quantize(quantize=habit)
    assert (code, document["error"]["code"]) == (1, "artifact-invalid")
    assert (bench.kinds(), bench.leftovers()) == ([], [])
    assert bench.quantize()[0] == 0
    assert bench.kinds() == ["quantize", "verify"]


def test_a_file_of_numbers_that_are_none_is_withdrawn(bench: Bench) -> None:
    """Its header is sound, so only loading it tells; without a withdrawal each next run would find it again."""
    code, document = bench.quantize(validate="nan")
    assert (code, document["error"]["code"]) == (1, "artifact-invalid")
    assert "not numbers" in document["error"]["message"]
    assert bench.kinds() == []
    assert bench.quantize()[0] == 0
    assert scripted.started(bench.folder) == ["quantize", "validate", "quantize", "validate", "verify"]
    assert bench.kinds() == ["quantize", "verify"]


def test_a_model_that_was_not_made_here_is_left_alone_when_it_proves_unusable(bench: Bench) -> None:
    scripted.runners(bench.folder, validate="nan")
    mine = scripted.model(bench.model.with_name("mine-Q8_0.gguf"), "q8_0")
    done = scripted.advisor(bench.folder, "verify", str(mine), "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (1, "artifact-invalid")
    assert mine.is_file()


def test_kill_9_while_it_quantizes_then_the_same_command(bench: Bench) -> None:
    scripted.runners(bench.folder, quantize="slow")
    with subprocess.Popen(
        scripted.command(bench.folder, *bench.words()),
        cwd=scripted.REPO,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stderr is not None
        while b"slowly" not in (line := child.stderr.readline()):
            assert line
        child.kill()
    assert len(bench.leftovers()) == 1
    until = time.monotonic() + 20
    while runner_lives(bench.folder):
        assert time.monotonic() < until
        time.sleep(0.02)
    scripted.runners(bench.folder)
    up = scripted.advisor(bench.folder, "up", str(bench.model), "--format", "q4_k_m", "--json")
    scripted.advisor(bench.folder, "down", "--all", "-q")
    assert up.returncode == 0, up.stderr
    assert bench.leftovers() == []
    assert bench.kinds() == ["quantize", "verify"]


def runner_lives(folder: Path) -> bool:
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return str(folder / "quantize.py") in found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_while_it_quantizes_keeps_what_is_finished(bench: Bench, number: signal.Signals) -> None:
    scripted.runners(bench.folder, quantize="slow")
    with subprocess.Popen(
        scripted.command(bench.folder, *bench.words()),
        cwd=scripted.REPO,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stderr is not None
        while b"slowly" not in (line := child.stderr.readline()):
            assert line
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert json.loads(out)["error"]["code"] == "interrupted"
    assert b"Traceback" not in err
    assert not runner_lives(bench.folder)
    assert (bench.kinds(), bench.leftovers()) == ([], [])
