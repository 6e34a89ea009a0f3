"""How commands are declared: each gets the common options and is called with a ``Run`` first."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import click

from advisor.errors import did_you_mean

from .failure import command_name
from .run import Run

_FLAGS: Final = "advisor.flags"
_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
# name -> (declarations, help)
COMMON: Final = {
    "json": (("--json",), "Write one JSON document; progress goes to standard error."),
    "quiet": (("--quiet", "-q"), "Write the bare answer and no progress."),
    "verbose": (("--verbose", "-v"), "Write more detail."),
    "yes": (("--yes", "-y"), "Answer yes to every question."),
    "offline": (("--offline",), "Use no network."),
}
_COMMON_SECTION: Final = "For every command"


class Option(click.Option):
    """An option that stands under a heading of its own in the help."""

    def __init__(self, *words: Any, section: str = "Options", **attributes: Any) -> None:
        super().__init__(*words, **attributes)
        self.section = section


class Command(click.Command):
    """A command whose help has its options by subject and ends with examples."""

    examples: tuple[str, ...] = ()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options under their headings, in the order in which they were declared."""
        _write_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples."""
        _write_examples(self.examples, formatter)


def _write_options(of: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for param in of.get_params(ctx):
        record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
        if record is not None:
            section = param.section if isinstance(param, Option) else _COMMON_SECTION
            sections.setdefault(section, []).append(record)
    for title in sorted(sections, key=_COMMON_SECTION.__eq__):
        with formatter.section(title):
            formatter.write_dl(sections[title])


def _write_examples(examples: tuple[str, ...], formatter: click.HelpFormatter) -> None:
    if examples:
        with formatter.section("Examples"):
            for example in examples:
                formatter.write(f"{'':>{formatter.current_indent}}{example}\n")


def _remember(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and param.name:
        ctx.meta.setdefault(_FLAGS, set()).add(param.name)


def common_options() -> list[click.Option]:
    """Fresh common options; they are accepted before and after the command's name."""
    return [
        Option([*words, name], is_flag=True, expose_value=False, callback=_remember, help=text, section=_COMMON_SECTION)
        for name, (words, text) in COMMON.items()
    ]


def command(name: str, *examples: str) -> Callable[[Callable[..., int | None]], click.Command]:
    """Declare a command: ``function(run, **parameters)`` returns the exit code, ``None`` for 0.

    Args:
        name: its word.
        examples: command lines for the end of its help.
    """

    def declare(function: Callable[..., int | None]) -> click.Command:
        @click.pass_context
        @wraps(function)
        def call(ctx: click.Context, /, **given: Any) -> int | None:
            run = ctx.obj
            if not isinstance(run, Run):
                raise TypeError("a command needs a Run as context object")
            run.begin(command_name(ctx) or name, frozenset(ctx.meta.get(_FLAGS, ())))
            return function(run, **given)

        # Options were stacked on the function by click's decorators.
        call.__dict__["__click_params__"] = getattr(function, "__click_params__", [])
        made = click.command(name, cls=Command, context_settings=_SETTINGS)(call)
        made.examples = examples
        made.params.extend(common_options())
        return made

    return declare


class LazyGroup(click.Group):
    """Commands that are imported when they are used. ``table`` maps a name to (module, attribute, short help)."""

    def __init__(
        self, name: str, table: dict[str, tuple[str, str, str]], help: str, examples: tuple[str, ...] = ()
    ) -> None:
        super().__init__(name, help=help, context_settings=_SETTINGS, no_args_is_help=False)
        self.table = table
        self.examples = examples
        self.params.extend(common_options())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the table's order, which is the order of use."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        if cmd_name not in self.table:
            return None
        import importlib

        module, attribute, _ = self.table[cmd_name]
        found: click.Command = getattr(importlib.import_module(module), attribute)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        word = args[0]
        if word not in self.table and not word.startswith("-") and not ctx.resilient_parsing:
            near = did_you_mean(word, list(self.table))
            raise click.UsageError(f"There is no command {word!r}.{near}", ctx)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands, then the options."""
        self.format_commands(ctx, formatter)
        _write_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples."""
        _write_examples(self.examples, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, so that help imports none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in self.table.items()])
