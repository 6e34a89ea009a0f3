"""Rules as a person asks after them: those that speak of one model, and what each did."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor import api
from advisor.errors import AdvisorError
from advisor.guide.load import load_pack
from tests.unit.guide.rule_files import rule, write

CARD = {"hardware": ("rtx-4090",), "memory": 64 * 10**9}


def test_rules_that_speak_of_a_model_say_what_they_did() -> None:
    found = {r.id: r.effect for r in api.rules_list(model="meta-llama/Llama-3.1-8B-Instruct", **CARD)}
    plans = api.recommend("meta-llama/Llama-3.1-8B-Instruct", top=100, **CARD).plans
    awq, set_, out = found["GUIDE-001"], found["GUIDE-102"], found["RT-004"]
    assert awq is not None
    assert set_ is not None
    assert out is not None
    spoken = tuple(p.rank for p in plans if any(d.rule == "GUIDE-001" for d in p.decisions))
    assert awq.ranks == spoken
    assert "+0.3 on guide" in awq.text
    assert "quantize.samples = 64" in set_.text
    assert (out.excluded > 10, out.ranks) == (True, ())
    assert "ruled out" in out.text
    assert found["GUIDE-107"] is not None
    assert found["GUIDE-107"].overridden_by == ("GUIDE-102",)
    assert "GUIDE-070" not in found  # of Apple silicon
    assert all(effect is not None for effect in found.values())


def test_another_machine_lets_other_rules_speak() -> None:
    mac = {r.id for r in api.rules_list(model="8B", hardware=("m2-ultra-76",), memory=192 * 10**9)}
    assert {"GUIDE-070", "RT-017"} <= mac
    assert "GUIDE-001" not in mac
    accurate = {r.id for r in api.rules_list(model="8B", goal="accuracy", **CARD)}
    assert {"GUIDE-010", "GUIDE-005"} <= accurate


def test_without_a_model_all_rules_are_listed_in_full() -> None:
    found = {r.id: r for r in api.rules_list()}
    assert set(found) == {r.id for r in load_pack().rules}
    one = found["FMT-012"]
    assert one.effect is None
    assert one.layer == "facts"
    assert one.does == "Rules a candidate out"
    assert "device.compute_capability is below 8.9" in one.when
    assert one.instead


def test_a_machine_without_a_model_is_refused() -> None:
    with pytest.raises(AdvisorError, match="together with a model") as caught:
        api.rules_list(hardware=("rtx-4090",))
    assert caught.value.code == "contradictory-options"
    assert api.rules_list(goal="chat", hardware=(), no_download=False)


def test_words_of_a_request_are_checked() -> None:
    with pytest.raises(AdvisorError) as caught:
        api.rules_list(model="8B", method="awq", runtime="llama.cpp")
    assert (caught.value.code, caught.value.data["rule"]) == ("contradictory-options", "RT-004")
    with pytest.raises(TypeError, match="colour"):
        api.rules_list(model="8B", colour="red")  # type: ignore[call-arg]


def test_own_rules_are_told_with_their_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert api.own_rules() == ()
    monkeypatch.chdir(tmp_path)
    head = "schema: advisor/rules/v1\nfamily: mine\nrules:\n"
    write(tmp_path, "advisor-rules.yaml", rule("PRJ-001"), rule("PRJ-002", kind="exclud"), head=head)
    taking, broken = api.own_rules()
    assert (taking.code, broken.code) == ("own-rules", "bad-rules")
    assert "adds PRJ-001" in taking.message
    assert 'Did you mean "exclude"' in broken.message
    (problem,) = [p for p in api.rules_lint() if "PRJ" in p.message or "kind" in p.message]
    assert problem.path == str(tmp_path / "advisor-rules.yaml")
    assert problem.hint == "write exclude"
    assert {r.id for r in api.rules_list() if r.overlay} == {"PRJ-001"}
