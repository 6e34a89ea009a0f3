"""Schemas and the page of errors are what the code says; ``python -m tests.contract.regenerate`` renews them."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from advisor.errors import CATALOGUE, AdvisorError
from advisor.facts import schemas
from tests.support import samples
from tests.support.documents import check

from .regenerate import DOCS, pages


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_the_page_is_current(path: Path) -> None:
    assert path.read_bytes() == pages()[path]


def test_no_schema_is_left_over() -> None:
    assert {path.stem for path in (DOCS / "schemas").iterdir()} == set(schemas.names())


@pytest.mark.parametrize("name", schemas.names())
def test_schemas_are_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schemas.build(name))
    jsonschema.Draft202012Validator.check_schema(schemas.build(name, strict=True))


def _document() -> dict[str, object]:
    data = {"deployments": [json.loads(samples.sample_deployment().dumps())]}
    return {"schema": "advisor/status/v1", "advisor": "1", "data": data, "warnings": []}


def test_published_schemas_let_new_fields_pass_and_strict_ones_do_not() -> None:
    document = {**_document(), "new": 1}
    jsonschema.validate(document, json.loads((DOCS / "schemas" / "status.json").read_text()))
    with pytest.raises(jsonschema.ValidationError):
        check(document, "status")


def test_a_document_of_another_command_is_refused() -> None:
    check(_document(), "status")
    with pytest.raises(jsonschema.ValidationError):
        check({**_document(), "schema": "advisor/up/v1"}, "status")
    with pytest.raises(jsonschema.ValidationError):
        check(_document(), "up")


def test_every_error_links_to_its_entry() -> None:
    page = (DOCS / "errors.md").read_text()
    for code in CATALOGUE:
        file, anchor = AdvisorError(code, "x").docs.split("#")
        assert file == "docs/errors.md"
        assert f"\n## {anchor}\n" in page
