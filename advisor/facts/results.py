"""What was made, proven and started: artifacts, verification, deployments, receipts, the envelope."""

from __future__ import annotations

from typing import Any

import msgspec

from advisor.facts.base import Shape
from advisor.facts.plan import Plan, Warning_
from advisor.facts.quantity import Quantity
from advisor.facts.recipe import Recipe
from advisor.facts.recovery import MemoryWatch, Recovery
from advisor.facts.words import DeploymentState, MethodName, RuntimeName, Verdict


class Band(Shape, frozen=True, kw_only=True):
    """Up to ``warn`` passes, up to ``fail`` warns, above fails."""

    warn: float
    fail: float
    unit: str
    source: str


class Gate(Shape, frozen=True, kw_only=True):
    """The quality gate: bands by measure (``kld``, ``perplexity_ratio``, ``top1_agreement`` ...) and the verdict."""

    verdict: Verdict
    bands: dict[str, Band]
    because: tuple[str, ...]


class Finding(Shape, frozen=True, kw_only=True):
    """A named diagnosis with its remedy; ``sources`` cite the guide where it has a section on it."""

    code: str
    message: str
    remedy: str
    sources: tuple[str, ...] = ()


class PromptPair(Shape, frozen=True, kw_only=True):
    """One fixed prompt answered by the original and by the artifact (greedy decoding)."""

    name: str
    prompt: str
    reference: str
    answer: str
    same: bool
    coherent: bool


class TaskScore(Shape, frozen=True, kw_only=True):
    """A user's own task: how many of ``items`` questions the original and the artifact answer as expected.

    ``kind`` is ``answers`` (free, right where the answer contains what is expected) or ``choices``; ``metric`` says how
    right is told. Of choices the likeliest is taken, and ``..._normalized`` count with the log-likelihood a byte.
    """

    name: str
    items: int
    reference_correct: int | None
    correct: int
    kind: str = "answers"
    metric: str = "contains"
    correct_normalized: int | None = None
    reference_correct_normalized: int | None = None


class Verification(Shape, frozen=True, kw_only=True):
    """``perplexity`` of the artifact, of the reference, and mean KL(reference || artifact) in nats on one text.

    ``loaded``: what a runtime really loaded of a checkpoint, in words: bytes, type, kernels, peak memory, versions.
    """

    perplexity: float | None
    perplexity_reference: float | None
    kld: float | None
    top1_agreement: float | None
    positions: int
    text: str
    text_sha256: str
    prompts: tuple[PromptPair, ...]
    findings: tuple[Finding, ...]
    gate: Gate
    types: dict[str, int] = {}
    seconds: float | None = None
    task: TaskScore | None = None
    loaded: dict[str, str] = {}


class Artifact(Shape, frozen=True, kw_only=True):
    """A finished quantized model. ``from_`` is written ``from``: the model it was made of. ``tensor_types``: of a GGUF
    file, the types of named tensors that were asked for beside ``format``."""

    path: str
    method: MethodName
    format: str
    bytes: int
    sha256: str
    from_: str = msgspec.field(name="from")
    quantizer: str | None
    seconds: float | None
    verification: Verification | None = None
    imatrix: bool = False
    fallbacks: dict[str, int] = {}
    types: dict[str, int] = {}
    notes: tuple[str, ...] = ()
    recipe: Recipe | None = None
    tensor_types: tuple[str, ...] = ()


class StepRecord(Shape, frozen=True, kw_only=True):
    """One step of ``up``: whether it ran or was reused, and for how long."""

    name: str
    key: str | None
    outcome: str
    seconds: float
    detail: str | None = None


class Deployment(Shape, frozen=True, kw_only=True):
    """A served model. ``openai_base_url`` is what an OpenAI client is given. ``provider``: which llama.cpp serves it
    (``path``, ``build``, ``wheel``); ``None`` for other runtimes, and where an older version launched it.
    ``recovered``: the steps of the ladder that led to the plan that runs. ``memory``: the memory that is nearest to its
    end, as looked at now; ``None`` where no server runs or the system does not tell."""

    name: str
    state: DeploymentState
    url: str
    openai_base_url: str
    model: str
    pid: int | None
    port: int
    runtime: RuntimeName
    artifact: str
    plan_id: str
    started_at: str | None
    restarts: int
    reason: str | None
    log: str | None = None
    api_key_file: str | None = None
    provider: str | None = None
    recovered: tuple[Recovery, ...] = ()
    memory: MemoryWatch | None = None


class Side(Shape, frozen=True, kw_only=True):
    """One side of a receipt: bytes, tokens/s, tokens/s, seconds."""

    memory: Quantity | None
    decode: Quantity | None
    prefill: Quantity | None
    start: Quantity | None


class ReceiptError(Shape, frozen=True, kw_only=True):
    """Predicted divided by measured."""

    memory_ratio: float | None
    decode_ratio: float | None
    prefill_ratio: float | None = None
    start_ratio: float | None = None


class Receipt(Shape, frozen=True, kw_only=True):
    """What was predicted beside what was measured at ``measured_at`` (UTC; ``None``: made by an older version).

    ``cpu_share``: CPU time of the server by threads x wall time while it was measured; well below 1 it waited for
    cores that others used. ``None``: not known, or the model is not on the host. ``recovered``: the steps of the ladder
    that this launch was reached by.
    """

    predicted: Side
    measured: Side
    error: ReceiptError
    quality_gate: Gate | None
    notes: tuple[str, ...] = ()
    answer: str | None = None
    measured_at: str | None = None
    cpu_share: float | None = None
    recovered: tuple[Recovery, ...] = ()


class UpResult(Shape, frozen=True, kw_only=True):
    """All of ``advisor up``; ``deployment`` and ``receipt`` are ``None`` for a dry run. ``warnings``: the user's own
    rules that took part, and what is wrong with them."""

    deployment: Deployment | None
    plan: Plan
    steps: tuple[StepRecord, ...]
    receipt: Receipt | None
    verification: Verification | None = None
    warnings: tuple[Warning_, ...] = ()


class ErrorBody(Shape, frozen=True, kw_only=True):
    """The ``error`` of an envelope."""

    code: str
    message: str
    context: tuple[str, ...]
    hint: str | None
    docs: str | None
    data: dict[str, Any]


class Envelope(Shape, frozen=True, kw_only=True, omit_defaults=True):
    """The one document on stdout. ``error`` is absent on success."""

    schema: str
    advisor: str
    data: dict[str, Any] | None = msgspec.field()
    warnings: tuple[Warning_, ...] = msgspec.field()
    error: ErrorBody | None = None


class MeasuredQuality(Shape, frozen=True, kw_only=True):
    """A verification of one way to quantize a model, without its prompts; ``measured_at`` in UTC."""

    method: str
    format: str
    imatrix: bool
    verification: Verification
    measured_at: str


class MeasuredQualities(Shape, frozen=True, kw_only=True):
    """What verifications of one model measured, the latest last."""

    model: str
    qualities: tuple[MeasuredQuality, ...]
