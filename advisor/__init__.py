"""advisor: decides how a language model should be quantized and served on a machine, does it, and shows the proof.

``import advisor`` is cheap; everything is imported when it is first used::

    import advisor

    report = advisor.recommend("meta-llama/Llama-3.1-8B-Instruct", goal="chat")
    for plan in report.plans:
        print(plan.rank, plan.method, plan.format, plan.runtime, plan.memory.total.value)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advisor._version import __version__

if TYPE_CHECKING:
    from advisor.api import (
        bench,
        compare,
        deployments,
        describe,
        down,
        estimate,
        explain,
        export,
        logs,
        probe,
        quantize,
        recommend,
        restart,
        status,
        suggest,
        up,
        verify,
    )
    from advisor.errors import AdvisorError
    from advisor.events import Cancel, Event, Reporter

_API = (
    "bench",
    "compare",
    "deployments",
    "describe",
    "down",
    "estimate",
    "explain",
    "export",
    "logs",
    "probe",
    "quantize",
    "recommend",
    "restart",
    "status",
    "suggest",
    "up",
    "verify",
)
_OTHER = {
    "AdvisorError": "advisor.errors",
    "Cancel": "advisor.events",
    "Event": "advisor.events",
    "Reporter": "advisor.events",
}

__all__ = [
    "AdvisorError",
    "Cancel",
    "Event",
    "Reporter",
    "__version__",
    "bench",
    "compare",
    "deployments",
    "describe",
    "down",
    "estimate",
    "explain",
    "export",
    "logs",
    "probe",
    "quantize",
    "recommend",
    "restart",
    "status",
    "suggest",
    "up",
    "verify",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _API:
        return getattr(importlib.import_module("advisor.api"), name)
    if name in _OTHER:
        return getattr(importlib.import_module(_OTHER[name]), name)
    raise AttributeError(f"module 'advisor' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
