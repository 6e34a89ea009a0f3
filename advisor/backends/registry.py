"""All quantizers and runtimes by name. A new one is a file with a ``BACKEND`` in ``quantizers/`` or ``runtimes/``."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from advisor.errors import AdvisorError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from advisor.backends.base import Quantizer, Runtime


def _found(package: str) -> dict[str, Any]:
    parent = importlib.import_module(package)
    found: dict[str, Any] = {}
    for name in sorted(m.name for m in pkgutil.iter_modules(parent.__path__)):
        backend = getattr(importlib.import_module(f"{package}.{name}"), "BACKEND", None)
        if backend is None:
            continue
        if backend.name in found:
            raise AdvisorError("bug", f"Two backends are called {backend.name}.")
        found[backend.name] = backend
    return found


@cache
def runtimes() -> Mapping[str, Runtime]:
    """All runtimes, by the names of the contract."""
    return MappingProxyType(_found("advisor.backends.runtimes"))


@cache
def quantizers() -> Mapping[str, Quantizer]:
    """All quantizers, by the names of the contract."""
    return MappingProxyType(_found("advisor.backends.quantizers"))


def runtime(name: str) -> Runtime:
    """The runtime ``name``.

    Raises:
        AdvisorError: ``backend-not-found``.
    """
    if name not in runtimes():
        raise AdvisorError(
            "backend-not-found", f"There is no runtime {name!r}.{did_you_mean(name, sorted(runtimes()))}"
        )
    return runtimes()[name]


def quantizer_for(method: str, fmt: str) -> tuple[Quantizer, ...]:
    """Quantizers that make ``fmt`` of ``method``: executable ones first, then by name."""
    able = [q for q in quantizers().values() if q.capabilities().makes(method, fmt)]
    return tuple(sorted(able, key=lambda q: (not q.capabilities().executable, q.name)))
