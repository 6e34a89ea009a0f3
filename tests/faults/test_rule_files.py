"""Rules, profiles and settings files that are damaged, hostile or contradictory: named by file and line, and the rest
still works."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor import settings
from advisor.cli.main import main
from advisor.errors import AdvisorError
from tests.unit.guide.rule_files import HEAD, rule, write

Ask = Callable[..., tuple[int, dict[str, Any]]]
OWN = HEAD.replace("layer: guide", "layer: user")


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Ask:
    """Run one command line with ``--json``: its exit code and its document."""

    def call(*words: str) -> tuple[int, dict[str, Any]]:
        capfd.readouterr()
        code = main([*words, "--json"])
        return code, json.loads(capfd.readouterr().out)

    return call


@pytest.fixture
def config() -> Path:
    folder = Path(os.environ["ADVISOR_HOME"]) / "config"
    folder.mkdir(parents=True)
    return folder


def bomb(n: int = 12) -> str:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join(rows + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, n)]) + "\n"


HOSTILE = {
    "bomb": (bomb(), 1, "anchors"),
    "twice": (OWN + "rules: []\n", OWN.count("\n") + 1, "twice"),
    "tab": ("schema: advisor/rules/v1\n\tfamily: x\n", 2, "tab"),
    "tag": ("schema: !!python/object/apply:os.system [ls]\n", 1, "tag"),
    "version": (OWN.replace("v1", "v7") + rule("USR-001"), 1, "advisor/rules/v7"),
    "fact": (OWN + rule("USR-001", when="{candidate.metod: awq}"), None, 'Did you mean "candidate.method"'),
    "unit": (OWN + rule("USR-001", when="{device.memory_usable_bytes: {lt: 24GB}}"), None, "25769803776 (24 GiB)"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_bad_rule_file_is_named_with_its_line_and_the_rest_works(ask: Ask, config: Path, kind: str) -> None:
    text, line, words = HOSTILE[kind]
    (config / "rules").mkdir()
    file = config / "rules" / "mine.yaml"
    file.write_text(text)
    write(config / "rules", "good.yaml", rule("USR-100"), head=OWN)
    code, document = ask("rules", "lint")
    assert code == 2
    (problem,) = [p for p in document["data"]["problems"] if "mine.yaml" in p["path"]]
    assert words in problem["message"]
    assert line is None or problem["line"] == line
    code, document = ask("recommend", "8B", "--hardware", "rtx-4090")
    assert code == 0
    assert document["data"]["plans"]
    (warning,) = [w for w in document["warnings"] if "mine.yaml" in w["message"]]
    assert words in warning["message"]
    code, document = ask("rules", "list")
    ids = {r["id"] for r in document["data"]["rules"]}
    assert {"USR-100", "RT-004"} <= ids


def test_a_huge_rule_file_is_not_read(ask: Ask, config: Path) -> None:
    (config / "rules").mkdir()
    with (config / "rules" / "huge.yaml").open("wb") as f:
        f.truncate(100 << 20)
    code, document = ask("rules", "lint", str(config / "rules"))
    assert code == 2
    assert "larger" in document["data"]["problems"][0]["message"]
    code, document = ask("recommend", "8B")
    assert code == 0
    assert any("huge.yaml" in w["message"] for w in document["warnings"])


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (
            [
                rule("USR-001", kind="set", key="quantize.samples", value="128"),
                rule("USR-002", kind="set", key="quantize.samples", value="512"),
            ],
            "both set quantize.samples",
        ),
        ([rule("USR-001", overrides="[USR-002]"), rule("USR-002", overrides="[USR-001]")], "circle"),
    ],
)
def test_contradictions_are_found_by_lint(ask: Ask, tmp_path: Path, rules: list[str], words: str) -> None:
    path = write(tmp_path / "mine", "mine.yaml", *rules, head=OWN)
    code, document = ask("rules", "lint", str(path))
    assert code == 2
    assert any(words in p["message"] for p in document["data"]["problems"])


def test_rules_that_exclude_everything_are_both_named(ask: Ask, config: Path) -> None:
    halves = {"gguf": "[gguf, none]", "rest": "[awq, gptq, w8a8, fp8, nvfp4, mxfp4, nf4, int8, hqq, rtn]"}
    rules = [
        rule(
            f"USR-00{n}",
            when=f"{{candidate.method: {methods}}}",
            examples=f"{{fires: [{{candidate.method: {fires}}}], silent: [{{candidate.method: {silent}}}]}}",
        )
        for n, (methods, fires, silent) in enumerate(
            [(halves["gguf"], "gguf", "awq"), (halves["rest"], "awq", "gguf")], 1
        )
    ]
    write(config / "rules", "mine.yaml", *rules, head=OWN)
    code, document = ask("recommend", "8B", "--hardware", "rtx-4090")
    assert (code, document["data"]["plans"]) == (3, [])
    said = json.dumps(document)
    assert "USR-001" in said
    assert "USR-002" in said
    assert {r["rule"] for r in document["data"]["rejected"]} >= {"USR-001", "USR-002"}


# ------------------------------------------------------------------------------ profiles


@pytest.mark.parametrize("kind", ["hardware", "models", "goals"])
@pytest.mark.parametrize("text", [bomb(), "id: x\nid: y\n", "id: !!python/object/apply:os.system [ls]\n", "[" * 5000])
def test_a_bad_profile_of_the_users_is_refused_by_name(ask: Ask, config: Path, kind: str, text: str) -> None:
    folder = config / "profiles" / kind
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(text)
    code, document = ask(kind, "list")
    assert (code, document["error"]["code"]) == (2, "bad-profile")
    assert "mine.yaml" in document["error"]["message"]


# ------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (bomb() + "port: *a11\n", "no setting 'a0'"),
        ("port: &a [1]\nhost: *a\n", "one value"),
        ("port: 1\nhost: x\nport: 2\n", "second time"),
        ("port: !!python/object/apply:os.system [ls]\n", "one value"),
        ("port: !!python/name:os.system ''\n", "python/name"),
        ("? [1]\n: 2\n", "no setting"),
        ("[" * 5000, ""),
        ("port: " + "9" * 70_000 + "\n", "larger than"),
        ("- 1\n", "names and values"),
        ("port: 1\n\xff\n", ""),
    ],
)
@pytest.mark.parametrize("place", ["project", "user"])
def test_a_bad_settings_file_is_named(tmp_path: Path, place: str, text: str, words: str) -> None:
    home = tmp_path / "home"
    file = tmp_path / "advisor.yaml" if place == "project" else home / "config" / "config.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(AdvisorError) as e:
        settings.load(env={"ADVISOR_HOME": str(home)}, project=tmp_path)
    assert e.value.code == "bad-settings-file"
    assert str(file) in e.value.message
    assert words in e.value.message
    assert len(e.value.message) < 1000


def test_the_line_of_a_bad_setting_is_told(tmp_path: Path) -> None:
    (tmp_path / "advisor.yaml").write_text("# mine\nport: 8081\nprot: 1\n")
    with pytest.raises(AdvisorError, match=r'advisor\.yaml:3: .*Did you mean "port"'):
        settings.load(env={"ADVISOR_HOME": str(tmp_path / "home")}, project=tmp_path)
