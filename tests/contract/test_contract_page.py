"""The examples of docs/contract.md keep the schemas, and its tables keep the code."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from advisor.cli.app import COMMANDS
from advisor.events import Event
from advisor.facts import words
from advisor.facts.base import Shape, from_json
from advisor.facts.machine import Machine
from advisor.facts.plan import Estimate, Plan, Rejected
from advisor.facts.quantity import Quantity
from advisor.facts.results import Artifact, Deployment, Receipt
from tests.support.documents import check, check_part

from .regenerate import DOCS

PAGE = (DOCS / "contract.md").read_text(encoding="utf-8")
BLOCKS: list[Any] = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
SHAPES: dict[str, type[Shape]] = {
    "quantity": Quantity,
    "machine": Machine,
    "plan": Plan,
    "rejected": Rejected,
    "estimate": Estimate,
    "artifact": Artifact,
    "deployment": Deployment,
    "receipt": Receipt,
}


def test_there_are_examples_of_every_shape() -> None:
    assert {key for block in BLOCKS for key in block} >= set(SHAPES) | {"schema", "error", "kind"}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: next(iter(block)))
def test_every_example_keeps_its_schema(block: dict[str, Any]) -> None:
    if "schema" in block:
        check(block, block["schema"].split("/")[1])
        return
    if "kind" in block:
        assert from_json(Event, block).to_json() == block
        return
    for key, value in block.items():
        for part in value if isinstance(value, list) else [value]:
            check_part(part, SHAPES[key])
            assert isinstance(from_json(SHAPES[key], part), SHAPES[key])


def test_a_wrong_example_would_be_found() -> None:
    plan = json.loads(json.dumps(next(block["plan"] for block in BLOCKS if "plan" in block)))
    plan["memory"]["total"] = {}
    with pytest.raises(jsonschema.ValidationError):
        check_part(plan, Plan)


def test_every_word_is_on_the_page() -> None:
    for vocabulary in (words.METHODS, words.RUNTIMES, words.GOALS, words.PLAIN_FORMATS):
        assert [word for word in vocabulary if f"`{word}`" not in PAGE] == []


def test_every_command_is_on_the_page() -> None:
    section = PAGE.split("## Commands")[1].split("## Shapes")[0]
    assert [name for name in COMMANDS if not re.search(rf"`{name}\b", section)] == []


def test_every_exit_code_is_on_the_page() -> None:
    section = PAGE.split("## Exit codes")[1].split("## Words")[0]
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    assert told == {value for name, value in vars(words).items() if name.startswith("EXIT_")}
