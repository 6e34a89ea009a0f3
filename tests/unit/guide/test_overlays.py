"""Rules of one's own: a folder and a project's file add, disable and override, and every answer says so."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import msgspec
import pytest

from advisor import api, datafiles
from advisor.facts.base import dumps_any
from advisor.guide.engine import evaluate
from advisor.guide.load import lint, load_pack
from advisor.guide.overlays import PROJECT_FILE, disabling, project_file, told
from advisor.settings import load
from tests.unit.guide.rule_files import rule, write
from tests.unit.planner import planner_fakes as fakes
from tests.unit.planner.planner_run import plan

OWN = "schema: advisor/rules/v1\nfamily: mine\n{}rules:\n"


def setter(rule_id: str, value: str, **more: str) -> str:
    return rule(rule_id, kind="set", key="quantize.samples", value=value, **more)


def own(folder: Path, name: str, *rules: str, disable: str = "") -> Path:
    return write(folder, name, *rules, head=OWN.format(f"disable: {disable}\n" if disable else ""))


@pytest.mark.parametrize("rest", ["", "rules: []\n"])
def test_a_file_that_only_disables_needs_no_rules(tmp_path: Path, rest: str) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"schema: advisor/rules/v1\nfamily: mine\ntitle: Mine\ndisable: [GUIDE-060]\n{rest}", encoding="utf-8"
    )
    pack = load_pack(overlay=tmp_path)
    assert pack.problems == () and "GUIDE-060" not in {r.id for r in pack.rules}


def test_folder_and_project_take_part_and_are_named(tmp_path: Path) -> None:
    mine = own(tmp_path / "rules", "mine.yaml", setter("USR-001", "32", overrides="[GUIDE-102]"), disable="[GUIDE-111]")
    project = own(tmp_path, PROJECT_FILE, rule("PRJ-001", when="{candidate.runtime: tgi}"))
    pack = load_pack(overlay=tmp_path / "rules", project=project)
    assert pack.problems == ()
    assert told(pack) == (
        f"{project} takes part: it adds PRJ-001.",
        f"{mine} takes part: it adds USR-001, disables GUIDE-111 and overrides GUIDE-102.",
    )
    assert disabling(pack, "GUIDE-111") == (str(mine),)
    assert pack.get("GUIDE-111") is None
    outcome = evaluate(pack, {"candidate.method": "awq"})
    assert outcome.values["quantize.samples"] == 32
    assert outcome.overridden["GUIDE-102"] == "USR-001"


def test_an_id_of_both_is_the_projects(tmp_path: Path) -> None:
    own(tmp_path / "rules", "mine.yaml", setter("USR-001", "32"))
    project = own(tmp_path, PROJECT_FILE, setter("USR-001", "48"))
    pack = load_pack(overlay=tmp_path / "rules", project=project)
    found = pack.get("USR-001")
    assert found is not None
    assert (found.value, found.file) == (48, str(project))
    (problem,) = pack.problems
    assert problem.message == f"the id USR-001 is taken by {project}:{found.line}"


def test_an_id_of_the_guide_is_not_replaced_but_the_way_to_do_it_is_told(tmp_path: Path) -> None:
    project = own(tmp_path, PROJECT_FILE, setter("GUIDE-102", "48"), setter("RT-004", "48"))
    pack = load_pack(project=project)
    assert [p.message.partition("; ")[2] for p in pack.problems] == [
        "take an id of your own and write overrides: [GUIDE-102]",
        "",  # a fact cannot be overridden either
    ]
    assert all(not r.overlay for r in pack.rules)


def test_a_broken_file_is_named_with_its_line_and_a_suggestion_and_the_rest_works(tmp_path: Path) -> None:
    project = own(
        tmp_path,
        PROJECT_FILE,
        rule("PRJ-001", when="{candidate.runtim: tgi}"),
        rule("PRJ-002", when="{candidate.runtime: tgi}"),
        disable="\n  - GUIDE-111\n  - GUIDE-99\n  - RT-004",
    )
    pack = load_pack(project=project)
    assert [(p.file, p.line) for p in pack.problems] == [(str(project), 5), (str(project), 6), (str(project), 11)]
    unknown, fact, key = (p.message for p in pack.problems)
    assert 'Did you mean "GUIDE-' in unknown
    assert "facts cannot be disabled" in fact
    assert 'Did you mean "candidate.runtime"' in key
    assert pack.overlays[0].adds == ("PRJ-002",)
    assert pack.disabled == ("GUIDE-111",)
    assert {r.id for r in pack.rules} >= {"PRJ-002", "RT-004"}


def test_a_file_without_effect_is_not_named(tmp_path: Path) -> None:
    own(tmp_path / "rules", "broken.yaml", rule("USR-001", kind="exclud"))
    assert told(load_pack(overlay=tmp_path / "rules")) == ()
    assert told(load_pack()) == ()


def test_the_cache_knows_files_of_the_same_text_apart(tmp_path: Path) -> None:
    texts = setter("USR-001", "32")
    one, two = (own(tmp_path / name / "rules", "mine.yaml", texts) for name in ("one", "two"))
    packs = [load_pack(overlay=p.parent, cache_dir=tmp_path / "cache") for p in (one, two, one)]
    assert [p.overlays[0].file for p in packs] == [str(one), str(two), str(one)]
    assert packs[0] == packs[2]


def test_own_files_are_linted_against_the_guide(tmp_path: Path) -> None:
    good = own(tmp_path, "good.yaml", setter("USR-001", "32", overrides="[GUIDE-102]"), disable="[GUIDE-111]")
    assert lint([good]) == ()
    bad = own(tmp_path, "bad.yaml", setter("USR-001", "32", overrides="[RT-004]"), disable="[GUIDE-11]")
    assert [p.path for p in lint([bad])] == ["disable", "USR-001.overrides"]
    assert {p.file for p in lint([bad])} == {str(bad)}


def test_the_projects_file_lies_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert project_file() is None
    (tmp_path / PROJECT_FILE).mkdir()
    assert project_file() is None
    (tmp_path / PROJECT_FILE).rmdir()
    own(tmp_path, PROJECT_FILE, rule("PRJ-001", when="{candidate.runtime: [vllm, llama.cpp]}"))
    assert project_file() == tmp_path / PROJECT_FILE
    found = api.recommend("8B", hardware=("rtx-4090",), memory=64 * 10**9)
    assert {p.runtime for p in found.plans} & {"vllm", "llama.cpp"} == set()
    assert found.overlay_rules == ("PRJ-001",)
    (warning,) = [w for w in found.warnings if w.code == "own-rules"]
    assert warning.message == f"{tmp_path / PROJECT_FILE} takes part: it adds PRJ-001."
    for answer in (api.estimate("8B"), api.suggest(top=1)):
        assert warning in answer.warnings


def test_a_rule_that_is_disabled_is_explained_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own(tmp_path, PROJECT_FILE, rule("PRJ-001"), disable="[GUIDE-111]")
    said = api.explain("guide-111", settings=load())
    assert said.text.startswith(f"It takes no part: {tmp_path / PROJECT_FILE} disables it.")
    assert "group" in said.details[0]


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_files_and_rules_give_the_same_bytes(tmp_path: Path, seed: int) -> None:
    """Bundled files under other names, own rules in another order and another file: one recommendation."""
    rng = random.Random(seed)
    texts = [setter("USR-001", "32"), rule("USR-002", when="{candidate.runtime: tgi}"), rule("USR-003", kind="prefer",
             score="guide", weight="0.2", when="{candidate.method: gptq}",
             examples="{fires: [{candidate.method: gptq}], silent: [{candidate.method: awq}]}")]  # fmt: skip

    def pack(n: int) -> bytes:
        bundled, mine = tmp_path / f"b{n}", tmp_path / f"m{n}"
        bundled.mkdir()
        files = datafiles.data_files(datafiles.rules_dir())
        rng.shuffle(files)
        for i, path in enumerate(files):
            shutil.copy(path, bundled / f"{i}.yaml")
        rng.shuffle(texts)
        own(mine, "a.yaml", *texts[: n + 1])
        if n < 2:
            own(mine, "z.yaml", *texts[n + 1 :])
        found = plan(8.0, fakes.rtx_4090(), pack=load_pack(bundled=bundled, overlay=mine), top=20)
        assert found.overlay_rules
        names = tuple(w for w in found.warnings if w.code == "own-rules")  # they name the files, which differ
        return dumps_any(
            msgspec.structs.replace(found, rules_hash="", warnings=tuple(w for w in found.warnings if w not in names))
        )

    assert pack(0) == pack(1) == pack(2)


def test_the_rule_in_the_readme_is_one(tmp_path: Path) -> None:
    readme = (datafiles.rules_dir().parent / "README.md").read_text(encoding="utf-8")
    (block,) = [b.split("```")[0] for b in readme.split("```yaml\n")[1:] if "advisor/rules/v1" in b]
    (tmp_path / "mine.yaml").write_text(block, encoding="utf-8")
    pack = load_pack(overlay=tmp_path)
    assert pack.problems == ()
    assert next(r for r in pack.rules if r.id == "OWN-001").overlay
    assert lint(overlay=tmp_path) == ()
