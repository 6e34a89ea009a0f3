"""A whole recommendation in prose: what it was about, what was weighed, why the first won and the others did not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from advisor.facts import shown
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Goal, Plan, PlanRequest, Rejected, Relaxation, Warning_
from advisor.facts.reports import Explanation, ExplanationPart
from advisor.planner.explain import against, explain_plan, rejected_texts
from advisor.planner.rejections import by_reason
from advisor.planner.scene import goal_told, machine_told, model_told

_CLOSEST: Final = 3
# What a relaxation gives up, in words.
GIVES_UP: Final = {
    "nothing": "it gives up nothing",
    "choice": "it gives up a choice of yours",
    "limit": "it gives up a limit of yours",
    "capacity": "it holds less",
    "deployment": "it ends what is served now",
    "hardware": "it takes other hardware",
    "much-capacity": "it holds much less",
    "model": "it is another model",
}


class Answer(NamedTuple):
    """A recommendation as it was given. ``machine_name``: ``this`` for the own one; ``None`` where an older version
    kept it without machine, model and goal."""

    plans: tuple[Plan, ...]
    rejected: tuple[Rejected, ...]
    relaxations: tuple[Relaxation, ...]
    request: PlanRequest
    model_ref: str
    machine_name: str | None
    machine: Machine | None
    model: ModelFacts | None
    goal: Goal | None
    considered: int
    possible: int
    warnings: tuple[Warning_, ...]
    overlay_rules: tuple[str, ...]


def story(answer: Answer) -> Explanation:
    """The whole story of one recommendation."""
    first = answer.plans[0] if answer.plans else None
    parts = [*_scene(answer), *_weighed(answer)]
    sources = answer.goal.sources if answer.goal is not None else ()
    if first is not None:
        told = explain_plan(
            first,
            goal=answer.request.goal,
            machine=answer.machine_name,
            others=answer.plans,
            rejected=answer.rejected,
            goal_weights=answer.goal.weights if answer.goal is not None else None,
        )
        parts += _won(first, answer, told)
        sources = tuple(dict.fromkeys((*told.sources, *sources)))
        title, text, id_ = told.title, told.text, first.id
    else:
        parts += _nothing(answer)
        title, id_ = answer.model_ref, "last"
        text = f"No plan for {answer.model_ref} fits the machine."
        if answer.relaxations:
            best = answer.relaxations[0]
            text += f" It would fit with this change: {best.change} ({GIVES_UP[best.gives_up]})."
    parts += [*_unknown(answer, first), *_own_rules(answer), *_next(answer, first)]
    kept = tuple(ExplanationPart(title=t, sentences=tuple(s)) for t, s in parts if s)
    return Explanation(
        kind="recommendation",
        id=id_,
        title=title,
        text=text,
        details=tuple(dict.fromkeys(s for part in kept for s in part.sentences if s != text)),
        sources=sources,
        parts=kept,
    )


Part = tuple[str, Sequence[str]]


def _scene(a: Answer) -> list[Part]:
    return [
        ("The machine", machine_told(a.machine, a.machine_name) if a.machine is not None else ()),
        ("The model", model_told(a.model) if a.model is not None else ()),
        ("The goal", goal_told(a.goal, a.request) if a.goal is not None else ()),
    ]


def _weighed(a: Answer) -> list[Part]:
    if not a.considered:
        return []
    out = a.considered - a.possible
    reasons = by_reason(a.rejected)
    said = [
        f"{shown.counted(a.considered, 'way')} of a method, a format, a runtime and a place to run it were looked at: "
        f"{shown.counted(a.possible, 'way')} can run and were ranked, {out:,} were ruled out"
        + (f", for {shown.counted(len(reasons), 'reason')}." if reasons else ".")
    ]
    return [("What was weighed", said)]


def _won(first: Plan, a: Answer, told: Explanation) -> list[Part]:
    spoken = {part.title: part.sentences for part in told.parts}
    weights = a.goal.weights if a.goal is not None else None
    second = a.plans[1] if len(a.plans) > 1 else None
    gives = [first.against_next] if first.against_next else []
    if second is not None:
        gives.append(against(first, second, weights))
    elif not gives:
        gives.append("There is no other plan to hold it against.")
    others = [against(first, o, weights) for o in a.plans[2:]]
    return [
        (f"Why {first.id} comes first", (told.text, *spoken.get("Figures", ()), *spoken.get("Rules", ()))),
        ("What it gives up against the second", gives),
        ("Why the others come after it", others),
        ("What was ruled out", rejected_texts(a.rejected)),
    ]


def _nothing(a: Answer) -> list[Part]:
    near = [r for r in a.rejected if r.misses][:_CLOSEST]
    return [
        ("What came closest", [closest_text(r) for r in near]),
        ("What would have to give, the least first", [relaxation_text(r) for r in a.relaxations]),
        ("What was ruled out", rejected_texts(a.rejected)),
    ]


def closest_text(r: Rejected) -> str:
    """``q2_k in llama.cpp on gpu0 and host: it takes 38 GiB, 2.44 GiB more than may be used there (MEM-004).``"""
    name = r.format if r.method in ("gguf", "none", r.format) else f"{r.method} {r.format}"
    where = f" on {shown.listed(r.devices)}" if r.devices else ""
    return f"{name} in {r.runtime}{where}: {'; '.join(r.misses)} ({r.rule})."


def relaxation_text(r: Relaxation) -> str:
    """The change, what it gives up, the plan that it leads to and the command that asks for it."""
    p = r.plan
    decode = f" at {shown.quantity(p.speed.decode)}" if p.speed.decode is not None else ""
    asks = f" Ask for it: {r.command}" if r.command is not None else ""
    said = f"{r.change}: {GIVES_UP[r.gives_up]}, and leads to {p.format} in {p.runtime}, "
    return f"{said}{shown.quantity(p.memory.total)}{decode} ({p.id}).{asks}"


def _unknown(a: Answer, first: Plan | None) -> list[Part]:
    said = [f"Assumed: {text}." for text in first.assumptions] if first is not None else []
    if first is not None:
        warned = {d.because for d in first.decisions if d.effect == "warn"}
        said += [f"Warning: {text}" for text in first.warnings if text not in warned]
        for what, q in (
            ("the decode speed", first.speed.decode),
            ("the loss of quality", first.quality.kld),
            ("the time to start", first.time.start),
        ):
            said += [f"Not known: {what} of {first.id}."] if q is None else []
    said += [f"Warning: {w.message}" for w in a.warnings if w.code != "own-rules" and w.message not in said]
    return [("What was assumed and what is not known", list(dict.fromkeys(said)))]


def _own_rules(a: Answer) -> list[Part]:
    told = [w.message for w in a.warnings if w.code == "own-rules"]
    if a.overlay_rules:
        told.append(f"Here these of them spoke: {', '.join(a.overlay_rules)}.")
    return [("Your own rules", told)]


def _next(a: Answer, first: Plan | None) -> list[Part]:
    if first is None:
        asks = [f"With the first change: {r.command}" for r in a.relaxations[:1] if r.command is not None]
        return [("What to type next", [*asks, "What any model takes here: advisor recommend"])]
    runs = first.status == "ready" and first.executable_here
    does = f"To carry it out: advisor up {first.id}" if runs else f"Its commands: advisor up --dry-run {first.id}"
    said = [does]
    if first.decisions:
        said.append(f"A rule in full, with its condition: advisor explain {first.decisions[0].rule}")
    if len(a.plans) > 1:
        said.append(f"The second plan: advisor explain {a.plans[1].id}")
    said.append("A rule of your own weighs differently: advisor rules --help")
    return [("What to type next", said)]
