"""Every command in every mode: one valid document, text that a person can read, the bare answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.facts import schemas
from tests.support import sample_lists, samples
from tests.support.documents import check

from .conftest import Outcome

Advise = Callable[..., Outcome]

# command line -> exit code, name of the document
LINES: dict[str, tuple[int, str]] = {
    "--version": (0, "version"),
    "probe": (0, "probe"),
    "recommend 8B": (0, "recommend"),
    "recommend": (0, "recommend"),
    "recommend --goal coding --top 3": (0, "recommend"),
    "recommend 8B --pareto": (0, "recommend"),
    "recommend 8B --preview": (0, "recommend"),
    "compare": (0, "compare"),
    "compare 8B --measure": (0, "compare"),
    "estimate 8B": (0, "estimate"),
    "bench": (0, "bench"),
    "bench a.gguf --depths 256,1k --threads 2,1 --repeat 2": (0, "bench"),
    "bench --forget": (0, "bench"),
    "quantize 8B": (0, "quantize"),
    "verify a.gguf": (0, "verify"),
    "up": (0, "up"),
    "status": (0, "status"),
    "status smollm2": (0, "status"),
    "down smollm2": (0, "down"),
    "down --all": (0, "down"),
    "restart smollm2": (0, "restart"),
    "logs smollm2": (0, "logs"),
    "export script smollm2": (0, "export"),
    "explain": (0, "explain"),
    "explain GUIDE-060": (0, "explain"),
    "rules list": (0, "rules-list"),
    "rules show GUIDE-060": (0, "rules-show"),
    "rules list --for 8B --hardware rtx-4090": (0, "rules-list"),
    "rules lint": (0, "rules-lint"),
    "rules coverage": (0, "rules-coverage"),
    "env list": (0, "env-list"),
    "env build llama.cpp": (0, "env-build"),
    "env remove llama.cpp --yes": (0, "env-remove"),
    "env doctor": (0, "env-doctor"),
    "cache info": (0, "cache-info"),
    "cache gc": (0, "cache-gc"),
    "cache gc --unused --yes": (0, "cache-gc"),
    "doctor": (0, "doctor"),
    "metrics": (0, "metrics"),
    "schema": (0, "schema"),
    "schema recommend": (0, "schema"),
    "paths": (0, "paths"),
    "config show": (0, "config-show"),
    "goals list": (0, "goals-list"),
    "hardware list": (0, "hardware-list"),
    "hardware list laptop --vendor nvidia --for 8B": (0, "hardware-list"),
    "hardware show rtx-4090": (0, "hardware-show"),
    "models list": (0, "models-list"),
    "models list qwen apache --for this": (0, "models-list"),
    "models show 8B": (0, "models-show"),
}


def test_every_document_is_tried() -> None:
    assert {name for _, name in LINES.values()} == set(schemas.DATA)


@pytest.mark.parametrize("line", LINES)
def test_json_is_one_document_that_keeps_its_schema(advise: Advise, line: str) -> None:
    code, name = LINES[line]
    done = advise(*line.split(), "--json")
    assert done.code == code, done.err
    document = json.loads(done.out)
    assert document["schema"] == f"advisor/{name}/v1"
    assert "error" not in document
    check(document, name)
    assert all(json.loads(text) for text in done.err.splitlines())


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("columns", ["20", "120"])
def test_people_get_text(advise: Advise, line: str, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    done = advise(*line.split())
    assert done.code == LINES[line][0], done.err
    assert done.out.strip()
    assert "\x1b" not in done.out + done.err
    raw_or_copied = ("schema", "up --dry-run", "recommend 8B --preview")
    if not line.startswith(raw_or_copied):
        # Only a word that no line could hold sticks out: an address, a path, an id is never cut.
        long = [text for text in done.out.splitlines() if len(text) > int(columns)]
        assert [text for text in long if max(map(len, text.split())) < int(columns) - 2] == []


def test_a_preview_shows_the_first_plan_with_its_commands(advise: Advise) -> None:
    plain, preview = advise("recommend", "8B").out, advise("recommend", "8B", "--preview").out
    assert "Preview of plan p-3f2a9c" not in plain
    _, shown = preview.split("Preview of plan p-3f2a9c")
    assert "By hand" in shown and "quantizing" in shown and "see the commands" not in shown
    assert advise("recommend", "8B", "--preview", "--json").out == advise("recommend", "8B", "--json").out


@pytest.mark.parametrize("line", LINES)
def test_verbose_says_no_less(advise: Advise, line: str) -> None:
    assert advise(*line.split(), "--verbose").code == LINES[line][0]


@pytest.mark.parametrize(
    "line", [line for line in LINES if line not in ("rules lint", "rules coverage", "doctor", "env doctor")]
)
def test_quiet_gives_the_bare_answer(advise: Advise, line: str) -> None:
    done = advise(*line.split(), "--quiet")
    assert done.code == LINES[line][0], done.err
    assert done.out.strip()


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("recommend 8B", "p-3f2a9c\np-0000aa\n"),
        ("up", "http://127.0.0.1:8080/v1\n"),
        ("up --dry-run", "http://127.0.0.1:8080/v1\n"),
        ("quantize 8B", "/models/smol.gguf\n"),
        ("verify a.gguf", "pass\n"),
        ("estimate 8B", f"{5 * samples.GIB}\n"),
        ("status", "smollm2 ready http://127.0.0.1:8080/v1\n"),
    ],
)
def test_the_bare_answers(advise: Advise, line: str, answer: str) -> None:
    assert advise(*line.split(), "-q").out == answer


@pytest.mark.parametrize("line", LINES)
def test_every_command_has_help_and_the_common_options(advise: Advise, line: str) -> None:
    words = line.split()
    words = (
        []
        if line == "--version"
        else words[: 2 if words[0] in ("rules", "env", "config", "goals", "hardware", "models") else 1]
    )
    done = advise(*words, "--help")
    assert done.code == 0
    for option in ("--json", "--quiet", "--verbose", "--yes", "--offline"):
        assert option in done.out


# ------------------------------------------------------------------ what reaches the library


def test_options_reach_the_library(advise: Advise, fake: Callable[..., None], tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def recommend(model: str | None = None, **options: Any) -> Any:
        seen.update(options, model=model)
        return samples.sample_recommendation()

    fake(recommend=recommend)
    words = (
        "8B --goal coding --context 32k --parallel 2 --hardware rtx-3090:2 --hardware cpu --memory 64GB --vram 24GiB"
    )
    words += " --bandwidth 1008GB/s --method AWQ --format Q4_K_M --runtime vLLM --kv-type q8_0 --min-tps 10"
    words += " --max-memory 20GB --min-quality 0.98 --within 1h30m --no-download --top 3 --total"
    words += f" --machine {tmp_path} --offline"
    assert advise("recommend", *words.split()).code == 0
    settings = seen.pop("settings")
    assert settings.offline
    assert settings.values["offline"].origin == "flag"
    made = ("bits", "group_size", "desc_act", "sym", "damp", "calibration", "samples", "adapter")
    made += ("smoothing", "static_activations", "double_quant", "layout")
    assert {seen.pop(name) for name in made} == {None}
    assert seen == {
        "model": "8B",
        "goal": "coding",
        "context": 32768,
        "parallel": 2,
        "hardware": ("rtx-3090:2", "cpu"),
        "memory": 64 * 10**9,
        "vram": 24 * samples.GIB,
        "bandwidth": 1008 * 10**9,
        "method": "awq",
        "format": "q4_k_m",
        "runtime": "vllm",
        "quantizer": None,
        "kv_type": "q8_0",
        "min_tps": 10.0,
        "max_memory": 20 * 10**9,
        "min_quality": 0.98,
        "within": 5400.0,
        "no_download": True,
        "top": 3,
        "machine": tmp_path,
        "threads": None,
        "model_facts": None,
        "pareto": False,
        "total": True,
    }


@pytest.mark.parametrize("line", LINES)
def test_the_library_takes_what_the_commands_pass(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real functions' signatures, not the fake ones'."""
    import inspect

    from advisor import api
    from advisor.cli.main import main

    from .conftest import answers

    called = []
    for name, answer in answers().items():
        signature = inspect.signature(getattr(api, name))

        def call(
            *given: Any, _name: str = name, _signature: Any = signature, _answer: Any = answer, **named: Any
        ) -> Any:
            _signature.bind(*given, **named)
            called.append(_name)
            return _answer(*given, **named)

        monkeypatch.setattr(api, name, call, raising=False)
    assert main([*line.split(), "--quiet"]) == LINES[line][0]
    assert called or line.startswith(("schema", "--version"))


def test_common_options_may_stand_before_the_command(advise: Advise) -> None:
    assert json.loads(advise("--json", "rules", "list").out)["schema"] == "advisor/rules-list/v1"
    assert json.loads(advise("rules", "--json", "list").out)["schema"] == "advisor/rules-list/v1"


# ------------------------------------------------------------------------------- exit codes


def test_nothing_fits_is_a_whole_document_and_exit_3(advise: Advise, fake: Callable[..., None]) -> None:
    fake(recommend=lambda model=None, **_: samples.sample_nothing_fits())
    done = advise("recommend", "70B", "--json")
    assert done.code == 3
    document = json.loads(done.out)
    assert document["data"]["plans"] == []
    assert document["data"]["relaxations"][0]["change"] == "context 131072 -> 32768"
    assert "error" not in document
    shown = advise("recommend", "70B")
    assert shown.code == 3
    assert "Nothing fits" in shown.out
    assert "context 131072 -> 32768" in shown.out


def test_a_failed_gate_is_exit_3(advise: Advise, fake: Callable[..., None]) -> None:
    bad = samples.sample_verification("fail")
    fake(
        verify=lambda artifact, **_: bad,
        quantize=lambda model, **_: samples.sample_artifact(verification=bad),
    )
    assert advise("verify", "a.gguf").code == 3
    assert advise("quantize", "8B").code == 3
    assert json.loads(advise("verify", "a.gguf", "--json").out)["data"]["verification"]["gate"]["verdict"] == "fail"


@pytest.mark.parametrize(
    ("state", "reason", "said"),
    [
        ("lost", "it ran before", "smollm2 is lost. Start it again: advisor restart smollm2"),
        ("failed", "it ended", "smollm2 is failed. Start it again: advisor restart smollm2"),
        ("ready", "its supervisor is gone", "but its supervisor is gone. As it was: advisor restart smollm2"),
        ("ready", None, None),
        ("stopped", "stopped as asked", None),
    ],
)
def test_status_says_what_to_type_where_something_is_wrong(
    advise: Advise, fake: Callable[..., None], state: Any, reason: str | None, said: str | None
) -> None:
    one = samples.sample_deployment(name="smollm2", state=state, reason=reason)
    fake(survey=lambda **_: ((one,), ()))
    out = " ".join(advise("status").out.split())
    assert (said in out) if said else ("advisor restart" not in out)


@pytest.mark.parametrize(("state", "code"), [("ready", 0), ("loading", 0), ("failed", 3), ("stopped", 3), ("lost", 3)])
def test_status_of_one_that_does_not_run_is_exit_3(
    advise: Advise, fake: Callable[..., None], state: str, code: int
) -> None:
    fake(status=lambda name=None, **_: (samples.sample_deployment(state=state, reason="ended"),))
    assert advise("status", "smollm2").code == code
    assert advise("status").code == 0


def test_problems_in_rules_are_exit_2(advise: Advise, fake: Callable[..., None]) -> None:
    fake(rules_lint=lambda paths=(), **_: (sample_lists.sample_problem(),))
    done = advise("rules", "lint")
    assert done.code == 2
    assert "rules/a.yaml:3: bad-rules: no such fact" in done.out
    assert len(json.loads(advise("rules", "lint", "--json").out)["data"]["problems"]) == 1


def test_a_failed_check_is_exit_5(advise: Advise, fake: Callable[..., None]) -> None:
    from advisor.facts.reports import Check

    bad = (Check(name="disk", ok=False, message="full", hint="advisor paths"),)
    fake(doctor=lambda **_: bad, env_doctor=lambda name=None, **_: bad)
    assert advise("doctor").code == 5
    assert advise("env", "doctor").code == 5
    assert advise("doctor", "-q").out == "disk: full\n"


def deployed(*states: str) -> Callable[..., Any]:
    found = tuple(samples.sample_deployment(name=f"d{i}", state=state) for i, state in enumerate(states))
    return lambda **_: (found, ())


@pytest.mark.parametrize("command", ["down", "restart", "logs"])
@pytest.mark.parametrize(("states", "name"), [(("ready",), "d0"), (("stopped", "loading"), "d1")])
def test_without_a_name_the_only_deployment_is_meant(
    advise: Advise, fake: Callable[..., None], command: str, states: tuple[str, ...], name: str
) -> None:
    meant: list[str | None] = []

    def one(name: str | None = None, **_: Any) -> Any:
        meant.append(name)
        done = samples.sample_deployment(name=name)
        return {"down": (done,), "restart": done, "logs": ("a line",)}[command]

    fake(survey=deployed(*states), **{command: one})
    done = advise(command)
    assert (done.code, meant) == (0, [name])
    assert f"{name}: the only deployment" in done.err


@pytest.mark.parametrize("command", ["down", "restart", "logs"])
def test_of_several_deployments_one_has_to_be_named(advise: Advise, fake: Callable[..., None], command: str) -> None:
    fake(survey=deployed("ready", "ready", "stopped"))
    done = advise(command)
    assert done.code == 2
    assert "d0 or d1" in done.err
    assert f"hint: advisor {command} d0" in done.err
    assert json.loads(advise(command, "--json").out)["error"]["data"]["names"] == ["d0", "d1"]


def test_what_is_stopped_still_has_a_log_and_can_be_restarted(advise: Advise, fake: Callable[..., None]) -> None:
    fake(survey=deployed("stopped"))
    assert advise("logs").out == "one\ntwo\n"
    assert advise("restart").code == 0
    assert advise("down").out == "Nothing is running.\n"


def test_without_any_deployment(advise: Advise, fake: Callable[..., None]) -> None:
    fake(survey=deployed())
    assert advise("down").code == 0
    assert [advise(command).code for command in ("logs", "restart")] == [4, 4]


def test_a_name_and_all_exclude_each_other(advise: Advise) -> None:
    assert advise("down", "a", "--all").code == 2


def test_the_version_is_a_document_wherever_the_option_stands(advise: Advise) -> None:
    for words in (("--version", "--json"), ("--json", "--version")):
        document = json.loads(advise(*words).out)
        assert document["schema"] == "advisor/version/v1"
        assert document["data"]["version"] == document["advisor"]
    assert advise("--version").out == f"advisor {document['advisor']}\n"


def test_schema_prints_the_committed_text(advise: Advise) -> None:
    assert advise("schema", "up").out == schemas.published("up").decode()
    done = advise("schema", "recomend")
    assert done.code == 4
    assert 'Did you mean "recommend"' in done.err


def test_logs_follow_is_a_stream(advise: Advise) -> None:
    done = advise("logs", "smollm2", "-f", "--json")
    assert [json.loads(line) for line in done.out.splitlines()] == [
        {"name": "smollm2", "line": "one"},
        {"name": "smollm2", "line": "two"},
    ]
    assert advise("logs", "smollm2", "-f").out == "one\ntwo\n"


def test_removing_needs_an_answer(advise: Advise) -> None:
    done = advise("env", "remove", "llama.cpp")
    assert done.code == 2
    assert "--yes" in done.err
    assert json.loads(advise("env", "remove", "llama.cpp", "--json").out)["error"]["code"] == "prompt-needs-terminal"
