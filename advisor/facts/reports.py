"""What the library's functions answer where the answer is more than one shape: reports, listings, checks."""

from __future__ import annotations

from typing import Literal

from advisor.facts.base import Shape
from advisor.facts.bench import MeasuredEngine
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Goal, Plan, Rejected, Relaxation, SourceRef, Stage, Warning_
from advisor.facts.quantity import Quantity


class ProbeReport(Shape, frozen=True, kw_only=True):
    """The machine, what could not be read of it, and the engines whose speed was measured on it."""

    machine: Machine
    warnings: tuple[Warning_, ...] = ()
    measured: tuple[MeasuredEngine, ...] = ()


class RecommendReport(Shape, frozen=True, kw_only=True):
    """A recommendation with everything that it was made from, so that it can be replayed."""

    plans: tuple[Plan, ...]
    rejected: tuple[Rejected, ...]
    relaxations: tuple[Relaxation, ...]
    machine: Machine
    model: ModelFacts
    goal: Goal
    warnings: tuple[Warning_, ...] = ()
    candidates_considered: int = 0
    rules_hash: str = ""
    overlay_rules: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    candidates_possible: int = 0


ExplanationKind = Literal["plan", "rule", "error", "recommendation"]


class ExplanationPart(Shape, frozen=True, kw_only=True):
    """One part of an explanation: a heading and whole sentences."""

    title: str
    sentences: tuple[str, ...]


class Explanation(Shape, frozen=True, kw_only=True):
    """Why: of a kept plan, a rule, an error code or the last recommendation. ``details`` are whole sentences; ``parts``
    are the same, and what they leave out, under headings."""

    kind: ExplanationKind
    id: str
    title: str
    text: str
    details: tuple[str, ...] = ()
    sources: tuple[SourceRef, ...] = ()
    parts: tuple[ExplanationPart, ...] = ()


class RuleEffect(Shape, frozen=True, kw_only=True):
    """What a rule did when one model was planned for one machine and one goal.

    ``excluded``: ways to run the model that it ruled out, each counted for the first rule that did; ``ranks``: ranks of
    the plans that it spoke of; ``overridden_by``: rules that silenced it in some of them. ``text``: the same in a
    sentence.
    """

    excluded: int
    ranks: tuple[int, ...]
    overridden_by: tuple[str, ...]
    text: str


class RuleInfo(Shape, frozen=True, kw_only=True):
    """One rule of the selection guide. ``overlay``: it is the user's own; ``does``: its effect in words; ``effect``:
    what it did, where a model was named."""

    id: str
    name: str
    kind: str
    family: str
    because: str
    sources: tuple[SourceRef, ...] = ()
    overlay: bool = False
    file: str = ""
    layer: str = ""
    does: str = ""
    when: str = ""
    instead: tuple[str, ...] = ()
    effect: RuleEffect | None = None


class Coverage(Shape, frozen=True, kw_only=True):
    """In which situation each rule was first seen to fire; ``never``: rules that fire in none of them."""

    situations: tuple[str, ...]
    fired: dict[str, str]
    never: tuple[str, ...]


class Problem(Shape, frozen=True, kw_only=True):
    """One thing wrong with a rule or profile file; ``line`` counts from 1."""

    path: str
    line: int | None
    code: str
    message: str
    hint: str | None = None


class CachePart(Shape, frozen=True, kw_only=True):
    """One kind of what the cache holds: how many, and their bytes on the disk."""

    what: str
    items: int
    bytes: int


class CacheReport(Shape, frozen=True, kw_only=True):
    """``advisor cache``: what the cache at ``path`` holds and, after a collection, what went (or would go)."""

    path: str
    parts: tuple[CachePart, ...]
    freed_bytes: int | None
    removed: tuple[str, ...] = ()
    dry_run: bool = False


class EnvInfo(Shape, frozen=True, kw_only=True):
    """One managed environment. ``packages`` maps a distribution's name to its installed version.

    ``provider``: which provider of llama.cpp it is, where it is one. ``variant``: for which devices (``cpu``, ``cuda``,
    ``rocm``), ``None`` where there is one for all. ``built``: whole on disk; ``current``: of this version's pins;
    ``complete``: both. ``purpose``: what it is for. ``seconds``: how long building it took.
    """

    name: str
    path: str
    complete: bool
    bytes: int | None
    python: str | None
    packages: dict[str, str] = {}
    provider: str | None = None
    variant: str | None = None
    built: bool | None = None
    current: bool | None = None
    purpose: str | None = None
    seconds: float | None = None


class EnvOffer(Shape, frozen=True, kw_only=True):
    """An environment that this version can build, and the variant of it that this machine takes.

    ``variants``: all that there are; empty where there is one for all machines. ``bytes``: about what it takes on disk.
    ``built``: it is there, whole and current. ``needs``: what must be there that advisor cannot bring. ``why``: the
    reasons why devices of this machine are passed over by ``variant``.
    """

    name: str
    variant: str | None
    variants: tuple[str, ...]
    built: bool
    bytes: int
    purpose: str
    needs: tuple[str, ...] = ()
    why: tuple[str, ...] = ()


class ProviderInfo(Shape, frozen=True, kw_only=True):
    """One way to have llama.cpp on this machine.

    ``state``: ``works`` (it really served a model), ``untested`` (found, tried when it is first used), ``absent`` (can
    be installed or compiled), ``failed`` or ``refused``, with ``why``. ``backends``: what it drives, or would.
    ``features``: processor features that it uses.
    """

    provider: str
    state: str
    version: str | None
    backends: tuple[str, ...]
    path: str | None = None
    tools: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    why: str | None = None


class Check(Shape, frozen=True, kw_only=True):
    """One health check. ``ok`` is ``None`` where it does not apply or could not be found out."""

    name: str
    ok: bool | None
    message: str
    hint: str | None = None


class Runs(Shape, frozen=True, kw_only=True):
    """How a model runs on a machine: as GGUF ``format`` in llama.cpp, whole on its devices (on the host where there
    are none), with ``context`` tokens. ``fits`` is ``None`` where a memory is not known."""

    format: str
    context: int
    fits: bool | None
    memory: Quantity
    decode: Quantity | None


class HardwareInfo(Shape, frozen=True, kw_only=True):
    """One hardware profile. ``None``: the profile does not say (memory of a card that is sold in several sizes).

    ``sources``: of everything, then of single facts, ``key: source``. ``pci_ids``: vendor and device, with the revision
    or the subsystem where that tells products apart. ``runs``: the model that was asked about.
    """

    id: str
    name: str
    vendor: str
    memory_bytes: int | None
    bandwidth_bytes_per_s: int | None
    aliases: tuple[str, ...] = ()
    compute_capability: float | None = None
    formats: dict[str, str] = {}
    sources: tuple[str, ...] = ()
    arch: str | None = None
    cores: int | None = None
    pci_ids: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    runs: Runs | None = None


class ModelInfo(Shape, frozen=True, kw_only=True):
    """One model that advisor knows without a network: ``ref`` is what a command takes as MODEL. ``context_max``: the
    longest context that it was trained for. ``runs``: on the hardware that was asked about."""

    ref: str
    name: str
    params: int
    active_params: int | None = None
    architecture: str | None = None
    license: str | None = None
    context_max: int | None = None
    runs: Runs | None = None
