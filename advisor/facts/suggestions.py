"""What a machine is good for when no model is named: the shapes of ``advisor recommend`` without MODEL."""

from __future__ import annotations

from advisor.facts.base import Shape
from advisor.facts.machine import Machine
from advisor.facts.plan import Decision, Goal, Plan, Warning_
from advisor.facts.quantity import Quantity
from advisor.facts.words import MethodName, PlanStatus, RuntimeName


class Choice(Shape, frozen=True, kw_only=True):
    """A plan in short.

    ``meets_goal``: it decodes at the goal's speed or faster and holds the goal's context. ``context`` in tokens of one
    conversation, as planned; ``longest_context`` is the longest that fits with the same choice, found by doubling
    ``context`` up to what the model was trained for. ``because``: what the guide says for the choice, its weightiest
    rules first.
    """

    method: MethodName
    format: str
    quantizer: str | None
    runtime: RuntimeName
    status: PlanStatus
    needs: tuple[str, ...]
    devices: tuple[str, ...]
    placement: str
    context: int
    parallel: int
    kv_type: str
    longest_context: int
    memory: Quantity
    decode: Quantity | None
    prefill: Quantity | None
    kld: Quantity | None
    meets_goal: bool | None
    score: float
    because: tuple[Decision, ...] = ()


class SizeClass(Shape, frozen=True, kw_only=True):
    """What to use for models of about one size; ``name`` is what a command takes as MODEL (``8B``, ``30B:3B``).

    ``choice`` is ``None`` where no way to run it was found; ``short_by`` then says how many bytes the nearest lacks
    (at least; ``None`` where memory is not the reason) and ``because`` why. ``models``: known models of about that
    size.
    """

    name: str
    params: int
    active_params: int
    choice: Choice | None
    short_by: int | None = None
    because: str | None = None
    models: tuple[str, ...] = ()


class SuggestedModel(Shape, frozen=True, kw_only=True):
    """A known model that runs on the machine, with its plan in short; ``plan_id`` is among the document's ``plans``.

    ``terms``: the parts of ``score``, each from 0 to 1:
    ``ability`` (by size alone: the logarithm of the geometric mean of total and active parameters, times the quality
    that the plan keeps), and the plan's ``speed``, ``memory``, ``time`` and ``disk``.
    """

    rank: int
    ref: str
    name: str
    params: int
    active_params: int
    size_class: str
    license: str | None
    plan_id: str
    choice: Choice
    score: float
    terms: dict[str, float]
    because: str


class Suggestions(Shape, frozen=True, kw_only=True):
    """What to run on a machine: by size, and of the models that are known. ``plans`` are the models' plans, in their
    order. ``models_considered`` were looked at, ``models_fitting`` of them can be held in memory by a rough count."""

    size_classes: tuple[SizeClass, ...]
    models: tuple[SuggestedModel, ...]
    plans: tuple[Plan, ...]
    machine: Machine
    goal: Goal
    warnings: tuple[Warning_, ...] = ()
    models_considered: int = 0
    models_fitting: int = 0
    rules_hash: str = ""
