from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.model.hubref import HubRef, explicit, parse

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("org/name", HubRef("org/name")),
        ("org/Name-1.5_b@v2", HubRef("org/Name-1.5_b", "v2")),
        (f"org/name@{SHA}", HubRef("org/name", SHA)),
        ("org/name@refs/pr/3", HubRef("org/name", "refs/pr/3")),
        ("hf:org/name", HubRef("org/name")),
        ("hf://org/name", HubRef("org/name")),
        ("hf:gpt2", HubRef("gpt2")),
        ("hf:org/name@main", HubRef("org/name", "main")),
        ("hf:org/name/a.gguf", HubRef("org/name", None, "a.gguf")),
        ("hf:org/name/Q8_0/a-00001-of-00002.gguf", HubRef("org/name", None, "Q8_0/a-00001-of-00002.gguf")),
        (f"hf:org/name@{SHA}/a.gguf", HubRef("org/name", SHA, "a.gguf")),
        ("hf:org/name@refs/pr/3/sub/a.gguf", HubRef("org/name", "refs/pr/3", "sub/a.gguf")),
        ("https://huggingface.co/org/name", HubRef("org/name", None, None, "https://huggingface.co")),
        ("https://hf.co/org/name/tree/v2", HubRef("org/name", "v2", None, "https://hf.co")),
        ("https://m.example/org/name/blob/main/x.gguf", HubRef("org/name", "main", "x.gguf", "https://m.example")),
        ("https://m.example/org/name/tree/refs%2Fpr%2F1?x=1#y",
         HubRef("org/name", "refs/pr/1", None, "https://m.example")),
        ("./folder", None),
        ("8B", None),
        ("pypi:package", None),
        ("a/b/c", None),
        ("name", None),
    ],
)  # fmt: skip
def test_what_is_written(text: str, ref: HubRef | None) -> None:
    assert parse(text) == ref


@pytest.mark.parametrize(
    "text",
    [
        "hf:",
        "hf:org/name@",
        "hf:org/na--me",
        "org/na..me",
        "org/name.git",
        "org/name@a..b",
        "org/name@--upload",
        "org/name@main/x.gguf",
        "hf:org/name/../../etc/passwd.gguf",
        "hf:org/name/sub/model.safetensors",
        "hf:org/name/con.gguf",
        "hf:org name/x",
        "https://huggingface.co/org",
        "https://huggingface.co/datasets/org/name",
        "https://user:secret@huggingface.co/org/name",
        "https://huggingface.co/org/name/discussions/1",
        "https://huggingface.co/org/name/tree/main/folder",
    ],
)
def test_what_cannot_be(text: str) -> None:
    with pytest.raises(AdvisorError) as e:
        parse(text)
    assert e.value.exit_code in (4, 7)
    assert "secret" not in e.value.message


def test_a_commit_is_pinned_and_a_reference_can_be() -> None:
    assert HubRef("o/n", SHA).pinned
    assert not HubRef("o/n", "main").pinned
    assert not HubRef("o/n").pinned
    assert HubRef("o/old", "main").at("o/new", SHA) == f"o/new@{SHA}"
    assert parse(HubRef("o/n", None, "q/x.gguf").at("o/n", SHA)) == HubRef("o/n", SHA, "q/x.gguf")


def test_what_can_only_mean_the_hub() -> None:
    assert all(explicit(t) for t in ("hf:x", "https://h/o/n", "o/n@main"))
    assert not any(explicit(t) for t in ("o/n", "./o/n@main", "x@y", "pypi:x"))


@given(st.text(max_size=80) | st.text(max_size=80).map("hf:".__add__) | st.text(max_size=60).map("o/n@".__add__))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except AdvisorError as e:
        assert e.exit_code in (4, 7)
        assert "\x1b" not in e.message
    else:
        assert found is None or ".." not in found.repo
