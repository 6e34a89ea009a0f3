"""The shapes and protocols that every quantizer and runtime answers to."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import msgspec

from advisor.facts.base import Shape
from advisor.facts.plan import Settings
from advisor.facts.recipe import Recipe
from advisor.facts.results import Finding

ANY_FORMAT = "*"


class RuntimeCapabilities(Shape, frozen=True, kw_only=True):
    """What a runtime loads and where.

    ``methods``: method -> formats, ``("*",)`` for every format of the method. ``devices``: device kinds, ``cpu`` or a
    vendor. ``executable``: this version of advisor can install and launch it. ``needs``: device kind -> what must be
    there first, in plain words; an empty tuple means nothing. ``min_compute_capability``: format or method ->
    NVIDIA compute capability below which it does not run.
    ``env``: the managed environment that it runs in, where there is one.
    """

    name: str
    methods: dict[str, tuple[str, ...]]
    devices: tuple[str, ...]
    executable: bool
    needs: dict[str, tuple[str, ...]]
    min_compute_capability: dict[str, float] = msgspec.field(default_factory=dict)
    openai_api: bool = True
    env: str | None = None

    def loads(self, method: str, fmt: str) -> bool:
        """Whether it loads ``fmt`` of ``method`` on any of its devices."""
        formats = self.methods.get(method, ())
        return fmt in formats or ANY_FORMAT in formats


class QuantizerCapabilities(Shape, frozen=True, kw_only=True):
    """What a quantizer makes. ``runs_on``: device kinds; ``needs``: what must be there first, in plain words.

    ``calibrates``: formats that it makes with calibration text; ``env``: the managed environment it runs in.
    """

    name: str
    methods: dict[str, tuple[str, ...]]
    executable: bool
    needs: tuple[str, ...]
    runs_on: tuple[str, ...]
    calibrates: tuple[str, ...] = ()
    env: str | None = None

    def makes(self, method: str, fmt: str) -> bool:
        """Whether it makes ``fmt`` of ``method``."""
        formats = self.methods.get(method, ())
        return fmt in formats or ANY_FORMAT in formats


class Command(Shape, frozen=True, kw_only=True):
    """An argument vector (never a shell line) and what to start it with. ``env`` adds to a scrubbed environment."""

    argv: tuple[str, ...]
    env: dict[str, str] = msgspec.field(default_factory=dict)
    cwd: str | None = None


class ServeRequest(Shape, frozen=True, kw_only=True):
    """What a runtime is to serve, where, and with what.

    ``model_path``: a file or a checkpoint folder; ``model_name``: what the API calls it. ``python``: the interpreter of
    the runtime's environment; ``runner``: the script that starts it, where the runtime has one (``Runtime.runner``).
    ``device``: the kind of device, ``cpu`` or a vendor. ``kv_cache_bytes``: what the plan grants the KV cache, for
    runtimes that set it aside at start. ``recipe``: for runtimes that quantize while they load. ``api_key_file`` holds
    the key; its value is in no command line. ``daemon``: the URL of a daemon that serves, where the runtime has one.
    """

    settings: Settings
    model_path: str
    model_name: str
    host: str
    port: int
    python: str
    runner: str = ""
    api_key_file: str | None = None
    method: str = "gguf"
    format: str = ""
    device: str = "cpu"
    kv_cache_bytes: int | None = None
    recipe: Recipe | None = None
    daemon: str | None = None


@runtime_checkable
class Quantizer(Protocol):
    """One way to make quantized weights.

    ``runner``: its script among ``execute/runners``; every one takes the same request (see
    ``advisor.execute.checkpoint``). ``None`` where it has a chain of its own (GGUF) or is only planned with.
    """

    name: str
    runner: str | None

    def capabilities(self) -> QuantizerCapabilities:
        """What it makes and what it needs."""
        ...

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe that the library cannot carry out, whatever the model.

        Raises:
            AdvisorError: ``illegal-recipe``: what, the value seen, and the nearest legal choice as a hint.
        """
        ...

    def diagnose(self, log_tail: str) -> Finding | None:
        """Name the failure that a log tail shows; ``None`` where it shows none that is known."""
        ...


@runtime_checkable
class Runtime(Protocol):
    """One way to serve weights. ``runner``: its script among ``execute/runners``, where it is started by one."""

    name: str
    health_path: str
    runner: str | None

    def capabilities(self) -> RuntimeCapabilities:
        """What it loads, where, and what it needs."""
        ...

    def serve(self, request: ServeRequest) -> Command:
        """The command that serves what is asked for; keys are named by file, never by value.

        Raises:
            AdvisorError: ``not-available`` where this version cannot launch the runtime.
        """
        ...

    def ready(self, status: int, body: bytes) -> bool:
        """Whether an answer of ``health_path`` means that requests are served."""
        ...

    def diagnose(self, log_tail: str) -> Finding | None:
        """Name the failure that a log tail shows; ``None`` where it shows none that is known."""
        ...
