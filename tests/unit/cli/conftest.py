"""The command line with a library that answers at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import advisor.settings
from advisor import api
from advisor.cli.main import main
from tests.support import bench_samples, comparison, sample_lists, samples, suggestions


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Answers = dict[str, Callable[..., Any]]


def answers() -> Answers:
    """What the fake library says, by function."""
    deployment = samples.sample_deployment()
    return {
        "probe": lambda **_: samples.sample_probe(),
        "describe": lambda model, **_: samples.sample_model(ref=model),
        "recommend": lambda model=None, **_: samples.sample_recommendation(),
        "suggest": lambda **_: suggestions.sample_suggestions(),
        "memory_by_context": lambda model, choices, **_: suggestions.sample_curves(),
        "estimate": lambda model, **_: samples.sample_estimate(),
        "compare": lambda model=None, **_: comparison.sample_comparison(),
        "bench": lambda target=None, **_: bench_samples.sample_bench(),
        "forget_measured": lambda **_: Path("/home/me/measured/00ff.json"),
        "quantize": lambda model, **_: samples.sample_artifact(),
        "verify": lambda artifact, **_: samples.sample_verification(),
        "up": lambda model=None, **_: samples.sample_up(),
        "status": lambda name=None, **_: (deployment,),
        "deployments": lambda **_: (deployment,),
        "survey": lambda **_: ((deployment,), ()),
        "down": lambda name=None, **_: (samples.sample_deployment(state="stopped", pid=None),),
        "restart": lambda name, **_: deployment,
        "logs": lambda name, **_: ("one", "two"),
        "follow": lambda name, **_: iter(("one", "two")),
        "export": lambda format, what, **_: sample_lists.sample_export(format=format),
        "explain": lambda what=None, **_: sample_lists.sample_explanation(),
        "rules_list": lambda **_: (sample_lists.sample_rule(),),
        "rules_show": lambda rule_id, **_: sample_lists.sample_rule(id=rule_id),
        "rules_lint": lambda paths=(), **_: (),
        "rules_coverage": lambda **_: sample_lists.sample_coverage(),
        "own_rules": lambda **_: (),
        "env_list": lambda **_: (sample_lists.sample_env(),),
        "env_offers": lambda **_: sample_lists.sample_offers(),
        "env_providers": lambda **_: sample_lists.sample_providers(),
        "env_build": lambda name, **_: sample_lists.sample_env(name=name),
        "cache_info": lambda **_: sample_lists.sample_cache(),
        "cache_gc": lambda **_: sample_lists.sample_cache(freed=True),
        "env_remove": lambda name, **_: sample_lists.sample_env(name=name),
        "env_doctor": lambda name=None, **_: sample_lists.sample_checks(),
        "doctor": lambda **_: sample_lists.sample_checks(),
        "metrics": lambda **_: "# TYPE advisor_deployment_up gauge\n",
        "goals": lambda **_: (samples.sample_goal(),),
        "hardware": lambda words=(), **_: sample_lists.sample_hardware(),
        "hardware_show": lambda name, **_: sample_lists.sample_hardware()[0],
        "models": lambda words=(), **_: sample_lists.sample_models(),
        "paths": lambda settings=None: (settings or advisor.settings.load()).paths,
        "config": lambda settings=None: settings or advisor.settings.load(),
    }


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace functions of the library: ``fake(up=function)``."""

    def replace(**functions: Callable[..., Any]) -> None:
        for name, function in functions.items():
            monkeypatch.setattr(api, name, function, raising=False)

    replace(**answers())
    return replace


@pytest.fixture
def advise(fake: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run one command line in this process."""

    def call(*words: str) -> Outcome:
        capfd.readouterr()
        code = main(words)
        told = capfd.readouterr()
        return Outcome(code, told.out, told.err)

    return call
