"""What is done where a step that makes or proves an artifact lacks memory, room or a limit: looked at before, answered
after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypedDict

import msgspec

from advisor.errors import AdvisorError
from advisor.facts.recovery import Diagnosis, LadderStep
from advisor.facts.text import shell_word

if TYPE_CHECKING:
    from advisor.api.making import Made
    from advisor.facts.machine import Machine
    from advisor.facts.model import ModelFacts
    from advisor.facts.plan import Plan, PlanRequest
    from advisor.planner.ladder_making import MakingLadder
    from advisor.settings import Settings


class Pieces(TypedDict, total=False):
    """Pieces of text that a proof is measured on: how many, and tokens of each."""

    chunks: int
    context: int


# Steps by what they do for an artifact: whatever comes before it, whether it loads, what it is worth.
_MAKES: Final = frozenset({"preflight", "merge", "restore", "convert", "imatrix", "quantize"})
_LOADS: Final = "validate"
_PROVES: Final = "verify"
_NOTE: Final = "It was proven by itself: there was not the memory to hold it against the original."
# What a runtime's own table makes of the log, where more is known.
_GUESSES: Final = ("diagnosis (", "remedy: ")
# Of a plan that does not even load: at least this share of what it takes has to be freed.
_SHARE: Final = 0.2


def diagnosis(error: AdvisorError) -> Diagnosis | None:
    """Why a step before the launch failed, where memory or a limit lacked."""
    told = error.data.get("diagnosis")
    if isinstance(told, dict) and told.get("when") == "making":
        return msgspec.convert(told, Diagnosis)
    short = error.data.get("making")
    if error.code != "not-enough-memory" or not isinstance(short, dict):
        return None
    return Diagnosis(
        cause="out-of-memory",
        code=error.code,
        when="making",
        device="host",
        message=error.message,
        wanted_bytes=short.get("needed_bytes"),
        available_bytes=short.get("free_bytes"),
    )


def rungs(ladder: MakingLadder, step: str, found: Diagnosis, machine: Machine) -> tuple[LadderStep, ...]:
    """What could be given up so that ``step`` gets by with the memory that there is."""
    from advisor.planner.costing import HEADROOM
    from advisor.planner.ladder import need
    from advisor.planner.lessons import capacity

    room = min((v for v in (found.limit_bytes, capacity(machine, "host")) if v is not None), default=None)
    if step == _PROVES:
        proof = ladder.proof()
        if proof:
            return proof
    if step in (_PROVES, _LOADS):
        whole = need(ladder.plan, found.device)
        missing = int(_SHARE * whole)
        if room is not None and found.device == "host":
            missing = max(missing, whole - int(room * (1 - HEADROOM)))
        return ladder.memory(found.device, missing)
    return ladder.making(found.available_bytes or room) if step in _MAKES else ()


def proven_as(step: LadderStep, plan: Plan) -> LadderStep:
    """A step whose artifact is proven no more thoroughly than that of ``plan``, for which there was not the memory."""
    from advisor.planner import asked
    from advisor.planner.ladder_making import proven_alone

    if not asked.alone(plan.parameters) or asked.alone(step.plan.parameters) or step.plan.source == "prequantized":
        return step
    return msgspec.structs.replace(step, plan=proven_alone(step.plan))


def proof(made: Made, plan: Plan) -> tuple[Made, Pieces]:
    """What was made and in what pieces it is proven; without its original and in short ones where the plan gave that
    up: logits, which take most of a proof's memory beside the weights, grow with the length of a piece."""
    from advisor.planner import asked

    if not asked.alone(plan.parameters) or made.reference is None:
        return made, {}
    return made._replace(reference=None, notes=(*made.notes, _NOTE)), {"chunks": 40, "context": 128}


def limited(error: AdvisorError, found: Diagnosis, again: str) -> None:
    """Say which limit of the shell or of a control group was met, and what lifts it; ``again``: the command that is
    then to be given once more."""
    from advisor.probes import process_limits

    met = process_limits.met(found.code)
    lines = [f"found: {found.message}", *(f"evidence: {line}" for line in found.evidence)]
    lines += [f"limit: {b.words}" for b in met]
    error.context = (*(x for x in error.context if x not in lines and not x.startswith(_GUESSES)), *lines)
    error.data["limits"] = [{"kind": b.kind, "limit": b.limit, "lift": b.lift} for b in met]
    if met:
        command, _, remark = met[0].lift.partition("  # ")
        error.hint = f"{command} && {again}" + (f"  # {remark}" if remark else "")


@contextmanager
def watched(
    s: Settings, facts: ModelFacts, chosen: tuple[str, str, str | None], request: PlanRequest
) -> Iterator[None]:
    """Around making an artifact by ``chosen`` (method, format, quantizer): refuse what cannot fit before anything is
    made, and name the command that takes less where memory ran out after all.

    Raises:
        AdvisorError: ``not-enough-memory``; what the steps raise.
    """
    method, fmt, quantizer = chosen
    less = _less(facts, method, fmt, request)
    _check_memory(s, facts, method, fmt, quantizer, less)
    try:
        yield
    except AdvisorError as e:
        found = diagnosis(e)
        if found is None:
            raise
        step = str(e.data.get("step"))
        again = f"advisor quantize {shell_word(facts.ref)} --method {method} --format {fmt}"
        if found.cause == "process-limit":
            limited(e, found, again)
        elif step in (_PROVES, _LOADS):
            e.context = (*e.context, "what was made is kept: the command below finds it")
            e.hint = f"{again} --no-verify"
        elif less is not None:
            e.hint = less
        raise


@contextmanager
def proving(artifact: str, against: str | None) -> Iterator[None]:
    """Around ``advisor verify``: where memory ran out, the hint is the proof that needs less of it.

    Raises:
        AdvisorError: what the steps raise.
    """
    try:
        yield
    except AdvisorError as e:
        found = diagnosis(e)
        again = f"advisor verify {shell_word(artifact)}"
        if found is not None and found.cause == "process-limit":
            limited(e, found, again if against is None else f"{again} --against {shell_word(against)}")
        elif found is not None and against is not None:
            e.hint = again
        raise


def _check_memory(
    s: Settings, facts: ModelFacts, method: str, fmt: str, quantizer: str | None, less: str | None
) -> None:
    from advisor.api.context import this_machine
    from advisor.cost.effort import making_memory
    from advisor.execute.preflight import check_making
    from advisor.model.tensors import tensors

    wanted = making_memory(facts, tensors(facts), method, fmt, quantizer=quantizer)
    if wanted is not None:
        check_making(wanted, fmt, this_machine(s)[0], hint=less)


def _less(facts: ModelFacts, method: str, fmt: str, request: PlanRequest) -> str | None:
    """The command that makes something near with less memory: without calibration, else as GGUF, tensor by tensor."""
    from advisor.cost.gguf_mix import makes_imatrix

    ref = shell_word(facts.ref)
    if method == "gguf":
        if makes_imatrix(fmt):
            return f"advisor quantize {ref} --format q4_k_m"
        return f"advisor quantize {ref} --format {fmt}" if request.calibration is not None else None
    if method in ("awq", "gptq"):
        from advisor.backends.registry import quantizers

        if quantizers()["llmcompressor"].capabilities().makes("rtn", fmt):
            return f"advisor quantize {ref} --method rtn --format {fmt}"
    return f"advisor quantize {ref} --format {'q8_0' if '8' in fmt else 'q4_k_m'}"
