"""Checks documents against the strict schemas; each schema is built once."""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema

from advisor.facts import schemas
from advisor.facts.base import Shape


@cache
def _whole(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schemas.build(name, strict=True))


@cache
def _part(kind: type[Shape]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schemas.component(kind))


def check(document: Any, name: str) -> None:
    """Raise ``jsonschema.ValidationError`` unless ``document`` is what the command ``name`` may answer."""
    _whole(name).validate(document)


def check_part(data: Any, kind: type[Shape]) -> None:
    """The same for one shape alone."""
    _part(kind).validate(data)
