"""``advisor env``: the managed environments."""

from __future__ import annotations

import click

from ..command import LazyGroup, command
from ..options import option
from ..run import Run


@command("list")
def list_(run: Run) -> None:
    """List the environments, what can be built, and the providers of llama.cpp."""
    from advisor import api
    from advisor.facts.schemas import EnvsData

    from ..views import environments as view

    found = api.env_list(settings=run.settings)
    providers = api.env_providers(settings=run.settings)
    offers = api.env_offers(settings=run.settings)
    run.sink.result(
        run.command,
        EnvsData(environments=found, providers=providers, offers=offers),
        human=lambda page: view.listing(page, found, providers, offers, verbose=run.verbose),
        quiet=tuple(env.name for env in found),
    )


@command("build")
@click.argument("name")
@option(
    "--provider",
    type=click.Choice(("path", "build", "wheel"), case_sensitive=False),
    help="For llama.cpp: the wheel for the CPU (default), build: compile it here, path: try the one on PATH.",
)
@option(
    "--backend",
    type=click.Choice(("cpu", "cuda", "rocm", "metal", "vulkan"), case_sensitive=False),
    help="What to compile for; the machine's devices decide otherwise.",
)
@option(
    "--variant",
    type=click.Choice(("cpu", "cuda", "rocm"), case_sensitive=False),
    help="For which devices; the machine's devices and drivers decide otherwise.",
)
def build(run: Run, name: str, provider: str | None, backend: str | None, variant: str | None) -> None:
    """Build the environment of the backend NAME.

    llama.cpp has three providers. Its wheel for devices, prebuilt with Vulkan, is the environment llama.cpp-vulkan. A
    build that was stopped goes on where it was.
    """
    from advisor import api
    from advisor.facts.schemas import EnvData

    from ..views import environments as view

    with run.working() as work:
        made = api.env_build(
            name,
            provider=provider,
            backend=backend,
            variant=variant,
            settings=run.settings,
            reporter=work.reporter,
            cancel=work.cancel,
        )
    run.sink.result(
        run.command,
        EnvData(environment=made),
        human=lambda page: view.environments(page, (made,), verbose=run.verbose),
        quiet=(made.path,),
    )


@command("remove")
@click.argument("name")
def remove(run: Run, name: str) -> None:
    """Delete the environment NAME; it can be built again."""
    from advisor import api
    from advisor.facts.schemas import EnvData

    from ..views import environments as view

    run.confirm(f"Delete the environment {name}?")
    gone = api.env_remove(name, settings=run.settings)
    run.sink.result(
        run.command, EnvData(environment=gone), human=lambda page: view.removed(page, gone), quiet=(gone.path,)
    )


@command("doctor")
@click.argument("name", required=False)
def doctor(run: Run, name: str | None) -> int:
    """Check the environments, or the one called NAME. Exit code 5: one does not work."""
    from advisor import api

    from ..views import checks as view

    return view.report(run, api.env_doctor(name, settings=run.settings))


env = LazyGroup(
    "env",
    {
        "list": (__name__, "list_", "List the environments."),
        "build": (__name__, "build", "Build an environment."),
        "remove": (__name__, "remove", "Delete an environment."),
        "doctor": (__name__, "doctor", "Check the environments."),
    },
    "The managed environments of the backends.",
)
