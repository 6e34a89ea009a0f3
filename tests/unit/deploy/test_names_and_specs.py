from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.deploy.manager import Deployments
from advisor.deploy.spec import LaunchSpec, check, slug, valid_name
from advisor.errors import AdvisorError
from advisor.facts.base import loads


def spec(**fields: Any) -> LaunchSpec:
    values: dict[str, Any] = {
        "name": "one",
        "plan_id": "p",
        "model": "m",
        "artifact": "a",
        "runtime": "llama.cpp",
        "argv": ("server",),
        "env": {},
        "port": 8080,
    }
    return LaunchSpec(**{**values, **fields})


@given(st.text(max_size=300))
def test_every_text_has_a_slug_that_is_a_valid_name(text: str) -> None:
    made = slug(text)
    assert valid_name(made)
    assert slug(made) == made


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("../../etc/passwd", "passwd"),
        ("; rm -rf ~", "rm-rf"),
        ("Ünïcode Modèl", "unicode-model"),
        ("部署", "model"),
        ("..", "model"),
    ],
)
def test_slugs(text: str, name: str) -> None:
    assert slug(text) == name
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", slug(text))


@pytest.mark.parametrize("name", ["", "..", ".locks", "-x", "a/b", "A", "a b", "a\n", "x" * 64, "é", "a\0"])
def test_bad_names_are_refused_everywhere(name: str, tmp_path: Path) -> None:
    deployments = Deployments(tmp_path)
    with pytest.raises(AdvisorError) as caught:
        check(spec(name=name))
    assert caught.value.code == "bad-option"
    assert valid_name(str(caught.value.hint).rsplit(" ", 1)[-1])
    for act in (deployments.get, deployments.stop, deployments.restart, deployments.forget, deployments.logs):
        with pytest.raises(AdvisorError) as caught:
            act(name)
        assert caught.value.code == "deployment-not-found"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"argv": ()},
        {"argv": ("",)},
        {"argv": ("a\0b",)},
        {"env": {"A=B": "x"}},
        {"env": {"A": "x\0"}},
        {"cwd": "a\0"},
        {"max_restarts": -1},
        {"restart_window_s": 0.0},
        {"backoff_s": -1.0},
        {"backoff_max_s": -1.0},
        {"ready_timeout_s": 0.0},
        {"ready_timeout_s": float("nan")},
        {"stop_grace_s": -1.0},
        {"log_max_bytes": 10},
        {"log_keep": -1},
        {"poll_s": 0.0},
        {"health_timeout_s": 0.0},
        {"health_path": "health"},
    ],
)
def test_what_cannot_be_carried_out_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(AdvisorError) as caught:
        check(spec(**fields))
    assert caught.value.code == "bad-option"


def test_a_specification_survives_its_file() -> None:
    one = spec(argv=("--help", "$(reboot)", "; rm -rf ~", "\u202eevil", "line\nbreak"), env={"A": "ü"}, cwd="/a b")
    assert loads(LaunchSpec, one.dumps()) == one
    check(one)
