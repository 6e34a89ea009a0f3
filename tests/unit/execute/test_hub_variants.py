"""Ready-made artifacts: found, kept, offered beside our own, and held to what they claim to be."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import advisor
from advisor import settings
from advisor.api import ready_made
from advisor.errors import AdvisorError
from advisor.execute.hub import metadata, variants
from advisor.execute.hub.access import Access
from advisor.execute.hub.client import Hub
from advisor.execute.hub.record import Library
from advisor.execute.hub.variants import Variant, kind_of, look
from advisor.execute.steps import Steps
from advisor.facts.plan import Plan
from advisor.model.hubref import HubRef
from tests.support.fake_hub import FakeHub
from tests.support.fake_hub_models import CONFIG, QUICK, checkpoint, impatient, no_tokens, quantized

TAG = ("base_model:quantized:me/Tiny",)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    no_tokens(monkeypatch, tmp_path)
    with FakeHub() as hub, impatient(monkeypatch):
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add("me/Tiny", checkpoint(tmp_path / "tiny"))
        yield hub


def found(server: FakeHub, tmp_path: Path) -> tuple[Variant, ...]:
    hub, library = Hub(Access(server.endpoint), patience=QUICK), Library(tmp_path / "cache")
    return look(hub, library, metadata.resolve(hub, library, HubRef("me/Tiny")))


def add_gguf(server: FakeHub, tmp_path: Path, name: str, **about: Any) -> Path:
    folder = tmp_path / name.replace("/", "-")
    quantized(folder / "Tiny-Q8_0.gguf")
    quantized(folder / "Tiny-Q4_0.gguf", "q4_0")
    quantized(folder / "mmproj-Tiny-F16.gguf", "f16")
    (folder / "Tiny-imatrix.gguf").write_bytes(b"")
    server.add(name, folder, tags=TAG, **about)
    return folder


def test_what_there_is(server: FakeHub, tmp_path: Path) -> None:
    folder = add_gguf(server, tmp_path, "other/Tiny-GGUF", downloads=900, license="mit")
    awq = checkpoint(tmp_path / "awq")
    quant = {"quant_method": "awq", "bits": 4, "group_size": 128}
    (awq / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": quant}))
    server.add("me/Tiny-AWQ", awq, tags=TAG, downloads=5)
    server.add("else/Unrelated-GGUF", folder)
    got = found(server, tmp_path)
    assert [(v.repo, v.method, v.format, v.own) for v in got] == [
        ("me/Tiny-AWQ", "awq", "w4a16-g128", True),
        ("other/Tiny-GGUF", "gguf", "q4_0", False),
        ("other/Tiny-GGUF", "gguf", "q8_0", False),
    ]
    q8 = got[2]
    assert q8.ref == f"hf:other/Tiny-GGUF@{server.repos['other/tiny-gguf'].branches['main']}/Tiny-Q8_0.gguf"
    assert q8.bytes == (folder / "Tiny-Q8_0.gguf").stat().st_size
    assert (q8.publisher, q8.downloads, q8.license) == ("other", 900, "mit")
    assert got[0].bytes == (awq / "model.safetensors").stat().st_size
    asked = len(server.seen)
    assert found(server, tmp_path) == got
    assert len(server.seen) == asked + 1, "only the model itself was asked for again"


def test_split_files_count_once_and_only_whole(server: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    for n in (1, 2):
        quantized(folder / f"Tiny-Q8_0-0000{n}-of-00002.gguf")
    quantized(folder / "Tiny-Q6_K-00001-of-00002.gguf", "f16")
    server.add("me/Tiny-GGUF", folder, tags=TAG)
    (only,) = found(server, tmp_path)
    assert only.ref.endswith("/Tiny-Q8_0-00001-of-00002.gguf")
    assert only.bytes == sum((folder / f"Tiny-Q8_0-0000{n}-of-00002.gguf").stat().st_size for n in (1, 2))


def test_a_hub_that_cannot_be_searched_costs_nothing(server: FakeHub, tmp_path: Path) -> None:
    add_gguf(server, tmp_path, "me/Tiny-GGUF")
    server.fault("/api/models?", status=404)
    assert {v.format for v in found(server, tmp_path)} == {"q4_0", "q8_0"}, "the usual name is tried"
    other = tmp_path / "elsewhere"
    server.fault("Tiny-GGUF", status=503, headers={"Retry-After": "900"})
    assert found(server, other) == ()
    assert not list(other.rglob("variants.json")), "what failed is not kept"


@pytest.mark.parametrize("answer", ['{"a": 1}', "[1, null]", '[{"id": "../../x"}]', '[{"id": 7}]'])
def test_strange_answers_to_a_search(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    real = Hub.json
    monkeypatch.setattr(Hub, "json", lambda s, url, *a: json.loads(answer) if "filter=" in url else real(s, url, *a))
    assert found(server, tmp_path) == ()


def packed(weights: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights, **more}}}


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, ("gptq", "w4a16-g32")),
        ({"quant_method": "awq", "bits": "4", "group_size": 32}, None),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, None),
        ({"quant_method": "fp8"}, ("fp8", "fp8")),
        (packed({"num_bits": 8, "type": "float"}), ("fp8", "fp8")),
        (packed({"num_bits": 8, "type": "int"}, input_activations={"num_bits": 8}), ("w8a8", "w8a8")),
        (packed({"num_bits": 8, "type": "int"}), None),
        (packed({"num_bits": 4, "type": "int", "group_size": 128}), ("gptq", "w4a16-g128")),
        ({"quant_method": "compressed-tensors", "config_groups": []}, None),
        ({"quant_method": "bitsandbytes"}, None),
        ({}, None),
    ],
)
def test_what_a_configuration_says(said: dict[str, Any], kind: tuple[str, str] | None) -> None:
    assert kind_of(said, "x/y") == kind


WORDS = st.sampled_from(["awq", "compressed-tensors", "float", "weights", "num_bits", "type"])
ANYTHING = st.recursive(
    st.none() | st.integers() | WORDS,
    lambda x: st.lists(x, max_size=2) | st.dictionaries(WORDS, x, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["quant_method", "bits", "group_size", "config_groups"]), ANYTHING))
def test_any_configuration_has_a_kind_or_none(said: dict[str, Any]) -> None:
    kind = kind_of(said, "x/y")
    assert kind is None or kind[0] in ("awq", "gptq", "fp8", "w8a8")


def plans(model: str = "me/Tiny", **options: Any) -> list[Plan]:
    return list(advisor.recommend(model, format="q8_0", runtime="llama.cpp", method="gguf", **options).plans)


def test_the_publishers_own_goes_before_making_it(server: FakeHub, tmp_path: Path) -> None:
    folder = add_gguf(server, tmp_path, "me/Tiny-GGUF")
    first, second = plans()[:2]
    assert (first.source, second.source) == ("prequantized", "quantize")
    assert first.artifact is not None
    assert first.artifact.endswith("/Tiny-Q8_0.gguf")
    assert first.disk.download_bytes == (folder / "Tiny-Q8_0.gguf").stat().st_size
    assert first.time.quantize is not None
    assert first.time.quantize.value == 0
    assert (first.rank, second.rank) == (1, 2)
    assert first.id != second.id
    assert "the publisher of the model" in first.assumptions[0]
    assert plans()[0].id == first.id
    assert any("not held against the original" in a for a in first.warnings)


def test_anybody_elses_goes_after_it_unless_speed_is_all(server: FakeHub, tmp_path: Path) -> None:
    add_gguf(server, tmp_path, "other/Tiny-GGUF", downloads=12_345)
    assert [p.source for p in plans()[:2]] == ["quantize", "prequantized"]
    assert "12,345 downloads" in plans()[1].assumptions[0]
    assert [p.source for p in plans(goal="fastest-deployment")[:2]] == ["prequantized", "quantize"]


def test_nothing_is_asked_where_nothing_may_be_downloaded(server: FakeHub, tmp_path: Path) -> None:
    add_gguf(server, tmp_path, "me/Tiny-GGUF")
    advisor.recommend("me/Tiny", no_download=True)
    assert not any("filter=" in s.path for s in server.seen)
    assert all(p.source == "quantize" for p in plans(settings=settings.load({"offline": True})))


def test_the_artifact_is_fetched_and_is_what_was_planned(server: FakeHub, tmp_path: Path) -> None:
    folder = add_gguf(server, tmp_path, "me/Tiny-GGUF")
    s = settings.load()
    plan = plans()[0]
    made = ready_made.fetch(plan, advisor.describe("me/Tiny"), s, Steps())
    assert made.artifact.read_bytes() == (folder / "Tiny-Q8_0.gguf").read_bytes()
    assert made.reference is None
    assert "not held against the original" in made.notes[0]
    assert not any("model.safetensors" in x.path and "range" not in x.headers for x in server.seen if x.host == "cdn")


@pytest.mark.parametrize("wrong", [{"layers": 3}, {"types": "q4_0"}, {"ff": 4096}])
def test_an_artifact_of_something_else_is_not_fetched(server: FakeHub, tmp_path: Path, wrong: dict[str, Any]) -> None:
    folder = tmp_path / "wrong"
    quantized(folder / "Tiny-Q8_0.gguf", **wrong)
    server.add("me/Tiny-GGUF", folder, tags=TAG)
    plan = plans()[0]
    assert plan.source == "prequantized"
    sent = server.sent
    with pytest.raises(AdvisorError) as e:
        ready_made.fetch(plan, advisor.describe("me/Tiny"), settings.load(), Steps())
    assert (e.value.code, e.value.exit_code) == ("integrity", 7)
    assert "me/Tiny" in e.value.message
    assert not list((Path(os.environ["ADVISOR_HOME"]) / "cache" / "store").rglob("*.gguf"))
    assert server.sent - sent < 2 * (folder / "Tiny-Q8_0.gguf").stat().st_size


def test_the_deadline_holds(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_gguf(server, tmp_path, "me/Tiny-GGUF")
    monkeypatch.setattr(variants, "DEADLINE_S", -1.0)
    assert found(server, tmp_path) == ()
    assert not list((tmp_path / "cache").rglob("variants.json"))
