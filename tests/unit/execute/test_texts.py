from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.execute import texts
from advisor.execute.prompts import PROMPTS, incoherence


def paragraphs(text: str) -> set[str]:
    return {p for p in text.split("\n\n") if len(p) >= 60}


def test_bundled_texts_share_no_paragraph_and_suffice() -> None:
    calibration, verification = texts.calibration_text(), texts.verification_text()
    assert not paragraphs(calibration.text) & paragraphs(verification.text)
    assert len(calibration.text) > 120_000
    assert len(verification.text) > 60_000
    assert "Python 3." in verification.name
    assert verification.sha256 == hashlib.sha256(verification.text.encode()).hexdigest()
    assert not any(len(line) > 2 and set(line) <= set("*=-~") for line in calibration.text.splitlines())


def test_bundled_texts_are_always_the_same() -> None:
    first = texts._split()
    texts._bundled.cache_clear()
    assert texts._split() == first


def test_file_replaces_the_bundled_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("\ufeff" + "Ein längerer Satz.\r\n" * 400, encoding="utf-8")
    text = texts.calibration_text(path)
    assert text.name == "mine.txt"
    assert text.text.startswith("Ein")
    assert "\r" not in text.text
    assert texts.verification_text(path) == text


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"short", "5 characters"),
        (b"\xff\xfe" * 5000, "not UTF-8"),
        (b"a\0" * 5000, "zero bytes"),
        (b" " * 9000, "0 char"),
    ],
)
def test_unusable_files_are_refused(tmp_path: Path, raw: bytes, words: str) -> None:
    path = tmp_path / "t"
    path.write_bytes(raw)
    with pytest.raises(AdvisorError) as e:
        texts.read_text(path)
    assert e.value.code == "bad-option"
    assert words in e.value.message


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(AdvisorError) as e:
            texts.read_text(path)
        assert e.value.code == "file-not-found"


def test_prompts_cover_the_edge_cases() -> None:
    assert len({p.name for p in PROMPTS}) == len(PROMPTS)
    assert min(len(p.text) for p in PROMPTS) < 20
    assert 800 < max(len(p.text) for p in PROMPTS) < 1400
    assert {"code", "unusual-words", "other-script"} <= {p.name for p in PROMPTS}


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "  \n",
        "\ufffd" * 10,
        "ok \x00\x01\x02\x03",
        "aaaaaaaaaaaaaaaaaaaaaaaa",
        "!?" * 30,
        "the the " * 20,
        "\ue000" * 9,
    ],
)
def test_garbage_is_incoherent(garbage: str) -> None:
    assert incoherence(garbage)


@pytest.mark.parametrize(
    "text",
    [
        "Paris.",
        "2",
        "made of hydrogen and oxygen, and it is the most common liquid on Earth.",
        "    for i in range(2, n):\n        if n % i == 0:\n            return False\n    return True\n",
        "パリです。",
        "14, 16, 18, 20, 22, 24, 26, 28, 30, 32",
    ],
)
def test_text_is_coherent(text: str) -> None:
    assert incoherence(text) is None


@given(st.text(max_size=200))
def test_coherence_is_judged_for_any_text(text: str) -> None:
    assert incoherence(text) is None or text.strip() == "" or len(incoherence(text) or "") > 3
