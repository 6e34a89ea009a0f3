"""What engines have said of models' memory, kept: asked once for a model, a format, settings and a build of the engine.

A file a model and engine: ``answers/v1/ENGINE/MODEL.json`` in the cache. A damaged one counts as not there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from advisor.errors import AdvisorError
from advisor.facts.base import Shape, loads
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Settings as RunSettings
from advisor.facts.protocols import EngineAnswer, EngineOracle

if TYPE_CHECKING:
    from advisor.settings import Settings

FOLDER: Final = "answers/v1"
_MOST: Final = 400  # answers kept of one model and engine
# What does not change memory: where the model came from, what it is called, and how its own weights are stored.
_NAMES: Final = (
    *("name", "ref", "kind", "revision", "path", "license", "confidence", "source", "notes", "model_type"),
    *("weights_format", "weights_dtype", "weights_bytes", "source_types", "quantized_method", "quantized_format"),
    *("chat_template", "vision_params", "params", "active_params", "context_max"),
)


class Kept(Shape, frozen=True, kw_only=True):
    """One answer: bytes, as ``EngineAnswer`` has them."""

    kv_cache_bytes: int
    state_bytes: int
    compute_bytes: int
    output_bytes: int


class _File(Shape, frozen=True, kw_only=True):
    schema: str = "advisor/engine-answers/v1"
    answers: dict[str, Kept] = msgspec.field(default_factory=dict)


class Engine(NamedTuple):
    """Somebody who can be asked. ``name`` changes with the build; ``ask`` is the question."""

    name: str
    ask: EngineOracle


def model_key(model: ModelFacts) -> str:
    """A name of everything in the facts that decides memory, and of this version, which writes the header."""
    from advisor import __version__
    from advisor.model.tensors import tensors

    facts = {k: v for k, v in msgspec.to_builtins(model).items() if k not in _NAMES}
    shapes = [(t.name, t.shape, t.gguf_type) for t in tensors(model)]
    raw = msgspec.json.encode((__version__, facts, shapes), order="sorted")
    return hashlib.sha256(raw).hexdigest()[:24]


def question(fmt: str, settings: RunSettings) -> str:
    """A name of what was asked of the model."""
    s = settings
    return f"{fmt} {s.context} {s.parallel} {s.batch} {min(s.ubatch, s.batch)} {s.kv_type}"


class Answers:
    """A callable ``EngineOracle``: answers from the cache, and where ``may_ask`` from the engines themselves.

    ``engines`` is called when it is needed at all: finding them takes time. Their order is the order of trust.
    """

    def __init__(self, settings: Settings, engines: Callable[[], Sequence[Engine]], *, may_ask: bool = False) -> None:
        self._folder = Path(settings.paths.cache) / FOLDER
        self._engines, self._may_ask = engines, may_ask
        self._found: tuple[Engine, ...] | None = None
        self._keys: dict[int, tuple[ModelFacts, str]] = {}
        self._read: dict[tuple[str, str], _File] = {}
        self._known: dict[str, bool] = {}

    def __call__(self, model: ModelFacts, fmt: str, settings: RunSettings, /) -> EngineAnswer | None:
        """What serving ``model`` would take; ``None`` where nobody has said, or says.

        Raises:
            AdvisorError: ``interrupted``; ``env-failed`` where an engine that is asked is broken and no other one says.
        """
        key = self._key(model)
        if not self._may_ask and not self._heard_of(key):
            return None
        what = question(fmt, settings)
        for engine in self._all():
            if (kept := self._file(engine.name, key).answers.get(what)) is not None:
                return kept
        if not self._may_ask:
            return None
        broken: AdvisorError | None = None
        for engine in self._all():
            try:
                answer = engine.ask(model, fmt, settings)
            except AdvisorError as e:
                if e.code != "env-failed":
                    raise
                broken = e
                continue
            if answer is not None:
                self.keep(engine.name, model, fmt, settings, answer)
                return answer
        if broken is not None:
            raise broken
        return None

    def keep(self, engine: str, model: ModelFacts, fmt: str, settings: RunSettings, answer: EngineAnswer) -> None:
        """Keep an answer; a cache that cannot be written only costs asking again."""
        from advisor.execute.disk import make_folders, write_atomic

        key = self._key(model)
        one = Kept(
            kv_cache_bytes=answer.kv_cache_bytes,
            state_bytes=answer.state_bytes,
            compute_bytes=answer.compute_bytes,
            output_bytes=answer.output_bytes,
        )
        before = self._load(engine, key).answers
        before.pop(question(fmt, settings), None)
        kept = _File(answers=dict([*before.items(), (question(fmt, settings), one)][-_MOST:]))
        self._read[engine, key], self._known[key] = kept, True
        with suppress(AdvisorError, OSError):
            make_folders(self._folder / engine)
            write_atomic(self._folder / engine / f"{key}.json", kept.dumps())

    def _all(self) -> tuple[Engine, ...]:
        if self._found is None:
            self._found = tuple(self._engines())
        return self._found

    def _key(self, model: ModelFacts) -> str:
        found = self._keys.get(id(model))
        if found is None or found[0] is not model:
            found = self._keys[id(model)] = (model, model_key(model))
        return found[1]

    def _heard_of(self, key: str) -> bool:
        """Whether any engine ever said something of the model; looked up once."""
        if key not in self._known:
            self._known[key] = any(self._folder.glob(f"*/{key}.json"))
        return self._known[key]

    def _file(self, engine: str, key: str) -> _File:
        if (engine, key) not in self._read:
            self._read[engine, key] = self._load(engine, key)
        return self._read[engine, key]

    def _load(self, engine: str, key: str) -> _File:
        try:
            return loads(_File, (self._folder / engine / f"{key}.json").read_bytes())
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return _File()
