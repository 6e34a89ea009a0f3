"""Memory against context: for each of several choices what the machine must have, and where its limits are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from advisor.errors import AdvisorError
from advisor.facts import shown
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Settings
from advisor.guide.schema import RulePack
from advisor.planner.costing import HEADROOM, host_capacity
from advisor.planner.devices import device_capacity
from advisor.planner.estimate import estimate
from advisor.planner.request import check_choice
from advisor.planner.targets import usable_devices

# What is drawn beside a GGUF format that was named: the guide's ladder of bits.
LADDER: Final = ("q4_k_m", "q5_k_m", "q6_k", "q8_0", "f16")
_FIRST: Final = 1024
_LAST: Final = 131_072


class Choice(NamedTuple):
    """One way to run a model."""

    method: str
    format: str
    runtime: str


class Point(NamedTuple):
    """Tokens of one conversation's context, bytes in all, and whether that fits (``None``: not known)."""

    context: int
    bytes: int
    fits: bool | None


class Curve(NamedTuple):
    """The memory of one choice over contexts, ascending."""

    choice: Choice
    points: tuple[Point, ...]


class Bound(NamedTuple):
    """Bytes that a plan may take of a memory, and its name."""

    name: str
    bytes: int


class Curves(NamedTuple):
    """All that a picture of memory against context shows; ``asked`` is the context that was asked for."""

    model: str
    machine: str | None
    parallel: int
    kv_type: str
    curves: tuple[Curve, ...]
    bounds: tuple[Bound, ...]
    asked: int | None


def beside(choice: Choice) -> tuple[Choice, ...]:
    """The choice itself first, then what people weigh it against."""
    if choice.method == "gguf":
        others = [Choice("gguf", fmt, choice.runtime) for fmt in LADDER]
    else:
        others = [Choice("none", "bf16", choice.runtime), Choice("gguf", "q4_k_m", "llama.cpp")]
    return tuple(dict.fromkeys((choice, *others)))


def contexts(model: ModelFacts, asked: int | None) -> tuple[int, ...]:
    """The contexts to look at: doublings from 1024 to what the model was trained for, that one, and the one asked."""
    most = model.context_max or max(_LAST, asked or 0)
    steps = {most, *(c for c in (_FIRST << n for n in range(24)) if c <= most)}
    if asked is not None:
        steps.add(min(asked, most))
    return tuple(sorted(steps))


def curves(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    machine: Machine,
    choices: Sequence[Choice],
    settings: Settings,
    pack: RulePack,
) -> Curves:
    """Memory of each choice at each context.

    Args:
        settings: of the runtime; its ``context`` (of all slots together) is the one asked for.

    Raises:
        AdvisorError: ``contradictory-options`` or ``word-not-found`` for the first choice; others that are none are
            left out.
    """
    asked = max(1, settings.context // settings.parallel)
    found = []
    for n, choice in enumerate(choices):
        try:
            check_choice(*choice, pack)
            points = tuple(
                _point(model, tensors, machine, choice, settings, context, pack) for context in contexts(model, asked)
            )
        except AdvisorError:
            if n == 0:
                raise
            continue
        found.append(Curve(choice, points))
    return Curves(model.name, machine.named, settings.parallel, settings.kv_type, tuple(found), bounds(machine), asked)


def _point(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    machine: Machine,
    choice: Choice,
    settings: Settings,
    context: int,
    pack: RulePack,
) -> Point:
    one = estimate(
        model,
        tensors,
        machine,
        method=choice.method,
        fmt=choice.format,
        runtime=choice.runtime,
        settings=msgspec.structs.replace(settings, context=context * settings.parallel),
        pack=pack,
    )
    return Point(context, int(one.memory.total.value), one.fits)


def bounds(machine: Machine) -> tuple[Bound, ...]:
    """The machine's limits, the share that is left free taken off: host memory, then its cards alone and with it."""
    host = host_capacity(machine)
    devices = usable_devices(machine)
    whole = sum(device_capacity(d) or 0 for d in devices if not d.unified_memory)
    free = 1 - HEADROOM
    if not whole:
        return (Bound("the one memory" if devices else "host memory", int(host * free)),)
    cards = devices[0].id if len(devices) == 1 else shown.counted(len(devices), "card")
    return Bound(cards, int(whole * free)), Bound(f"{cards} and host", int((whole + host) * free))
