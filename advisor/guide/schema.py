"""The shapes of rules: what a rule file becomes once it is checked."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from advisor.facts.base import Shape
from advisor.facts.plan import Decision, Effect, SourceRef

Scalar = str | bool | int | float
Op = Literal["all", "any", "not", "eq", "in", "lt", "lte", "gt", "gte", "between", "present"]
OnUnknown = Literal["warn", "assume-true", "assume-false", "skip"]
Layer = Literal["facts", "guide", "user"]

SCHEMA: Final = "advisor/rules/v1"
COMPARISONS: Final[tuple[str, ...]] = ("lt", "lte", "gt", "gte", "between", "present")
KINDS: Final[tuple[str, ...]] = ("exclude", "require", "set", "prefer", "warn")
ON_UNKNOWN: Final[tuple[str, ...]] = ("warn", "assume-true", "assume-false", "skip")
LAYERS: Final[tuple[str, ...]] = ("facts", "guide", "user")
MAX_WEIGHT: Final = 0.5


class Node(Shape, frozen=True, kw_only=True):
    """One node of a condition: a connective over ``of``, or a comparison of ``fact`` with ``value``.

    ``in`` and ``between`` (both ends included) take a tuple, ``present`` a bool.
    """

    op: Op
    fact: str = ""
    value: Scalar | tuple[Scalar, ...] | None = None
    of: tuple[Node, ...] = ()


class Examples(Shape, frozen=True, kw_only=True):
    """Sets of facts for which the rule must fire, and for which it must stay silent. Facts left out are unknown."""

    fires: tuple[dict[str, Scalar | tuple[str, ...]], ...]
    silent: tuple[dict[str, Scalar | tuple[str, ...]], ...]


class Rule(Shape, frozen=True, kw_only=True):
    """One rule. ``requires`` belongs to ``require``, ``score`` and ``weight`` to ``prefer``, ``key`` and ``value`` to
    ``set``. ``on_unknown`` says what happens where ``when`` cannot be decided. ``file`` and ``line`` say where it is.
    """

    id: str
    name: str
    kind: Effect
    when: Node
    because: str
    sources: tuple[SourceRef, ...]
    examples: Examples
    layer: Layer
    family: str
    file: str
    line: int
    overlay: bool = False
    on_unknown: OnUnknown = "skip"
    requires: Node | None = None
    instead: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    score: str | None = None
    weight: float | None = None
    key: str | None = None
    value: Scalar | None = None


class Problem(Shape, frozen=True, kw_only=True):
    """What is wrong in a rule file. ``path`` is the key path (``rules[3].when.all[0]``), ``line`` counts from one."""

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f" {self.path}:" if self.path else ""
        return f"{self.file}:{self.line}:{where} {self.message}"


class Overlay(Shape, frozen=True, kw_only=True):
    """One file of the user's own: the rules that it adds, those it disables, those its rules override."""

    file: str
    adds: tuple[str, ...] = ()
    disables: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()


class RulePack(Shape, frozen=True, kw_only=True):
    """All rules, by id; what did not load; the hash of every file that was read; the user's files that take part."""

    rules: tuple[Rule, ...]
    problems: tuple[Problem, ...]
    content_hash: str
    disabled: tuple[str, ...] = ()
    overlays: tuple[Overlay, ...] = ()

    def get(self, rule_id: str) -> Rule | None:
        """The rule of that id, or ``None``."""
        return next((r for r in self.rules if r.id == rule_id), None)


class Outcome(Shape, frozen=True, kw_only=True):
    """What the rules say of one set of facts; nothing here depends on the order of rules or files.

    ``excluded`` are the decisions of ``exclude`` and ``require``; ``decisions`` are all, those included, by rule id.
    ``values`` are set by ``set``, ``scores`` summed from ``prefer`` and bounded to -1 .. 1. ``assumptions`` name the
    rules that could not be decided and the facts they lacked; ``unknown`` lists those facts.
    ``overridden`` maps a silenced rule to the rule that won over it.
    """

    excluded: tuple[Decision, ...] = ()
    decisions: tuple[Decision, ...] = ()
    values: dict[str, Scalar] = msgspec.field(default_factory=dict)
    scores: dict[str, float] = msgspec.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    overridden: dict[str, str] = msgspec.field(default_factory=dict)
