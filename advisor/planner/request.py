"""Checks what the user asked for against itself, before anything is planned."""

from __future__ import annotations

from collections.abc import Mapping
from math import isinf
from typing import Final

import msgspec

from advisor.backends.base import QuantizerCapabilities
from advisor.errors import AdvisorError, word_not_found
from advisor.facts.catalogue import FactValue
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Goal, PlanRequest, Settings, Warning_
from advisor.facts.text import shell_word
from advisor.facts.words import (
    FORMAT_WORDS,
    KV_TYPES,
    METHODS,
    RUNTIMES,
    is_format,
)
from advisor.guide.conditions import compile_, facts_of, leaves
from advisor.guide.schema import Rule, RulePack
from advisor.planner.candidate import FORMATS, LLAMA_ENGINES, takes
from advisor.planner.targets import usable_devices

MIN_CONTEXT = 256
_WORDS: Final = frozenset(("candidate.method", "candidate.runtime"))
# Runtimes in the order in which they are advised: those first that advisor starts itself.
_RUNTIMES: Final = tuple(
    sorted(RUNTIMES, key=lambda r: r not in ("vllm", "transformers", "llama.cpp", "llama-cpp-python"))
)
# Requests at a time, and threads: as many as a goal may want.
MOST_PARALLEL: Final = 4096


def check(
    request: PlanRequest,
    pack: RulePack,
    quantizers: Mapping[str, QuantizerCapabilities],
    *,
    model: str = "8B",
    command: str = "recommend",
) -> None:
    """Refuse unknown words, numbers without sense, and combinations that no machine can run.

    Args:
        model: what hints name; ``command``: the command that they begin with.

    Raises:
        AdvisorError: ``word-not-found``; ``bad-option``; ``contradictory-options`` (with the rule that says so).
    """
    _check_kinds(request)
    check_words(request, model=model)
    for what, number in _numbers(request):
        if number is not None and not number > 0:
            raise AdvisorError("bad-option", f"--{what} is above zero, not {number}.")
        if number is not None and isinf(number):
            raise AdvisorError("bad-option", f"--{what} is a finite number, not {number}; leave it out for no limit.")
    for what, number in (("parallel", request.parallel), ("threads", request.threads)):
        if number is not None and number > MOST_PARALLEL:
            raise AdvisorError("bad-option", f"--{what} is at most {MOST_PARALLEL}, not {number}.")
    check_context(request.context)
    if request.min_quality is not None and request.min_quality > 1:
        raise AdvisorError("bad-option", f"--min-quality is at most 1, the original's, not {request.min_quality}.")
    _check_quantizer(request, quantizers, model)
    _check_rules(request, pack, f"advisor {command} {shell_word(model)}")


def _numbers(request: PlanRequest) -> tuple[tuple[str, float | None], ...]:
    """The numbers that a person may ask for, by the names of their options."""
    return (
        ("context", request.context),
        ("parallel", request.parallel),
        ("threads", request.threads),
        ("top", request.top),
        ("max-memory", request.max_memory_bytes),
        ("min-tps", request.min_tps),
        ("within", request.within_s),
        ("min-quality", request.min_quality),
    )


_WHOLE: Final = frozenset(("context", "parallel", "threads", "top", "max-memory"))


def _check_kinds(request: PlanRequest) -> None:
    """Refuse what is no number or no word at all: the library may be called with anything.

    Raises:
        AdvisorError: ``bad-option`` with the option's name.
    """
    for what, number in _numbers(request):
        kind = int if what in _WHOLE else (int, float)
        if number is not None and (isinstance(number, bool) or not isinstance(number, kind)):
            raise AdvisorError("bad-option", f"--{what} is a {'whole ' * (kind is int)}number, not {number!r}.")
    for field in ("method", "format", "runtime", "quantizer", "kv_type"):
        word = getattr(request, field)
        if word is not None and not isinstance(word, str):
            raise AdvisorError("bad-option", f"--{field.replace('_', '-')} is a word, not {word!r}.")


def check_choice(method: str, fmt: str, runtime: str, pack: RulePack, *, model: str = "8B") -> None:
    """Refuse a choice of which no numbers can be told: unknown words, and what no machine can run.

    Raises:
        AdvisorError: ``word-not-found`` or ``contradictory-options`` (with the rule that says so).
    """
    request = PlanRequest(method=method, format=fmt, runtime=runtime)
    check_words(request, model=model)
    _check_rules(request, pack, f"advisor estimate {shell_word(model)}")


def checked_settings(
    settings: Settings, machine: Machine, *, runtime: str, layers: int | None
) -> tuple[Settings, tuple[Warning_, ...]]:
    """Settings that a person named, as the runtime would take them, and what was changed.

    Args:
        settings: the settings; ``context`` is for all slots together.
        machine: the machine that they are for.
        runtime: what is to serve.
        layers: ``--gpu-layers``, where it was given.

    Raises:
        AdvisorError: ``bad-option`` for slots without room; ``contradictory-options`` for layers that nothing takes.
    """
    check_context(settings.context)
    if settings.context // settings.parallel < MIN_CONTEXT:
        least = settings.parallel * MIN_CONTEXT
        raise AdvisorError(
            "bad-option",
            f"--context {settings.context} for {settings.parallel} slots leaves each fewer than {MIN_CONTEXT} tokens.",
            hint=f"advisor estimate 8B --context {least} --parallel {settings.parallel}",
        )
    if layers and runtime not in LLAMA_ENGINES:
        raise AdvisorError(
            "contradictory-options",
            f"--gpu-layers is an option of llama.cpp; {runtime} puts all of a model on its devices.",
            hint="advisor estimate 8B --runtime llama.cpp --gpu-layers N",
        )
    if layers and not usable_devices(machine):
        raise AdvisorError(
            "contradictory-options",
            f"--gpu-layers {layers}: there is no accelerator that could take layers.",
            hint=f"advisor estimate 8B --gpu-layers {layers} --vram 24GB --bandwidth 1008GB/s",
        )
    if settings.ubatch <= settings.batch:
        return settings, ()
    told = f"--ubatch {settings.ubatch} was cut to {settings.batch}, the tokens that --batch takes at once"
    return msgspec.structs.replace(settings, ubatch=settings.batch), (Warning_(code="cost", message=told),)


def check_context(context: int | None) -> None:
    """Refuse a context that no runtime can work with: llama.cpp pads it to whole blocks of 256 tokens.

    Raises:
        AdvisorError: ``bad-option``.
    """
    if context is not None and context < MIN_CONTEXT:
        raise AdvisorError(
            "bad-option",
            f"--context is at least {MIN_CONTEXT} tokens, not {context}.",
            hint=f"advisor recommend --context {MIN_CONTEXT}",
        )


def check_words(request: PlanRequest, *, model: str = "8B") -> None:
    """Refuse unknown words, and a format that is none of the method.

    Raises:
        AdvisorError: ``word-not-found`` or ``contradictory-options``.
    """
    for what, word, known in (
        ("method", request.method, METHODS),
        ("runtime", request.runtime, RUNTIMES),
        ("KV cache type", request.kv_type, KV_TYPES),
    ):
        if word is not None and word not in known:
            raise word_not_found(what, word, known)
    if request.format is not None and not is_format(request.format):
        raise word_not_found("format", request.format, FORMAT_WORDS)
    _check_format(request, model)


def _check_quantizer(request: PlanRequest, quantizers: Mapping[str, QuantizerCapabilities], model: str) -> None:
    name = request.quantizer
    if name is None:
        return
    if name not in quantizers:
        raise word_not_found("quantizer", name, sorted(q for q in quantizers if q != "none"))
    methods = quantizers[name].methods
    if request.method is not None and request.method not in methods:
        raise AdvisorError(
            "contradictory-options",
            f"{name} does not make {request.method}; it makes {', '.join(sorted(methods))}.",
            hint=f"advisor recommend {shell_word(model)} --method {sorted(methods)[0]} --quantizer {name}"
            if methods
            else None,
            data={"quantizer": name, "method": request.method},
        )


def _check_format(request: PlanRequest, model: str) -> None:
    if request.method is None or request.format is None or takes(request.method, request.format):
        return
    makers = [m for m in FORMATS if takes(m, request.format)]
    raise AdvisorError(
        "contradictory-options",
        f"{request.format} is not a format of {request.method}; it belongs to {' or '.join(makers) or 'no method'}.",
        hint=f"advisor recommend {shell_word(model)} --method {makers[0]} --format {request.format}"
        if makers
        else None,
        data={"method": request.method, "format": request.format},
    )


def _check_rules(request: PlanRequest, pack: RulePack, command: str) -> None:
    """A hard fact that speaks of method, format and runtime alone decides without any machine."""
    methods = [request.method] if request.method else []
    if not methods and request.format is not None:
        methods = [m for m in FORMATS if takes(m, request.format)]
    if not methods or request.runtime is None:
        return
    hits = [forbids(pack, method, request.format, request.runtime) for method in methods]
    if any(hit is None for hit in hits):
        return
    hit = hits[0]
    assert hit is not None
    runtimes = [r for r in _RUNTIMES if forbids(pack, methods[0], request.format, r) is None]
    others = [m for m in FORMATS if forbids(pack, m, None, request.runtime) is None]
    context = [f"instead: {way}" for way in hit.instead]
    context += [f"{request.runtime} serves: {', '.join(others)}"] if others else []
    context += [f"{methods[0]} is served by: {', '.join(runtimes)}"] if runtimes else []
    context.append(f"the rule: advisor explain {hit.id}")
    # A program around llama.cpp is asked for because of where it runs, any other runtime along with its method.
    if others and (request.runtime in LLAMA_ENGINES or not runtimes):
        nearest = f"--method {others[0]} --runtime {request.runtime}"
    else:
        nearest = f"--method {methods[0]} --runtime {runtimes[0]}" if runtimes else ""
    raise AdvisorError(
        "contradictory-options",
        f"{request.runtime} cannot serve {request.format or methods[0]} ({hit.id}): {hit.because}",
        context=context,
        hint=f"{command} {nearest}" if nearest else f"advisor explain {hit.id}",
        data={
            "rule": hit.id,
            "method": methods[0],
            "runtime": request.runtime,
            "runtimes": runtimes,
            "methods": others,
        },
    )


def forbids(pack: RulePack, method: str, fmt: str | None, runtime: str) -> Rule | None:
    """The hard fact that forbids a method in a runtime whatever the model and the machine are; the one that asks for
    least first."""
    facts: dict[str, FactValue | None] = {"candidate.method": method, "candidate.runtime": runtime}
    if fmt is not None:
        facts["candidate.format"] = fmt
    for rule in sorted(pack.rules, key=lambda r: (not facts_of(r.when) <= _WORDS, r.id)):
        if rule.kind != "exclude" or rule.layer != "facts":
            continue
        # What is not known yet may come out either way; only that it is not known says nothing.
        if any(leaf.op == "present" and leaf.fact not in facts for leaf in leaves(rule.when)):
            continue
        if compile_(rule.when)(facts) is True:
            return rule
    return None


def effective_goal(goal: Goal, request: PlanRequest, model: ModelFacts) -> tuple[Goal, tuple[str, ...]]:
    """The goal with the user's context, parallel and speed, the context cut to what the model was trained for.

    Returns:
        The goal and sentences on what was changed.
    """
    notes = []
    context = request.context if request.context is not None else goal.context
    if model.context_max is not None and context > model.context_max:
        notes.append(f"context {context} was cut to {model.context_max}, the longest the model was trained for")
        context = model.context_max
    parallel = request.parallel if request.parallel is not None else goal.parallel
    wanted = request.min_tps if request.min_tps is not None else goal.min_decode_tps
    return msgspec.structs.replace(goal, context=context, parallel=parallel, min_decode_tps=wanted), tuple(notes)
