"""What a scenario is: a machine, a model and a goal; what must be chosen, must not be chosen and must be said; and the
row of the guide or the document that makes it true.

A scenario says what the guide and the documents say, never what the planner happened to answer. Where the planner
differs, the scenario stays as it is and is marked ``disputed``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from advisor.facts.base import Shape
from advisor.facts.plan import SourceRef
from advisor.facts.words import GoalName, MethodName, PlanStatus, RuntimeName

Scalar = str | bool | int | float
# Rows of the guide, in the order in which the texts come to them.
Row = Literal[
    "vllm-serving",
    "accuracy",
    "memory-to-spare",
    "fastest-deployment",
    "throughput",
    "gpu-and-ram",
    "cpu-only",
    "apple",
    "edge",
    "extreme-compression",
    "precision-target",
    "adapter",
    "calibration",
    "time-allowed",
    "runtimes",
]


class Bounds(Shape, frozen=True, kw_only=True):
    """A number within bounds, both ends included."""

    least: float | None = None
    most: float | None = None


Wanted = Scalar | tuple[Scalar, ...] | Bounds
Words = str | tuple[str, ...]


class HostSpec(Shape, frozen=True, kw_only=True):
    """A host that carries no memory of its own: a scenario gives it."""

    cpu: str
    arch: Literal["x86_64", "aarch64"] = "x86_64"
    isa: tuple[str, ...]
    cores: int
    bandwidth: str
    source: str


class MachineSpec(Shape, frozen=True, kw_only=True):
    """A recorded machine (a folder of ``tests/fixtures/machines``), or profiles of hardware in a host.

    ``memory`` is host memory, or the one memory of a device that shares it; ``limit`` what a container grants of it.
    ``compiled``: the kinds of device for which llama.cpp can be built there (``cuda``, ``rocm``, ``vulkan`` ...).
    """

    recorded: str | None = None
    hardware: tuple[str, ...] = ()
    host: str = "desktop"
    memory: str | None = None
    limit: str | None = None
    compiled: tuple[str, ...] = ()


class ModelSpec(Shape, frozen=True, kw_only=True):
    """A bundled model, or a size, whose weights are on disk.

    ``stored``: ``folder`` (its 16-bit weights are here), a GGUF type (a ``.gguf`` file), or a method (a checkpoint that
    is packed in it, in ``format``).
    """

    name: str
    stored: str
    format: str | None = None


class Flags(Shape, frozen=True, kw_only=True):
    """Options of ``advisor recommend``, written as on the command line; ``adapter`` is a folder's name."""

    context: int | None = None
    parallel: int | None = None
    method: MethodName | None = None
    format: str | None = None
    runtime: RuntimeName | None = None
    quantizer: str | None = None
    kv_type: str | None = None
    min_tps: float | None = None
    max_memory: str | None = None
    min_quality: float | None = None
    within: str | None = None
    no_download: bool = False
    adapter: str | None = None
    bits: int | None = None
    group_size: int | None = None


class Pattern(Shape, frozen=True, kw_only=True):
    """What a plan looks like; what is left out may be anything, a list means one of.

    ``placement``: ``gpu``, ``cpu`` or ``split``; ``devices``: how many accelerators. ``settings`` and ``parameters``
    are those of the plan; ``decode_tps``, ``memory_gb`` (10^9 bytes) and ``quantize_s`` (seconds to make the format, 0
    where nothing is made) its predictions; ``rules`` are cited as decisions; ``says`` are parts of its needs, warnings,
    assumptions or reasons.
    """

    method: Words | None = None
    format: Words | None = None
    runtime: Words | None = None
    quantizer: Words | None = None
    source: Words | None = None
    status: PlanStatus | tuple[PlanStatus, ...] | None = None
    placement: Words | None = None
    devices: int | Bounds | None = None
    imatrix: bool | None = None
    settings: dict[str, Wanted] = msgspec.field(default_factory=dict)
    parameters: dict[str, Wanted] = msgspec.field(default_factory=dict)
    decode_tps: Bounds | None = None
    memory_gb: Bounds | None = None
    quantize_s: Bounds | None = None
    rules: tuple[str, ...] = ()
    says: tuple[str, ...] = ()


class Must(Shape, frozen=True, kw_only=True):
    """``first``: the first plan; ``some``: for each of these some ranked plan. ``before``: the best plan of each
    pattern comes before the best one of the next. ``nothing``: no plan at all. ``refused``: the code of the error with
    which the request is refused."""

    first: Pattern | None = None
    some: tuple[Pattern, ...] = ()
    before: tuple[Pattern, ...] = ()
    nothing: bool = False
    refused: str | None = None


class MustNot(Shape, frozen=True, kw_only=True):
    """No ranked plan looks like ``plan`` (``first``: the first one does not); ``rule`` says so among the rejected."""

    plan: Pattern
    rule: str | None = None
    first: bool = False


class MustSay(Shape, frozen=True, kw_only=True):
    """``rules`` are cited by the first plan, or by the refusal; ``text`` are parts of what the first plan or the answer
    as a whole says; ``relaxations`` are parts of the changes that are offered where nothing fits."""

    rules: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    relaxations: tuple[str, ...] = ()


class Disputed(Shape, frozen=True, kw_only=True):
    """The planner differs today. ``believe`` says which of the two is right; ``weight`` 1 is worst."""

    why: str
    believe: Literal["scenario", "planner", "open"]
    weight: Literal[1, 2, 3]


class Scenario(Shape, frozen=True, kw_only=True):
    """One row of the table. ``rows`` are the rows of the guide that it carries out."""

    id: str
    machine: MachineSpec
    model: str | ModelSpec
    goal: GoalName = "chat"
    flags: Flags = Flags()
    must: Must = Must()
    must_not: tuple[MustNot, ...] = ()
    must_say: MustSay = MustSay()
    rows: tuple[Row, ...] = ()
    because: tuple[SourceRef, ...] = msgspec.field(default_factory=tuple)
    note: str = ""
    disputed: Disputed | None = None


class File(Shape, frozen=True, kw_only=True):
    """One file of scenarios."""

    schema: Literal["advisor/scenarios/v1"]
    title: str
    scenarios: tuple[Scenario, ...]


class Hosts(Shape, frozen=True, kw_only=True):
    """``hosts.yml``."""

    schema: Literal["advisor/hosts/v1"]
    hosts: dict[str, HostSpec]


class Rows(Shape, frozen=True, kw_only=True):
    """``rows.yml``: the rules that carry each row of the guide."""

    schema: Literal["advisor/guide-rows/v1"]
    rows: dict[Row, tuple[str, ...]]
