"""Holds an answer against a scenario and says in words where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from advisor.facts.plan import Plan, Rejected
from tests.scenarios.planning import Answer
from tests.scenarios.shapes import Bounds, MustNot, Pattern, Scenario, Wanted

_SHOWN = 5


def differences(s: Scenario, answer: Answer) -> list[str]:
    """One sentence for each demand that is not met; empty where all are."""
    return [*_must(s, answer), *_must_not(s, answer), *_must_say(s, answer)]


def placement(plan: Plan) -> str:
    """``cpu``, ``gpu`` or ``split``."""
    if "host" not in plan.devices:
        return "gpu"
    return "cpu" if plan.devices == ("host",) else "split"


def short(plan: Plan | None) -> str:
    """One plan in a few words: ``gguf q4_k_m in llama.cpp, split (ngl 42), needs``."""
    if plan is None:
        return "no plan"
    where = placement(plan)
    s = plan.settings
    if where == "split":
        where += f" (experts of {s.cpu_moe_layers} on host)" if s.cpu_moe_layers else f" (ngl {s.gpu_layers})"
    elif where == "gpu" and len(plan.devices) > 1:
        where += f" x{len(plan.devices)}"
    fmt = "" if plan.format == plan.method else f"{plan.format} "
    return f"{plan.method} {fmt}in {plan.runtime}, {where}, {plan.status}"


def got(answer: Answer) -> str:
    """The answer in a few words."""
    if answer.error is not None:
        return f"refused: {answer.error.code}"
    if answer.first is None:
        assert answer.found is not None
        changes = [r.change for r in answer.found.relaxations]
        return f"nothing fits; {changes[0] if changes else 'no change helps'}"
    return short(answer.first)


def pattern_words(p: Pattern) -> str:
    """A pattern as a person reads it."""
    words = [_words(getattr(p, name)) for name in ("method", "format") if getattr(p, name) is not None]
    if p.runtime is not None:
        words.append(f"in {_words(p.runtime)}")
    out = [" ".join(dict.fromkeys(words))] if words else []
    out += [_words(getattr(p, n)) for n in ("placement", "status", "source") if getattr(p, n) is not None]
    if p.quantizer is not None:
        out.append(f"made by {_words(p.quantizer)}")
    if p.devices is not None:
        out.append(f"devices {_words(p.devices)}")
    if p.imatrix is not None:
        out.append("with imatrix" if p.imatrix else "without imatrix")
    out += [f"{k.removeprefix('quantize.')} {_words(v)}" for k, v in {**p.settings, **p.parameters}.items()]
    if p.decode_tps is not None:
        out.append(f"decode {_words(p.decode_tps)} tok/s")
    if p.memory_gb is not None:
        out.append(f"memory {_words(p.memory_gb)} GB")
    if p.quantize_s is not None:
        out.append(f"made in {_words(p.quantize_s)} s")
    out += [f'says "{text}"' for text in p.says]
    out += [f"by {rule}" for rule in p.rules]
    return ", ".join(out)


def _words(value: object) -> str:
    if isinstance(value, Bounds):
        if value.least is None:
            return f"<= {value.most:g}"
        return f">= {value.least:g}" if value.most is None else f"{value.least:g} to {value.most:g}"
    if isinstance(value, tuple):
        return " or ".join(str(v) for v in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def misses(p: Pattern, plan: Plan) -> Iterator[str]:
    """Where a plan differs from a pattern."""
    for name in ("method", "format", "runtime", "quantizer", "source", "status", "imatrix"):
        wanted = getattr(p, name)
        if wanted is not None and not _holds(wanted, getattr(plan, name)):
            yield f"{name} is {getattr(plan, name)}, not {_words(wanted)}"
    if p.placement is not None and not _holds(p.placement, placement(plan)):
        yield f"it runs on {placement(plan)}, not {_words(p.placement)}"
    count = sum(key != "host" for key in plan.devices)
    if p.devices is not None and not _holds(p.devices, count):
        yield f"it takes {count} devices, not {_words(p.devices)}"
    for key, wanted in p.settings.items():
        if not _holds(wanted, getattr(plan.settings, key)):
            yield f"{key} is {getattr(plan.settings, key)}, not {_words(wanted)}"
    for key, wanted in p.parameters.items():
        if not _holds(wanted, plan.parameters.get(key)):
            yield f"{key} is {plan.parameters.get(key)}, not {_words(wanted)}"
    decode = plan.speed.decode.value if plan.speed.decode is not None else None
    if p.decode_tps is not None and not _holds(p.decode_tps, decode):
        yield f"decode is {decode if decode is None else f'{decode:.1f}'} tok/s, not {_words(p.decode_tps)}"
    size = plan.memory.total.value / 1e9
    if p.memory_gb is not None and not _holds(p.memory_gb, size):
        yield f"memory is {size:.1f} GB, not {_words(p.memory_gb)}"
    making = plan.time.quantize.value if plan.time.quantize is not None else 0
    if p.quantize_s is not None and not _holds(p.quantize_s, making):
        yield f"making it takes {making:.0f} s, not {_words(p.quantize_s)}"
    cited = {d.rule for d in plan.decisions}
    yield from (f"it does not cite {rule}" for rule in p.rules if rule not in cited)
    told = _told(plan)
    yield from (f'it does not say "{text}"' for text in p.says if text.lower() not in told)


def _holds(wanted: Wanted, value: object) -> bool:
    if isinstance(wanted, Bounds):
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return (wanted.least is None or value >= wanted.least) and (wanted.most is None or value <= wanted.most)
    if isinstance(wanted, tuple):
        return any(_holds(w, value) for w in wanted)
    if isinstance(wanted, bool) or isinstance(value, bool):
        return wanted is value
    return wanted == value


def _told(plan: Plan) -> str:
    words = [*plan.needs, *plan.warnings, *plan.assumptions, *(d.because for d in plan.decisions)]
    return "\n".join(words).lower()


def _must(s: Scenario, answer: Answer) -> Iterator[str]:
    must = s.must
    if must.refused is not None:
        code = answer.error.code if answer.error is not None else None
        if code != must.refused:
            yield f"it is not refused with {must.refused}: {got(answer)}"
        return
    if answer.found is None:
        yield f"it is refused: {answer.error}"
        return
    plans = answer.found.plans
    if must.nothing and plans:
        yield f"something fits: {short(plans[0])}"
    if must.first is not None:
        if not plans:
            yield f"there is no plan at all; wanted first: {pattern_words(must.first)}"
        else:
            wrong = list(misses(must.first, plans[0]))
            if wrong:
                at = next((p.rank for p in plans if not list(misses(must.first, p))), None)
                behind = f"; what is wanted is ranked {at}" if at is not None else "; no plan is what is wanted"
                yield f"the first plan is {short(plans[0])}: {'; '.join(wrong)}{behind}"
    for pattern in must.some:
        if _best(pattern, plans) is None:
            near = min(plans, key=lambda p: (len(list(misses(pattern, p))), p.rank), default=None)
            why = f"; the nearest is {short(near)}: {'; '.join(misses(pattern, near))}" if near is not None else ""
            yield f"no plan is {pattern_words(pattern)}{why}"
    ranks = [_best(p, plans) for p in must.before]
    for (one, first), (other, second) in zip(
        zip(must.before, ranks, strict=True), list(zip(must.before, ranks, strict=True))[1:], strict=False
    ):
        if first is None or (second is not None and second < first):
            yield f"{pattern_words(one)} (rank {first}) does not come before {pattern_words(other)} (rank {second})"


def _best(pattern: Pattern, plans: Sequence[Plan]) -> int | None:
    return next((p.rank for p in plans if not list(misses(pattern, p))), None)


def _must_not(s: Scenario, answer: Answer) -> Iterator[str]:
    if answer.found is None:
        return
    for no in s.must_not:
        plans = answer.found.plans[:1] if no.first else answer.found.plans
        rank = _best(no.plan, plans)
        if rank is not None:
            yield f"ranked {rank} is {pattern_words(no.plan)}, which must not be" + (f" ({no.rule})" if no.rule else "")
        if no.rule is not None and not any(_speaks(no, r) for r in answer.found.rejected):
            rules = sorted({r.rule for r in answer.found.rejected if _same(no.plan, r)})
            yield (
                f"{no.rule} does not reject {pattern_words(no.plan)}; "
                f"{'rules that do: ' + ', '.join(rules[:_SHOWN]) if rules else 'nothing does'}"
            )


def _speaks(no: MustNot, r: Rejected) -> bool:
    return r.rule == no.rule and _same(no.plan, r)


def _same(p: Pattern, r: Rejected) -> bool:
    """One rejection speaks for all formats of a method, and its format is only an example."""
    return all(
        wanted is None or _holds(wanted, value) for wanted, value in ((p.method, r.method), (p.runtime, r.runtime))
    )


def _must_say(s: Scenario, answer: Answer) -> Iterator[str]:
    say = s.must_say
    if answer.error is not None:
        rule = str((answer.error.data or {}).get("rule"))
        yield from (f"the refusal does not cite {wanted}, but {rule}" for wanted in say.rules if wanted != rule)
        spoken = "\n".join([answer.error.message, *answer.error.context, answer.error.hint or ""]).lower()
        yield from (f'the refusal does not say "{text}"' for text in say.text if text.lower() not in spoken)
        return
    assert answer.found is not None
    first = answer.first
    cited = {d.rule for d in first.decisions} if first is not None else {r.rule for r in answer.found.rejected}
    for rule in say.rules:
        if rule not in cited:
            yield f"{'the first plan' if first is not None else 'no rejection'} does not cite {rule}"
    parts = [*(w.message for w in answer.found.warnings), *(r.because for r in answer.found.rejected)]
    told = "\n".join(parts).lower() + ("\n" + _told(first) if first is not None else "")
    yield from (f'nothing says "{text}"' for text in say.text if text.lower() not in told)
    changes = [r.change for r in answer.found.relaxations]
    for wanted in say.relaxations:
        if not any(wanted in change for change in changes):
            yield f'no relaxation says "{wanted}"; offered: {"; ".join(changes) or "none"}'
