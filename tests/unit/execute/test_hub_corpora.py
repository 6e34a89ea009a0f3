"""Texts to measure on from datasets of the hub."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from advisor import settings
from advisor.api import hubbing
from advisor.errors import AdvisorError
from advisor.execute.calibration import as_text, read_lines
from advisor.execute.hub.corpora import Corpus, parse
from advisor.execute.steps import Steps
from tests.support.fake_hub import FakeHub
from tests.support.fake_hub_models import impatient, no_tokens

TRAINING = "Other prose to calibrate on, which is never measured on. " * 200
PROSE = "Some prose that is long enough to be measured on. " * 200


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    no_tokens(monkeypatch, tmp_path)
    with FakeHub() as hub, impatient(monkeypatch):
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        folder = tmp_path / "texts"
        folder.mkdir()
        (folder / "prose.txt").write_text(PROSE)
        hub.add("me/Texts", folder, kind="datasets")
        yield hub


def get(words: str, offline: bool = False) -> Path:
    path = hubbing.text(words, settings.load({"offline": offline}), Steps())
    assert path is not None
    return path


def calibrated(words: str) -> Path:
    path = hubbing.text(words, settings.load({}), Steps(), use="calibration")
    assert path is not None
    return path


def refused(words: str, offline: bool = False) -> AdvisorError:
    with pytest.raises(AdvisorError) as e:
        get(words, offline)
    return e.value


def test_what_is_named() -> None:
    assert parse("./file.txt") is None
    assert parse("hf:datasets/a/b/c/d.txt") == Corpus("a/b", None, "c/d.txt")
    assert parse("hf:datasets/a/b@v1/d.raw") == Corpus("a/b", "v1", "d.raw")
    named = parse("wikitext-2")
    assert named is not None
    assert named.member == "wikitext-2-raw/wiki.test.raw"


@pytest.mark.parametrize(
    "words", ["hf:datasets/", "hf:datasets/a/b", "hf:datasets/a/b/x.parquet", "hf:datasets/a/b/../../x.txt"]
)
def test_what_cannot_be(words: str) -> None:
    with pytest.raises(AdvisorError) as e:
        parse(words)
    assert e.value.code in ("bad-option", "untrusted-model-path")


def test_a_text_is_fetched_once_and_kept(server: FakeHub) -> None:
    assert refused("hf:datasets/me/Texts/prose.txt", offline=True).code == "offline"
    path = get("hf:datasets/me/Texts/prose.txt")
    assert path.read_text() == PROSE
    asked = len(server.seen)
    assert get("hf:datasets/me/Texts/prose.txt", offline=True) == path
    assert len(server.seen) == asked


def test_records_are_calibrated_on_but_not_measured_on(server: FakeHub, tmp_path: Path) -> None:
    lines = [{"messages": [{"role": "user", "content": f"Tell me of {i}. " + PROSE[:200]}]} for i in range(30)]
    folder = tmp_path / "chats"
    folder.mkdir()
    (folder / "all.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    server.add("me/Chats", folder, kind="datasets")
    assert refused("hf:datasets/me/Chats/all.jsonl").code == "bad-option"
    path = calibrated("hf:datasets/me/Chats/all.jsonl")
    kind, read = read_lines(path)
    assert (kind, len(read)) == ("conversations", 30)
    assert "Tell me of 7." in as_text(path).text
    assert "messages" not in as_text(path).text


def test_wikitext_comes_out_of_its_archive(server: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "ci"
    folder.mkdir()
    with zipfile.ZipFile(folder / "wikitext-2-raw-v1.zip", "w") as z:
        z.writestr("wikitext-2-raw/wiki.test.raw", PROSE)
        z.writestr("wikitext-2-raw/wiki.train.raw", TRAINING)
    repo = server.add("ggml-org/ci", folder, kind="datasets")
    assert get("wikitext-2").read_text() == PROSE
    assert calibrated("wikitext-2").read_text() == TRAINING
    assert calibrated("wikitext-2").name == "wiki.train.raw"
    (folder / "wikitext-2-raw-v1.zip").write_bytes(b"no archive")
    repo.commit()
    for kept in (Path(settings.load().paths.store) / "artifacts").glob("text-*"):
        (kept / "wiki.test.raw").write_text("damaged")
    assert refused("wikitext-2").code == "integrity"


def test_what_is_not_there(server: FakeHub) -> None:
    assert refused("hf:datasets/me/Nothing/x.txt").code == "model-not-found"
    assert refused("hf:datasets/me/Texts/nothing.txt").code == "file-not-found"


def test_wrong_bytes(server: FakeHub) -> None:
    server.fault("/resolve/", corrupt=True, times=1)
    assert get("hf:datasets/me/Texts/prose.txt").read_text() == PROSE
    server.repos["me/texts"].folder.joinpath("other.txt").write_text(PROSE)
    server.repos["me/texts"].commit()
    server.fault("/resolve/", corrupt=True)
    assert refused("hf:datasets/me/Texts/other.txt").code == "integrity"


def test_files_stay_files(tmp_path: Path) -> None:
    s = settings.load()
    assert hubbing.text(tmp_path / "x", s, Steps()) == tmp_path / "x"
    assert hubbing.text("x.txt", s, Steps()) == Path("x.txt")
    assert hubbing.text(None, s, Steps()) is None
