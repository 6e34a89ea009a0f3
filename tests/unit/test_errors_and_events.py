"""The exception table, progress events, and data files."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from advisor import datafiles, errors
from advisor.errors import CATALOGUE, AdvisorError, did_you_mean
from advisor.events import Cancel, Event, safely
from advisor.facts import words

EXIT_CODES = {v for k, v in vars(words).items() if k.startswith("EXIT_")}


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_code_is_kebab_case_explained_and_of_the_contract(code: str) -> None:
    entry = CATALOGUE[code]
    assert re.fullmatch(r"[a-z][a-z0-9-]+", code)
    assert entry.exit_code in EXIT_CODES - {0}
    assert entry.explanation.endswith(".")


def test_an_unknown_code_is_a_bug_at_once() -> None:
    with pytest.raises(KeyError):
        AdvisorError("no-such-code", "x")


def test_every_code_that_is_raised_is_in_the_catalogue() -> None:
    raised = set()
    for path in Path(errors.__file__).parent.rglob("*.py"):
        raised |= set(re.findall(r'AdvisorError\(\s*"([^"]+)"', path.read_text(encoding="utf-8")))
    assert raised <= set(CATALOGUE)
    assert len(raised) > 30


def test_near_misses() -> None:
    assert did_you_mean("lama", ["llama", "qwen"]) == ' Did you mean "llama"?'
    assert did_you_mean("zzz", ["llama"]) == ""


def test_a_broken_reporter_is_harmless() -> None:
    def broken(_: Event) -> None:
        raise ValueError

    safely(broken)(Event(kind="note", step="x"))
    safely(None)(Event(kind="note", step="x"))


def test_cancel_works_across_threads() -> None:
    cancel = Cancel()
    cancel.check()
    threading.Timer(0.01, cancel.set).start()
    assert cancel.wait(5.0)
    with pytest.raises(AdvisorError) as caught:
        cancel.check()
    assert caught.value.exit_code == words.EXIT_INTERRUPTED


def test_data_is_found_and_its_hash_does_not_depend_on_the_place(tmp_path: Path) -> None:
    assert datafiles.rules_dir().is_dir()
    files = datafiles.data_files(datafiles.rules_dir())
    assert files
    copies = []
    for file in files:
        copy = tmp_path / file.name
        copy.write_bytes(file.read_bytes())
        copies.append(copy)
    assert datafiles.content_hash(copies[::-1]) == datafiles.content_hash(files)
    copies[0].write_bytes(b"# changed\n" + copies[0].read_bytes())
    assert datafiles.content_hash(copies) != datafiles.content_hash(files)
