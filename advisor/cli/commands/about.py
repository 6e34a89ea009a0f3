"""``advisor paths``, ``config`` and ``schema``: advisor about itself."""

from __future__ import annotations

import click

from advisor.errors import AdvisorError, did_you_mean

from ..command import LazyGroup, command
from ..run import Run


@command("paths")
def paths(run: Run) -> None:
    """Show where advisor keeps its files."""
    from advisor import api
    from advisor.facts.schemas import PathsData

    found = api.paths(settings=run.settings)
    names = ("cache", "state", "config", "store", "envs", "deployments", "plans", "logs")
    folders = {name: str(getattr(found, name)) for name in names}
    run.sink.result(
        run.command,
        PathsData(paths=folders),
        human=lambda page: page.fields(folders.items()),
        quiet=folders.values(),
    )


@command("show")
def show(run: Run) -> None:
    """Show the settings and where each was set."""
    from advisor import api
    from advisor.facts.schemas import ConfigData, SettingValue

    from ..views import settings as view

    values = api.config(settings=run.settings).values
    run.sink.result(
        run.command,
        ConfigData(settings={k: SettingValue(value=v.value, origin=v.origin) for k, v in values.items()}),
        human=lambda page: view.settings(page, values),
        quiet=tuple(f"{name}={value.value}" for name, value in values.items()),
    )


@command("schema")
@click.argument("name", required=False)
def schema(run: Run, name: str | None) -> None:
    """Print the JSON Schema of the document of the command NAME, or list the names.

    Names of commands with two words are joined by a hyphen: rules-list.
    """
    from advisor.facts import schemas

    names = schemas.names()
    if name is not None and name not in names:
        near = did_you_mean(name, names)
        raise AdvisorError("schema-not-found", f"There is no schema {name!r}.{near}", hint="advisor schema")
    text = schemas.published(name).decode() if name else "".join(f"{n}\n" for n in names)
    if run.sink.mode != "json":
        run.sink.raw(text)
        return
    data = schemas.SchemaData(names=(name,) if name else names, json_schema=schemas.build(name) if name else None)
    run.sink.result(run.command, data, human=lambda page: page.lines(text))


config = LazyGroup(
    "config",
    {"show": (__name__, "show", "Show the settings and where each was set.")},
    "The settings and where each was set.",
)
