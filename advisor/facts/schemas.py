"""The data of each command's document, and the JSON Schemas exported from these types.

A published schema lets unknown keys pass, because fields may be added in later versions; the strict form refuses them
and is meant for checking documentation and tests.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from advisor.facts.base import Shape
from advisor.facts.bench import Bench, MeasuredEngine
from advisor.facts.comparison import Row
from advisor.facts.exports import ExportedFile
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Estimate, Goal, Plan, Rejected, Relaxation, Stage
from advisor.facts.reports import (
    CacheReport,
    Check,
    Coverage,
    EnvInfo,
    EnvOffer,
    Explanation,
    HardwareInfo,
    ModelInfo,
    Problem,
    ProviderInfo,
    RuleInfo,
)
from advisor.facts.results import Artifact, Deployment, Envelope, Receipt, StepRecord, Verification
from advisor.facts.suggestions import SizeClass, SuggestedModel

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


class VersionData(Shape, frozen=True, kw_only=True):
    """``advisor --version``."""

    version: str


class ProbeData(Shape, frozen=True, kw_only=True):
    """``advisor probe``. ``measured``: the engines whose speed was measured on this machine, and where it is kept."""

    machine: Machine
    measured: tuple[MeasuredEngine, ...] = ()


class RecommendData(Shape, frozen=True, kw_only=True):
    """``advisor recommend``. ``plans`` is empty where nothing fits. Without MODEL ``model`` is null,
    ``size_classes`` and ``models`` say what the machine is good for, and ``plans`` are the best plans of ``models``,
    in their order."""

    plans: tuple[Plan, ...]
    rejected: tuple[Rejected, ...]
    relaxations: tuple[Relaxation, ...]
    machine: Machine
    model: ModelFacts | None
    goal: Goal
    candidates_considered: int
    rules_hash: str
    overlay_rules: tuple[str, ...]
    candidates_possible: int = 0
    size_classes: tuple[SizeClass, ...] = ()
    models: tuple[SuggestedModel, ...] = ()
    stages: tuple[Stage, ...] = ()


class EstimateData(Shape, frozen=True, kw_only=True):
    """``advisor estimate``."""

    estimate: Estimate


class CompareData(Shape, frozen=True, kw_only=True):
    """``advisor compare``."""

    rows: tuple[Row, ...]
    model: ModelFacts


class BenchData(Shape, frozen=True, kw_only=True):
    """``advisor bench``. ``bench`` is null with ``--forget``; then ``forgotten`` is the file that was removed."""

    bench: Bench | None
    forgotten: str | None = None


class ExplainData(Shape, frozen=True, kw_only=True):
    """``advisor explain``."""

    explanation: Explanation


class ExportData(Shape, frozen=True, kw_only=True):
    """``advisor export``. ``text`` is the first file's; ``written``: paths of the files, with ``--out``; ``steps`` put
    them to use."""

    text: str
    format: str
    name: str
    plan_id: str
    files: tuple[ExportedFile, ...]
    steps: tuple[str, ...]
    notes: tuple[str, ...]
    image: str | None = None
    written: tuple[str, ...] = ()


class QuantizeData(Shape, frozen=True, kw_only=True):
    """``advisor quantize``."""

    artifact: Artifact


class VerifyData(Shape, frozen=True, kw_only=True):
    """``advisor verify``."""

    verification: Verification


class UpData(Shape, frozen=True, kw_only=True):
    """``advisor up``. ``deployment`` and ``receipt`` are null for a dry run."""

    deployment: Deployment | None
    plan: Plan
    steps: tuple[StepRecord, ...]
    receipt: Receipt | None
    verification: Verification | None = None


class DeploymentsData(Shape, frozen=True, kw_only=True):
    """``advisor status``, ``down`` and ``restart``."""

    deployments: tuple[Deployment, ...]


class LogsData(Shape, frozen=True, kw_only=True):
    """``advisor logs``: the last lines of one deployment's log, oldest first."""

    deployments: tuple[Deployment, ...]
    lines: tuple[str, ...]


class LogLine(Shape, frozen=True, kw_only=True):
    """One line of ``advisor logs --follow --json``; a stream of these, no envelope around them."""

    name: str
    line: str


class RulesData(Shape, frozen=True, kw_only=True):
    """``advisor rules list``."""

    rules: tuple[RuleInfo, ...]


class RuleData(Shape, frozen=True, kw_only=True):
    """``advisor rules show``."""

    rule: RuleInfo


class CoverageData(Shape, frozen=True, kw_only=True):
    """``advisor rules coverage``."""

    coverage: Coverage


class LintData(Shape, frozen=True, kw_only=True):
    """``advisor rules lint``."""

    problems: tuple[Problem, ...]


class EnvsData(Shape, frozen=True, kw_only=True):
    """``advisor env list``. ``providers``: the ways to have llama.cpp here; ``offers``: what can be built."""

    environments: tuple[EnvInfo, ...]
    providers: tuple[ProviderInfo, ...] = ()
    offers: tuple[EnvOffer, ...] = ()


class EnvData(Shape, frozen=True, kw_only=True):
    """``advisor env build`` and ``env remove``."""

    environment: EnvInfo


class MetricsData(Shape, frozen=True, kw_only=True):
    """``advisor metrics``: Prometheus's text format."""

    text: str


class ChecksData(Shape, frozen=True, kw_only=True):
    """``advisor doctor`` and ``env doctor``. ``bundle``: the file that was written for whoever helps."""

    checks: tuple[Check, ...]
    bundle: str | None = None


class CacheData(Shape, frozen=True, kw_only=True):
    """``advisor cache info`` and ``gc``."""

    cache: CacheReport


class PathsData(Shape, frozen=True, kw_only=True):
    """``advisor paths``: a folder by what it is for."""

    paths: dict[str, str]


class SettingValue(Shape, frozen=True, kw_only=True):
    """One setting and where it was set: a file, ``environment``, ``flag`` or ``default``."""

    value: str | int | bool
    origin: str


class ConfigData(Shape, frozen=True, kw_only=True):
    """``advisor config show``."""

    settings: dict[str, SettingValue]


class GoalsData(Shape, frozen=True, kw_only=True):
    """``advisor goals list``."""

    goals: tuple[Goal, ...]


class HardwareListData(Shape, frozen=True, kw_only=True):
    """``advisor hardware list``."""

    hardware: tuple[HardwareInfo, ...]


class HardwareData(Shape, frozen=True, kw_only=True):
    """``advisor hardware show``."""

    hardware: HardwareInfo


class ModelsData(Shape, frozen=True, kw_only=True):
    """``advisor models list``."""

    models: tuple[ModelInfo, ...]


class ModelData(Shape, frozen=True, kw_only=True):
    """``advisor models show``."""

    model: ModelFacts


class SchemaData(Shape, frozen=True, kw_only=True):
    """``advisor schema``: the schema of one name, or all names where none was given."""

    names: tuple[str, ...]
    json_schema: dict[str, Any] | None


# command (its words joined by hyphens) -> the type of its document's data
DATA: Final[dict[str, type[Shape]]] = {
    "version": VersionData,
    "probe": ProbeData,
    "recommend": RecommendData,
    "estimate": EstimateData,
    "compare": CompareData,
    "bench": BenchData,
    "explain": ExplainData,
    "export": ExportData,
    "quantize": QuantizeData,
    "verify": VerifyData,
    "up": UpData,
    "status": DeploymentsData,
    "down": DeploymentsData,
    "restart": DeploymentsData,
    "logs": LogsData,
    "rules-list": RulesData,
    "rules-lint": LintData,
    "rules-coverage": CoverageData,
    "rules-show": RuleData,
    "env-list": EnvsData,
    "env-build": EnvData,
    "env-remove": EnvData,
    "env-doctor": ChecksData,
    "doctor": ChecksData,
    "metrics": MetricsData,
    "cache-info": CacheData,
    "cache-gc": CacheData,
    "schema": SchemaData,
    "paths": PathsData,
    "config-show": ConfigData,
    "goals-list": GoalsData,
    "hardware-list": HardwareListData,
    "hardware-show": HardwareData,
    "models-list": ModelsData,
    "models-show": ModelData,
}
# What is not a command's document: the envelope in general, and the lines of a followed log.
OTHERS: Final[dict[str, type[Shape]]] = {"envelope": Envelope, "logs-follow": LogLine}


def names() -> tuple[str, ...]:
    """All names that ``build`` takes."""
    return (*OTHERS, *DATA)


def schema_id(command: str) -> str:
    """The ``schema`` word of a command's document."""
    return f"advisor/{command}/v1"


def build(name: str, *, strict: bool = False) -> dict[str, Any]:
    """The JSON Schema of a whole document.

    Args:
        name: one of ``names()``.
        strict: refuse unknown keys.

    Raises:
        KeyError: no such name.
    """
    if name in OTHERS:
        schemas, defs = msgspec.json.schema_components([OTHERS[name]], ref_template="#/$defs/{name}")
        (root,) = schemas
        top = defs.pop(OTHERS[name].__name__) if "$ref" in root else root
        top = {**top, "title": name}
    else:
        _, defs = msgspec.json.schema_components([Envelope, DATA[name]], ref_template="#/$defs/{name}")
        envelope = defs.pop("Envelope")
        properties = {
            **envelope["properties"],
            "schema": {"const": schema_id(name)},
            "data": {"anyOf": [{"$ref": f"#/$defs/{DATA[name].__name__}"}, {"type": "null"}]},
        }
        top = {**envelope, "properties": properties, "title": schema_id(name)}
    whole = {"$schema": DIALECT, **top, "$defs": dict(sorted(defs.items()))}
    if not strict:
        _allow_more(whole)
    return whole


def component(kind: type[Shape]) -> dict[str, Any]:
    """The strict JSON Schema of one shape alone."""
    built: dict[str, Any] = msgspec.json.schema(kind, ref_template="#/$defs/{name}")
    return {"$schema": DIALECT, **built}


def published(name: str) -> bytes:
    """The schema as it is written to a file: indented, with a final newline."""
    return msgspec.json.format(msgspec.json.encode(build(name)), indent=2) + b"\n"


def _allow_more(node: object) -> None:
    """Drop ``additionalProperties: false`` everywhere."""
    if isinstance(node, dict):
        if node.get("additionalProperties") is False:
            del node["additionalProperties"]
        for child in node.values():
            _allow_more(child)
    elif isinstance(node, list):
        for child in node:
            _allow_more(child)
