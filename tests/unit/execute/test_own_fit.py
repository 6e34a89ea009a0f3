"""llama.cpp's own choice of context and layers: what a program prints, and what is said of it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from advisor.backends.llama.binary import Binary
from advisor.execute import own_fit
from advisor.execute.llama import fit
from advisor.facts.plan import EngineFit, Settings
from advisor.model.resolve import resolve

MODEL = resolve("meta-llama/Llama-3.1-8B-Instruct")
SETTINGS = Settings(context=8192, gpu_layers=33)


def program(folder: Path, prints: str, code: int = 0) -> Binary:
    """A program that keeps its arguments and prints what it is told."""
    path = folder / fit.TOOL
    path.write_text(f"#!/bin/sh\necho \"$@\" > {folder / 'asked'}\nprintf '%b' '{prints}'\nexit {code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return Binary(tools={fit.TOOL: str(path)})


@pytest.mark.parametrize(
    ("text", "context", "layers", "split"),
    [
        ("-c 8192 -ngl -1", 8192, -1, None),
        ("log line\n-c 40960 -ngl 21 -ts 12,9 -ot blk=CPU\n", 40960, 21, (12.0, 9.0)),
    ],
)
def test_what_is_printed_is_read(text: str, context: int, layers: int, split: tuple[float, ...] | None) -> None:
    found = own_fit.read("tool", text)
    assert found == EngineFit(engine="tool", fits=True, context=context, gpu_layers=layers, tensor_split=split)


@pytest.mark.parametrize("text", ["", "-c -ngl", "Host 256 180 98", "-c 99999999999 -ngl 1"])
def test_anything_else_is_no_answer(text: str) -> None:
    assert own_fit.read("tool", text) is None


def ask(tmp_path: Path, *programs: Binary) -> EngineFit:
    return own_fit.ask(MODEL, "q4_k_m", SETTINGS, library=None, programs=programs, folder=tmp_path / "logs")


def test_a_program_is_asked_about_a_header_with_nothing_fixed(tmp_path: Path) -> None:
    found = ask(tmp_path, program(tmp_path, "-c 32768 -ngl 30\\n"))
    assert (found.context, found.gpu_layers, found.fits) == (32768, 30, True)
    asked = (tmp_path / "asked").read_text().split()
    assert asked[0] == "-m" and asked[1].endswith("dry.gguf")
    assert "-c" not in asked and "-ngl" not in asked
    assert "takes a context of 32,768, and puts 30 layers" in own_fit.words(found, SETTINGS, 33)
    assert "this plan has 8,192 and all layers" in own_fit.words(found, SETTINGS, 33)


def test_nobody_who_could_be_asked_is_said(tmp_path: Path) -> None:
    for programs in ((), (Binary(tools={}),), (program(tmp_path, "what?"),), (program(tmp_path, "", 2),)):
        found = ask(tmp_path, *programs)
        assert found == EngineFit(engine=None)
        assert "no provider of llama.cpp" in own_fit.words(found, SETTINGS, 33)


def test_a_program_that_finds_no_fit_is_told_apart(tmp_path: Path) -> None:
    found = ask(tmp_path, program(tmp_path, "llama_params_fit: failed to fit params to free device memory\\n", 1))
    assert found.fits is False and found.engine is not None
    assert "finds no fit by itself" in own_fit.words(found, SETTINGS, 33)
