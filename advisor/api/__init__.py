"""The facade: everything that advisor does, as typed functions. Imported piece by piece, when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from advisor.api.artifacts import quantize, verify
    from advisor.api.attending import at_boot, attend, check_boot, install_at_boot
    from advisor.api.benching import bench, forget_measured
    from advisor.api.caching import cache_gc, cache_info
    from advisor.api.charting import memory_by_context
    from advisor.api.comparing import compare
    from advisor.api.environments import env_build, env_doctor, env_list, env_offers, env_providers, env_remove
    from advisor.api.explaining import explain
    from advisor.api.exporting import export
    from advisor.api.health import doctor
    from advisor.api.listing import (
        config,
        goals,
        hardware,
        hardware_show,
        models,
        paths,
        rules_lint,
        rules_list,
        rules_show,
    )
    from advisor.api.planning import describe, estimate, probe, recommend
    from advisor.api.ruling import own_rules, rules_coverage
    from advisor.api.scraping import metrics, serve_metrics
    from advisor.api.serving import deployments, down, follow, logs, restart, status, survey
    from advisor.api.suggesting import suggest
    from advisor.api.supporting import support_bundle
    from advisor.api.upping import up

_WHERE: Final[dict[str, str]] = {
    "at_boot": "attending",
    "attend": "attending",
    "bench": "benching",
    "cache_gc": "caching",
    "cache_info": "caching",
    "check_boot": "attending",
    "compare": "comparing",
    "config": "listing",
    "deployments": "serving",
    "describe": "planning",
    "doctor": "health",
    "down": "serving",
    "env_build": "environments",
    "env_doctor": "environments",
    "env_list": "environments",
    "env_offers": "environments",
    "env_providers": "environments",
    "env_remove": "environments",
    "estimate": "planning",
    "explain": "explaining",
    "export": "exporting",
    "follow": "serving",
    "forget_measured": "benching",
    "goals": "listing",
    "hardware": "listing",
    "hardware_show": "listing",
    "install_at_boot": "attending",
    "logs": "serving",
    "memory_by_context": "charting",
    "metrics": "scraping",
    "models": "listing",
    "paths": "listing",
    "probe": "planning",
    "quantize": "artifacts",
    "recommend": "planning",
    "restart": "serving",
    "own_rules": "ruling",
    "rules_coverage": "ruling",
    "rules_lint": "listing",
    "rules_list": "listing",
    "rules_show": "listing",
    "serve_metrics": "scraping",
    "status": "serving",
    "suggest": "suggesting",
    "support_bundle": "supporting",
    "survey": "serving",
    "up": "upping",
    "verify": "artifacts",
}

__all__ = [
    "at_boot",
    "attend",
    "bench",
    "cache_gc",
    "cache_info",
    "check_boot",
    "compare",
    "config",
    "deployments",
    "describe",
    "doctor",
    "down",
    "env_build",
    "env_doctor",
    "env_list",
    "env_offers",
    "env_providers",
    "env_remove",
    "estimate",
    "explain",
    "export",
    "follow",
    "forget_measured",
    "goals",
    "hardware",
    "hardware_show",
    "install_at_boot",
    "logs",
    "memory_by_context",
    "metrics",
    "models",
    "own_rules",
    "paths",
    "probe",
    "quantize",
    "recommend",
    "restart",
    "rules_coverage",
    "rules_lint",
    "rules_list",
    "rules_show",
    "serve_metrics",
    "status",
    "suggest",
    "support_bundle",
    "survey",
    "up",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        import importlib

        return getattr(importlib.import_module(f"advisor.api.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'advisor.api' has no attribute {name!r}")
