"""What a person reads: origins beside numbers, reasons, and nothing foreign that drives a terminal."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from advisor.cli.page import Cell, Column, Page
from advisor.cli.views import estimate, machine, plans, receipt, up, verification
from tests.support import samples


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    def on_page(write: Callable[[Page], None], columns: int = 120) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        page = Page(io.StringIO())
        write(page)
        return page.finish()

    return on_page


def test_numbers_carry_their_origin(draw: Callable[..., str]) -> None:
    text = draw(lambda page: plans.recommendation(page, samples.sample_recommendation()))
    for told in ("5.00 GiB", "formula", "42.5 tok/s", "fit", "0.0708", "table"):
        assert told in text
    text = draw(lambda page: estimate.estimate(page, samples.sample_estimate(), verbose=True))
    for told in ("exact", "guess", "file header", "4.50 GiB - 6.00 GiB", "166 tensors q4_k->q5_0"):
        assert told in text


def test_reasons_cite_the_guide(draw: Callable[..., str]) -> None:
    text = draw(lambda page: plans.recommendation(page, samples.sample_recommendation()))
    assert "On a CPU fewer bits are faster. (GUIDE-060; guide 000 section 7)" in text
    assert "It needs: a driver." in text
    assert "llama.cpp does not load AWQ." in text
    assert "2.00 GiB" in text  # short by
    assert "warning, for all of them: Many tensors are stored in larger types." in text


def test_rejected_is_gathered_unless_verbose(draw: Callable[..., str]) -> None:
    many = tuple(samples.sample_rejected(format=f"w{b}a16-g128") for b in (2, 3, 4, 8))
    gathered = draw(lambda page: plans.rejected(page, many))
    assert "Rejected (4)" in gathered
    assert "and 3 more" in gathered
    assert gathered.count("llama.cpp does not load AWQ.") == 1
    assert draw(lambda page: plans.rejected(page, many, verbose=True)).count("llama.cpp does not load AWQ.") == 4


def test_the_receipt_puts_predicted_beside_measured(draw: Callable[..., str]) -> None:
    lines = draw(lambda page: receipt.receipt(page, samples.sample_receipt())).splitlines()
    decode = next(line for line in lines if line.startswith("decode"))
    assert decode.split() == ["decode", "40.0", "tok/s", "50.0", "tok/s", "x0.80"]
    assert next(line for line in lines if line.startswith("prefill")).split() == ["prefill", "unknown", "unknown"]
    assert any(line.split() == ["fit", "measured"] for line in lines)


def test_up_ends_with_the_address_an_answer_and_how_to_stop(draw: Callable[..., str]) -> None:
    text = draw(lambda page: up.up(page, samples.sample_up()))
    for told in ("http://127.0.0.1:8080/v1", "Paris is the capital", "Receipt", "advisor down smollm2"):
        assert told in text


def test_a_dry_run_shows_commands_unwrapped(draw: Callable[..., str]) -> None:
    argv = ("llama-server", "-m", "a file.gguf", *(f"--option-{i}" for i in range(30)))
    plan = samples.sample_plan(commands=samples.sample_plan().commands.__class__(serve=(argv,)))
    done = samples.sample_up(deployment=None, receipt=None, plan=plan)
    text = draw(lambda page: up.up(page, done), columns=60)
    line = next(line for line in text.splitlines() if line.startswith("llama-server"))
    assert "'a file.gguf'" in line
    assert line.endswith("--option-29")
    assert "Nothing was changed." in text


def test_the_machine_tells_limits_and_what_is_unknown(draw: Callable[..., str]) -> None:
    text = draw(lambda page: machine.machine(page, samples.sample_machine()))
    for told in ("24.0 GiB (limited to 16.0 GiB)", "1.5 granted", "NVIDIA GeForce RTX 4090", "unknown", "1.01 TB/s"):
        assert told in text
    assert "No accelerator" in draw(lambda page: machine.machine(page, samples.sample_machine(devices=())))


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("warn", 0), ("fail", 3)])
def test_the_gate(verdict: str, code: int, draw: Callable[..., str]) -> None:
    found = samples.sample_verification(verdict)
    assert verification.exit_code(found) == code
    assert verdict in draw(lambda page: verification.verification(page, found))


EVIL = "a\x1b]0;t\x07\x1b[2J\u202eb [bold]c[/bold] :smile:\nd"


def test_foreign_text_is_only_text(draw: Callable[..., str]) -> None:
    def write(page: Page) -> None:
        page.title(EVIL)
        page.text(EVIL)
        page.lines(EVIL)
        page.bullets([EVIL])
        page.numbered([("1.", EVIL)])
        page.fields([("x", Cell(EVIL, "", EVIL))])
        page.table([Column("x")], [[Cell(EVIL, "", EVIL)]])
        page.verbatim(EVIL)

    for columns in (30, 100):
        text = draw(write, columns)
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "[bold]c[/bold] :smile:" in text


def test_narrow_tables_become_records(draw: Callable[..., str]) -> None:
    text = draw(lambda page: page.table([Column("name"), Column("size", True)], [["one", "2 GiB"], ["two", ""]]), 20)
    assert text == "name: one\nsize: 2 GiB\n\nname: two\n"
