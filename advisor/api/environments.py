"""Managed environments and the providers of llama.cpp: listing, building, looking over, removing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from advisor.api import providing
from advisor.api.context import load_settings
from advisor.errors import AdvisorError, did_you_mean
from advisor.events import Cancel, Reporter
from advisor.facts.reports import Check, EnvInfo, ProviderInfo

if TYPE_CHECKING:
    from advisor.execute import envs
    from advisor.settings import Settings

WHEEL = "llama.cpp"
BUILD = "llama.cpp-build"
VULKAN = "llama.cpp-vulkan"


def _env(info: envs.EnvInfo) -> EnvInfo:
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
    )


def env_list(*, settings: Settings | None = None) -> tuple[EnvInfo, ...]:
    """Managed environments that exist, complete or not."""
    from advisor.execute import envs

    return tuple(_env(e) for e in envs.list_envs(settings=load_settings(settings)))


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
    made = envs.ensure(name, settings=s, reporter=reporter, cancel=cancel)
    return next(_env(e) for e in envs.list_envs(settings=s) if e.path == made.path or e.name == name)


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
            reports = (envs.doctor(each, settings=s),)
        again = "advisor env build llama.cpp --provider build" if each == BUILD else f"advisor env build {each}"
        checks += [
            Check(
                name=f"environment {each}",
                ok=report.healthy,
                message="it works" if report.healthy else "; ".join(report.problems),
                hint=None if report.healthy else f"advisor env remove {each} && {again}",
            )
            for report in reports
        ]
    return tuple(checks)
