"""A plan and the reasons for it: the shapes of ``advisor recommend``."""

from __future__ import annotations

import re
from typing import Final, Literal

from advisor.facts.base import Shape
from advisor.facts.quantity import Quantity
from advisor.facts.recipe import RecipeOptions
from advisor.facts.words import MethodName, PlanStatus, RuntimeName, mixed

Effect = Literal["exclude", "require", "set", "prefer", "warn"]
_WEIGHT: Final = re.compile(r"[+-][\d.]+(?:e[+-]?\d+)?$")


class Settings(Shape, frozen=True, kw_only=True):
    """What the runtime is started with. ``context`` is in tokens for all ``parallel`` slots together.

    ``gpu_layers`` counts layers on the devices, ``cpu_moe_layers`` layers whose experts stay on the host.
    ``load_mode`` is llama.cpp's: ``mmap`` maps the file, ``none`` reads it, so that weights that are repacked for the
    CPU are in memory once.
    """

    context: int
    parallel: int = 1
    kv_type: str = "f16"
    gpu_layers: int = 0
    threads: int | None = None
    batch: int = 2048
    ubatch: int = 512
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    tensor_split: tuple[float, ...] | None = None
    cpu_moe_layers: int = 0
    load_mode: str | None = "mmap"
    gpu_memory_utilization: float | None = None


class Commands(Shape, frozen=True, kw_only=True):
    """Argument vectors, for people: the same work by hand. Paths that do not exist yet stand in angle brackets."""

    quantize: tuple[tuple[str, ...], ...] = ()
    serve: tuple[tuple[str, ...], ...] = ()


class Memory(Shape, frozen=True, kw_only=True):
    """Bytes that must be there while serving, by what they are for and by device key (``host``, ``gpu0`` ...)."""

    weights: Quantity
    kv_cache: Quantity
    state: Quantity
    compute: Quantity
    output: Quantity
    repack: Quantity
    overhead: Quantity
    total: Quantity
    reserved: Quantity | None
    by_device: dict[str, Quantity]


class Speed(Shape, frozen=True, kw_only=True):
    """Tokens per second of one request: prefill of a prompt, decode at short depth. ``None``: not known."""

    prefill: Quantity | None
    decode: Quantity | None


class Quality(Shape, frozen=True, kw_only=True):
    """Against the 16-bit model: mean KL divergence in nats, perplexity ratio, recovery of task scores."""

    kld: Quantity | None
    perplexity_ratio: Quantity | None
    recovery: Quantity | None


class Time(Shape, frozen=True, kw_only=True):
    """Seconds: fetching the weights, quantizing (conversion and importance matrix included), start to ready."""

    fetch: Quantity | None
    quantize: Quantity | None
    start: Quantity | None


class Disk(Shape, frozen=True, kw_only=True):
    """``peak_bytes`` counts every file that exists at once while the plan is carried out."""

    download_bytes: int | None
    peak_bytes: int | None


class SourceRef(Shape, frozen=True, kw_only=True):
    """A citation: a guide text (``doc``, ``section``) or a titled document."""

    doc: str | None = None
    section: str | None = None
    title: str | None = None
    version: str | None = None
    url: str | None = None


class Decision(Shape, frozen=True, kw_only=True):
    """One rule that spoke, what it did and why. ``overlay`` marks a user's own rule.

    ``measured`` has one line for each comparison of numbers that decided it, with the difference.
    """

    rule: str
    effect: Effect
    because: str
    sources: tuple[SourceRef, ...] = ()
    target: str | None = None
    overlay: bool = False
    measured: tuple[str, ...] = ()

    @property
    def weight(self) -> float | None:
        """What a ``prefer`` rule adds to a score, as ``target`` says (``guide-0.3``); below zero it speaks against."""
        found = _WEIGHT.search(self.target or "") if self.effect == "prefer" else None
        return float(found[0]) if found is not None else None


class Plan(Shape, frozen=True, kw_only=True):
    """One way to run the model. ``status`` is judged against the named machine, ``executable_here`` against this.

    ``parameters`` are what the rules set for the quantizer (``quantize.desc_act``, ``quantize.samples`` ...);
    ``devices`` the device keys it runs on; ``terms`` are the parts of the score, each from 0 to 1 before the goal
    weighs it, and ``guide``, which the rules add. ``artifact`` names the ready-made artifact of a ``prequantized`` plan
    with its commit. ``making_memory``: bytes of host memory that making a checkpoint takes at its peak.
    ``tensor_types``: of a GGUF file, types of named tensors beside those that ``format`` gives, as ``llama-quantize
    --tensor-type`` takes them (``ffn_down=q6_k``).
    ``against_next``: what the plan gains and costs against the next best one, in figures.
    """

    id: str
    rank: int
    status: PlanStatus
    executable_here: bool
    needs: tuple[str, ...]
    model: str
    method: MethodName
    format: str
    quantizer: str | None
    runtime: RuntimeName
    source: Literal["quantize", "as-is", "load-time", "prequantized"]
    imatrix: bool
    settings: Settings
    commands: Commands
    memory: Memory
    speed: Speed
    quality: Quality
    time: Time
    disk: Disk
    score: float
    decisions: tuple[Decision, ...]
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    parameters: dict[str, str | bool | int | float] = {}
    devices: tuple[str, ...] = ()
    terms: dict[str, float] = {}
    artifact: str | None = None
    making_memory: Quantity | None = None
    against_next: str = ""
    tensor_types: tuple[str, ...] = ()

    @property
    def made_as(self) -> str:
        """The format with the types of named tensors, as one word: ``q4_k_m:ffn_down=q6_k``."""
        return mixed(self.format, self.tensor_types)


class Rejected(Shape, frozen=True, kw_only=True):
    """A candidate that was dropped: by which rule, why, by how many bytes it is short, and what to take instead.

    ``misses``: each limit that it misses, with the figures, where nothing but limits stood against it; ``devices``:
    where it would have run. ``instead`` names only what is legal here.
    """

    method: MethodName
    format: str
    runtime: RuntimeName
    rule: str
    because: str
    short_by: int | None
    instead: tuple[str, ...]
    misses: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


# What a relaxation gives up, the least first.
GivesUp = Literal["nothing", "choice", "limit", "capacity", "deployment", "hardware", "much-capacity", "model"]


class Occupant(Shape, frozen=True, kw_only=True):
    """A running deployment whose memory is wanted. ``holds``: bytes by device key, as it was promised or measured;
    ``started_at`` is ``None`` while it starts; ``command`` ends it."""

    name: str
    model: str
    plan_id: str
    started_at: str | None
    holds: dict[str, int]
    command: str


class Relaxation(Shape, frozen=True, kw_only=True):
    """One thing moved so that a plan exists, and that plan, found by really planning again.

    ``gives_up``: what kind of thing is given up; ``command`` asks again with the change, ``None`` where no command line
    says it. ``deployments``: those that would have to be ended, the fewest that make room for the plan.
    """

    change: str
    plan: Plan
    gives_up: GivesUp = "choice"
    command: str | None = None
    deployments: tuple[Occupant, ...] = ()


class Goal(Shape, frozen=True, kw_only=True):
    """What the user is after. Weights are of a score's terms and sum to one; targets are floors; ``reasons`` say why,
    by the names of the fields."""

    id: str
    description: str
    context: int
    parallel: int
    min_decode_tps: float | None
    weights: dict[str, float]
    because: str
    sources: tuple[SourceRef, ...] = ()
    reasons: dict[str, str] = {}


class PlanRequest(Shape, frozen=True, kw_only=True):
    """What the user asked for beyond the model; ``None`` leaves the choice to advisor.

    ``recipe``: values of the quantizer; ``calibration``: a file to calibrate on; ``adapter``: a folder with a LoRA
    adapter that is merged into the weights first; ``pareto``: only plans that no other one beats in quality, speed and
    memory together; ``threads`` of the runtime on the host.
    """

    goal: str = "chat"
    context: int | None = None
    parallel: int | None = None
    method: str | None = None
    format: str | None = None
    runtime: str | None = None
    quantizer: str | None = None
    kv_type: str | None = None
    min_tps: float | None = None
    max_memory_bytes: int | None = None
    min_quality: float | None = None
    within_s: float | None = None
    no_download: bool = False
    top: int = 5
    recipe: RecipeOptions = RecipeOptions()
    calibration: str | None = None
    adapter: str | None = None
    pareto: bool = False
    threads: int | None = None


class ModelSummary(Shape, frozen=True, kw_only=True):
    """The model as ``estimate`` and ``recommend`` show it."""

    name: str
    params: int
    active_params: int
    architecture: str
    layers: int
    confidence: str
    source: str


class Warning_(Shape, frozen=True, kw_only=True):
    """A warning of the envelope."""

    code: str
    message: str


class Stage(Shape, frozen=True, kw_only=True):
    """Candidates before and after one stage of pruning: ``runtime`` (each a method, a format and who serves it),
    ``devices`` (each on one set of devices), ``settings`` (layers, experts, shares of devices), ``memory`` (and the
    limits that the user sets)."""

    stage: Literal["runtime", "devices", "settings", "memory"]
    tried: int
    kept: int


class Recommendation(Shape, frozen=True, kw_only=True):
    """``plans`` is empty where nothing fits; then ``relaxations`` says what would have to give. ``candidates_possible``
    of ``candidates_considered`` can run."""

    plans: tuple[Plan, ...]
    rejected: tuple[Rejected, ...]
    relaxations: tuple[Relaxation, ...]
    warnings: tuple[Warning_, ...]
    candidates_considered: int
    rules_hash: str
    overlay_rules: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    candidates_possible: int = 0


class EngineFit(Shape, frozen=True, kw_only=True):
    """What llama.cpp's own fit chooses by itself: the context, and layers on devices (-1: all). ``engine``: who was
    asked, ``None`` where nobody here has a fit of its own; ``fits`` ``None`` then."""

    engine: str | None
    fits: bool | None = None
    context: int | None = None
    gpu_layers: int | None = None
    tensor_split: tuple[float, ...] | None = None


class Estimate(Shape, frozen=True, kw_only=True):
    """Numbers for one named choice; no choice is made here. ``machine``: what it was named, ``None`` for this one or a
    recorded one. ``engine_fit``: what the engine chooses by itself on this machine, where it was asked."""

    model: ModelSummary
    method: MethodName
    format: str
    runtime: RuntimeName
    settings: Settings
    memory: Memory
    speed: Speed
    quality: Quality
    fits: bool | None
    short_by: int | None
    file_bytes: int | None = None
    fallbacks: dict[str, int] = {}
    warnings: tuple[Warning_, ...] = ()
    machine: str | None = None
    assumptions: tuple[str, ...] = ()
    engine_fit: EngineFit | None = None
