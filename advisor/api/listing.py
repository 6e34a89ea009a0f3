"""Catalogues: what there is to choose from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Unpack

from advisor import datafiles
from advisor.api.context import load_settings, rule_pack
from advisor.api.options import PlanOptions
from advisor.errors import AdvisorError, did_you_mean, word_not_found
from advisor.facts.machine import Machine
from advisor.facts.plan import Goal, PlanRequest
from advisor.facts.reports import HardwareInfo, ModelInfo, Problem, RuleInfo, Runs

if TYPE_CHECKING:
    from advisor.guide.schema import Rule
    from advisor.settings import Paths, Settings

_NEAR: Final = re.compile(r'Did you mean "([^"]+)"')


def paths(*, settings: Settings | None = None) -> Paths:
    """Where advisor keeps its files."""
    return load_settings(settings).paths


def config(*, settings: Settings | None = None) -> Settings:
    """Every setting with its origin."""
    return load_settings(settings)


def goals(*, settings: Settings | None = None) -> tuple[Goal, ...]:
    """All goals, by id."""
    from advisor.planner import goals as catalogue

    s = load_settings(settings)
    found = catalogue.load(datafiles.overlay_dir(s.paths.config, "profiles/goals"))
    return tuple(found[k] for k in sorted(found))


def hardware(
    words: tuple[str, ...] = (),
    *,
    vendor: str | None = None,
    model: str | None = None,
    settings: Settings | None = None,
) -> tuple[HardwareInfo, ...]:
    """The hardware profiles, by id.

    Args:
        words: only profiles whose id, name or vendor have all of these in them, whatever the case.
        vendor: only this maker's.
        model: say how this model runs on each.

    Raises:
        AdvisorError: ``word-not-found`` for a vendor that there is not; for ``model`` as ``describe``.
    """
    from advisor.probes import catalog

    s = load_settings(settings)
    overlay = datafiles.overlay_dir(s.paths.config, "profiles/hardware")
    every = catalog.summaries(overlay)
    if vendor is not None and vendor.lower() not in (makers := sorted({str(p.vendor) for p in every})):
        raise word_not_found("vendor", vendor, makers, hint="advisor hardware list")
    found = [
        p
        for p in every
        if (vendor is None or p.vendor == vendor.lower()) and _has(words, f"{p.id} {p.name} {p.vendor}")
    ]
    runs: dict[str, Runs] = {}
    if model is not None:
        from advisor.api import suiting

        runs = suiting.on_each(model, tuple(p.id for p in found), s)
    return tuple(
        HardwareInfo(
            id=p.id,
            name=p.name,
            vendor=p.vendor,
            memory_bytes=p.memory_bytes,
            bandwidth_bytes_per_s=p.bandwidth_bytes_per_s,
            runs=runs.get(p.id),
        )
        for p in found
    )


def _has(words: tuple[str, ...], text: str) -> bool:
    return all(word.lower() in text.lower() for word in words)


def hardware_show(name: str, *, settings: Settings | None = None) -> HardwareInfo:
    """One hardware profile, by id, alias or the maker's name.

    Raises:
        AdvisorError: ``hardware-not-found`` with near misses.
    """
    from advisor.probes import catalog

    s = load_settings(settings)
    p = catalog.find(name, overlay=datafiles.overlay_dir(s.paths.config, "profiles/hardware"))
    return HardwareInfo(
        id=p.id,
        name=p.name,
        vendor=p.vendor,
        memory_bytes=p.memory_bytes,
        bandwidth_bytes_per_s=p.bandwidth_bytes_per_s,
        aliases=p.aliases,
        compute_capability=p.compute_capability,
        formats=dict(p.formats),
        sources=(p.source, *(f"{key}: {source}" for key, source in p.sources.items())),
        arch=p.arch,
        cores=p.cores,
        pci_ids=p.pci_ids,
        notes=p.notes,
    )


def models(
    words: tuple[str, ...] = (), *, hardware: str | None = None, settings: Settings | None = None
) -> tuple[ModelInfo, ...]:
    """The models with bundled facts, by id.

    Args:
        words: only models whose id, architecture or license have all of these in them, whatever the case.
        hardware: say how each runs on this (``rtx-4090``, ``rtx-3090:2``, ``cpu``, ``this``).

    Raises:
        AdvisorError: ``bad-profile``; ``hardware-not-found``.
    """
    from advisor.model import bundled

    s = load_settings(settings)
    overlay = datafiles.overlay_dir(s.paths.config, "profiles/models")
    found = {
        ref: entry
        for ref, entry in bundled.listed(overlay, strict=True).items()
        if _has(words, f"{ref} {entry.name or ''} {entry.architecture} {entry.license or ''}")
    }
    runs: dict[str, Runs] = {}
    if hardware is not None:
        from advisor.api import suiting

        runs = suiting.each_on({ref: entry.file for ref, entry in found.items()}, hardware, s)
    return tuple(
        ModelInfo(
            ref=ref,
            name=entry.name or ref,
            params=entry.params,
            active_params=entry.active_params,
            architecture=entry.architecture,
            license=entry.license,
            context_max=entry.context_max,
            runs=runs.get(ref),
        )
        for ref, entry in found.items()
    )


def rule_info(rule: Rule) -> RuleInfo:
    """What is told of one rule."""
    from advisor.guide.docs import condition_text, effect_text

    return RuleInfo(
        id=rule.id,
        name=rule.name,
        kind=rule.kind,
        family=rule.family,
        because=rule.because,
        sources=rule.sources,
        overlay=rule.overlay,
        file=f"{rule.file}:{rule.line}",
        layer=rule.layer,
        does=effect_text(rule),
        when=condition_text(rule.when),
        instead=rule.instead,
    )


def rules_list(
    model: str | None = None,
    *,
    machine: Machine | Path | None = None,
    settings: Settings | None = None,
    **options: Unpack[PlanOptions],
) -> tuple[RuleInfo, ...]:
    """All rules that are in force, by id; with ``model`` those that speak when it is planned for, and what they did.

    Args:
        model: a model.
        machine, options: as ``recommend``; they need a model.

    Raises:
        AdvisorError: ``contradictory-options`` for a machine or a wish without a model; with one as ``recommend``.
    """
    if model is not None:
        from advisor.api import ruling

        return ruling.rules_for(model, machine=machine, settings=settings, **options)
    usual = {"goal": PlanRequest().goal, "hardware": ()}
    if machine is not None or any(v != usual.get(k) and v not in (None, False) for k, v in options.items()):
        raise AdvisorError(
            "contradictory-options",
            "A machine, a goal or a wish decides rules together with a model only.",
            hint="advisor rules list --for 8B --hardware rtx-4090",
        )
    return tuple(rule_info(r) for r in rule_pack(load_settings(settings)).rules)


def rules_show(rule_id: str, *, settings: Settings | None = None) -> RuleInfo:
    """One rule.

    Raises:
        AdvisorError: ``rule-not-found``.
    """
    pack = rule_pack(load_settings(settings))
    rule = pack.get(rule_id) or pack.get(rule_id.upper())
    if rule is None:
        near = did_you_mean(rule_id, [r.id for r in pack.rules])
        raise AdvisorError("rule-not-found", f"There is no rule {rule_id!r}.{near}", hint="advisor rules list")
    return rule_info(rule)


def rules_lint(paths: tuple[Path, ...] = (), *, settings: Settings | None = None) -> tuple[Problem, ...]:
    """Everything wrong with the bundled rules and the user's own, or with the files and folders named.

    Raises:
        AdvisorError: ``file-not-found``.
    """
    from advisor.guide.load import lint
    from advisor.guide.overlays import project_file

    s = load_settings(settings)
    for path in paths:
        if not path.exists():
            raise AdvisorError("file-not-found", f"There is no file or folder {path}.")
    overlay = datafiles.overlay_dir(s.paths.config, "rules")
    places = paths or tuple(p for p in (datafiles.rules_dir(), overlay, project_file()) if p is not None)
    return tuple(
        Problem(
            path=p.file,
            line=p.line,
            code="bad-rules",
            message=f"{p.path}: {p.message}" if p.path else p.message,
            hint=_suggestion(p.message),
        )
        for p in lint(places)
    )


def _suggestion(message: str) -> str | None:
    """The nearest word that would have been right, where the message names one."""
    near = _NEAR.search(message)
    return f"write {near[1]}" if near is not None else None
