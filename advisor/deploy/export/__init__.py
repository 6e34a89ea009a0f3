"""Exports of a plan, one module a format, each with an ``EXPORT`` of the protocol in ``base``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from advisor.deploy.export.base import Exporter
from advisor.errors import word_not_found


@cache
def formats() -> Mapping[str, Exporter]:
    """All formats by name."""
    found: dict[str, Exporter] = {}
    for name in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        exporter = getattr(importlib.import_module(f"{__name__}.{name}"), "EXPORT", None)
        if exporter is not None:
            found[exporter.name] = exporter
    return MappingProxyType(found)


def exporter(name: str) -> Exporter:
    """The exporter of a format.

    Raises:
        AdvisorError: ``word-not-found``.
    """
    if name not in formats():
        raise word_not_found("export format", name, tuple(formats()), hint="advisor export script NAME")
    return formats()[name]
