"""Managed environments and the providers of llama.cpp: listing, building, looking over, removing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from advisor.api import providing
from advisor.api.context import load_settings
from advisor.errors import AdvisorError, did_you_mean
from advisor.events import Cancel, Event, Reporter, safely
from advisor.facts.reports import Check, EnvInfo, EnvOffer, ProviderInfo

if TYPE_CHECKING:
    from advisor.execute import envs
    from advisor.settings import Settings

WHEEL = "llama.cpp"
BUILD = "llama.cpp-build"
VULKAN = "llama.cpp-vulkan"


def _env(info: envs.EnvInfo) -> EnvInfo:
    from advisor.backends import pins
    from advisor.execute import envs

    packages = envs.installed(Path(info.path)) if info.built else {}
    return EnvInfo(
        name=info.name,
        path=info.path,
        complete=info.built and info.current,
        bytes=info.bytes,
        python=info.python_version,
        packages=packages,
        provider={WHEEL: "wheel", VULKAN: "wheel", BUILD: "build"}.get(info.name),
        variant=info.variant,
        built=info.built,
        current=info.current,
        purpose=pins.pins(info.name).description if info.name in pins.names() else None,
        seconds=info.seconds,
    )


def env_list(*, settings: Settings | None = None) -> tuple[EnvInfo, ...]:
    """Managed environments that exist, complete or not."""
    from advisor.execute import envs

    return tuple(_env(e) for e in envs.list_envs(settings=load_settings(settings)))


def env_offers(*, settings: Settings | None = None) -> tuple[EnvOffer, ...]:
    """All environments that this version can build, each in the variant that this machine takes."""
    from advisor.api.context import this_machine
    from advisor.backends import pins, variants
    from advisor.execute import envs

    s = load_settings(settings)
    machine = this_machine(s)[0]
    why = variants.choose(machine).why
    ready = {e.name for e in envs.list_envs(settings=s) if e.name == BUILD and e.built}
    out = []
    for name in pins.names():
        variant = variants.best(name, machine)
        known = pins.pins(name, variant)
        out.append(
            EnvOffer(
                name=name,
                variant=variant,
                variants=pins.variants(name),
                built=name in ready or envs.is_ready(known, s),
                bytes=known.disk_bytes,
                purpose=known.description,
                needs=known.needs,
                why=why if variant is not None else (),
            )
        )
    return tuple(out)


def env_providers(*, settings: Settings | None = None) -> tuple[ProviderInfo, ...]:
    """The providers of llama.cpp as they stand here, what does not work with the reason."""
    from advisor.api.context import this_machine

    s = load_settings(settings)
    return tuple(
        ProviderInfo(
            provider=o.provider,
            state=o.state,
            version=o.version,
            backends=o.backends,
            path=o.binary.server if o.binary is not None else None,
            tools=tuple(sorted(o.binary.tools)) if o.binary is not None else (),
            features=o.binary.features if o.binary is not None else (),
            why=o.why,
        )
        for o in providing.offers(s, this_machine(s)[0])
    )


def env_build(
    name: str,
    *,
    provider: str | None = None,
    backend: str | None = None,
    variant: str | None = None,
    settings: Settings | None = None,
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
) -> EnvInfo:
    """Build the environment ``name`` unless it is there and whole.

    Args:
        name: an environment; ``llama.cpp`` has three providers.
        provider: for ``llama.cpp``: ``wheel`` (the default), ``build`` (compile it here), or ``path`` (build nothing;
            try the programs on PATH by serving a tiny model).
        backend: what to compile for (``cpu cuda rocm metal vulkan``); the machine's devices decide otherwise.
        variant: for which devices (``cpu cuda rocm``), where the environment has variants; the machine's devices and
            drivers decide otherwise.

    Raises:
        AdvisorError: ``backend-not-found``, ``bad-option``, ``contradictory-options``, ``tool-missing``,
            ``runtime-unfit``, ``runtime-vulnerable``, ``env-failed``, ``network``, ``offline``, ``disk-full``.
    """
    from advisor.execute import envs

    s = load_settings(settings)
    if provider is not None:
        providing.known_provider(provider)
        if name not in (WHEEL, BUILD) or (name == BUILD and provider != "build"):
            raise AdvisorError(
                "contradictory-options",
                f"--provider says which llama.cpp; the environment {name!r} has no choice of providers.",
                hint=f"advisor env build {name}",
            )
    compiled = provider == "build" or name == BUILD
    if variant is not None:
        from advisor.backends import pins

        pins.pins(name, variant)
    if backend is not None and not compiled:
        raise AdvisorError(
            "contradictory-options",
            "--backend says what to compile for; only the provider build compiles.",
            hint="advisor env build llama.cpp --provider build",
        )
    if provider == "path":
        kept = providing.prove_path(s, again=True)
        return EnvInfo(
            name=name,
            path=str(Path(kept.binary.server).parent),
            complete=True,
            bytes=None,
            python=None,
            packages=dict.fromkeys(sorted(kept.binary.tools), kept.binary.label),
            provider="path",
        )
    if compiled:
        from advisor.api.context import this_machine
        from advisor.execute.llama import build

        machine = this_machine(s)[0]
        built = build.ensure(
            build.recipe(machine, s, backend=backend), machine, settings=s, reporter=reporter, cancel=cancel
        )
        return next(_env(e) for e in envs.list_envs(settings=s) if e.path == built.path)
    variant = _variant(name, variant, s, safely(reporter))
    made = envs.ensure(name, settings=s, reporter=reporter, cancel=cancel, variant=variant)
    return next(_env(e) for e in envs.list_envs(settings=s) if e.path == made.path)


def _variant(name: str, asked: str | None, settings: Settings, say: Reporter) -> str | None:
    """The variant to build: as asked, with a warning where this machine takes another, or this machine's.

    Raises:
        AdvisorError: ``backend-not-found``, ``bad-option``.
    """
    from advisor.api.context import this_machine
    from advisor.backends import pins, variants

    if not pins.variants(name):
        return pins.pins(name, asked).variant
    known = pins.pins(name, asked)
    choice = variants.choose(this_machine(settings)[0])
    if asked is None:
        for reason in choice.why:
            say(Event(kind="note", step="environment", message=reason))
        return choice.variant if choice.variant in pins.variants(name) else pins.BASE_VARIANT
    if asked not in (choice.variant, pins.BASE_VARIANT):
        why = "; ".join(choice.why) or "no such device is here"
        say(Event(kind="warning", step="environment", message=f"{known.title} is not for this machine: {why}"))
    for need in known.needs:
        say(Event(kind="note", step="environment", message=f"it needs: {need}"))
    return asked


def env_remove(name: str, *, settings: Settings | None = None) -> EnvInfo:
    """Remove all environments of that name.

    Raises:
        AdvisorError: ``backend-not-found`` where there is none.
    """
    from advisor.execute import envs

    s = load_settings(settings)
    found = [e for e in envs.list_envs(settings=s) if e.name == name]
    if not found:
        raise AdvisorError(
            "backend-not-found",
            f"There is no environment {name!r} here.{did_you_mean(name, [e.name for e in envs.list_envs(settings=s)])}",
            hint="advisor env list",
        )
    info = _env(found[0])
    envs.remove(name, settings=s)
    return info


def env_doctor(name: str | None = None, *, settings: Settings | None = None) -> tuple[Check, ...]:
    """Look one environment over, or all that exist: complete, unchanged, and its health check run again.

    Raises:
        AdvisorError: ``backend-not-found``.
    """
    from advisor.execute import envs

    s = load_settings(settings)
    names = [name] if name is not None else sorted({e.name for e in envs.list_envs(settings=s)})
    checks = []
    for each in names:
        if each == BUILD:
            from advisor.execute.llama import build

            reports = build.doctor(settings=s)
        else:
            reports = tuple(envs.doctor(each, settings=s, variant=v) for v in _to_look_at(each, s))
        for report in reports:
            again = "advisor env build llama.cpp --provider build" if each == BUILD else f"advisor env build {each}"
            shown = f" ({report.variant})" if report.variant is not None else ""
            again += f" --variant {report.variant}" if report.variant is not None else ""
            checks.append(
                Check(
                    name=f"environment {each}{shown}",
                    ok=report.healthy,
                    message=_works(report) if report.healthy else "; ".join(report.problems),
                    hint=None if report.healthy else f"advisor env remove {each} && {again}",
                )
            )
    return tuple(checks)


def _to_look_at(name: str, settings: Settings) -> tuple[str | None, ...]:
    """The variants of ``name`` that are on disk; where none is, the one that this machine takes."""
    from advisor.api.context import this_machine
    from advisor.backends import pins, variants
    from advisor.execute import envs

    if name not in pins.names() or not pins.variants(name):
        return (None,)
    there = {e.variant for e in envs.list_envs(settings=settings) if e.name == name}
    return tuple(v for v in pins.variants(name) if v in there) or (variants.best(name, this_machine(settings)[0]),)


def _works(report: envs.EnvReport) -> str:
    """What a health check that passed saw: devices and seconds, where it says."""
    devices, seconds = report.health.get("devices"), report.health.get("seconds")
    if not isinstance(devices, list) or not isinstance(seconds, int | float):
        return "it works"
    return f"it works: torch sees {', '.join(map(str, devices))}; {seconds:.0f} s"
