"""Parameter types: they turn words of the command line into values and say what would have been right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from advisor.cli import values
from advisor.cli.failure import command_name
from advisor.cli.run import Run
from advisor.errors import AdvisorError, word_not_found
from advisor.facts.words import (
    FORMAT_WORDS,
    GOALS,
    KV_TYPES,
    METHODS,
    RUNTIMES,
    is_format,
    is_hub_text,
)

if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:  # generic only in newer releases
    _Type = click.ParamType


def tell_command(ctx: click.Context | None) -> None:
    """Name the command to the error document: its own code has not begun while its words are read."""
    if ctx is not None and isinstance(ctx.obj, Run):
        ctx.obj.command = command_name(ctx) or ctx.obj.command


class Parsed(_Type):
    """A value read by a function that raises ``ValueError`` with a full sentence."""

    def __init__(self, name: str, parse: Callable[[str], float | int]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read ``value``; already read values pass."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as e:
            self.fail(str(e) + ".", param, ctx)


class Several(_Type):
    """Values that are separated by commas, each read by a function that raises ``ValueError`` with a full sentence."""

    def __init__(self, name: str, parse: Callable[[str], int]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read ``value``; already read values pass."""
        if not isinstance(value, str):
            return value
        try:
            return tuple(self._parse(word) for word in value.split(","))
        except ValueError as e:
            self.fail(str(e) + ".", param, ctx)


class Name(_Type):
    """A name of the contract's vocabulary; case does not matter. An unknown one is ``word-not-found``, no usage error.

    ``accepts`` admits names beyond the listed ones.
    """

    def __init__(self, name: str, words: tuple[str, ...], accepts: Callable[[str], bool] | None = None) -> None:
        self.name = name
        self._words = tuple(dict.fromkeys(words))
        self._accepts = accepts or words.__contains__

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the word in lower case."""
        word = str(value).lower()
        if not self._accepts(word):
            tell_command(ctx)
            raise word_not_found(self.name, str(value), self._words, hint=f"{ctx.command_path} --help" if ctx else None)
        return word

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The last word of the name: ``TYPE`` of a KV cache type."""
        return self.name.split()[-1].upper()

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the listed words."""
        return [CompletionItem(w) for w in self._words if w.startswith(incomplete.lower())]


class Suggested(_Type):
    """Free text for which the shell offers the usual words; whether it is right is decided later."""

    def __init__(self, name: str, words: tuple[str, ...]) -> None:
        self.name = name
        self._words = words

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the usual words."""
        return [CompletionItem(w) for w in self._words if w.startswith(incomplete)]


class Existing(_Type):
    """A file or folder that must be there; otherwise ``file-not-found``, which is not a usage error."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path."""
        path = Path(value)
        try:
            there = path.exists()
        except (OSError, ValueError):
            there = False
        if not there:
            tell_command(ctx)
            option = param.get_error_hint(ctx) if param is not None and ctx is not None else "path"
            raise AdvisorError("file-not-found", f"{option}: there is no file or folder {str(value)!r}.")
        return path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Leave it to the shell's own completion of files."""
        return [CompletionItem(incomplete, type="file")]


class ExistingText(Existing):
    """A text file, ``wikitext-2``, or a text of a dataset of the hub, which is fetched later."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path of a file that is here; words for the hub pass."""
        if isinstance(value, str) and is_hub_text(value):
            return value
        return super().convert(value, param, ctx)


SIZE: Final = Parsed("size", values.parse_size)
BANDWIDTH: Final = Parsed("rate", values.parse_bandwidth)
DURATION: Final = Parsed("duration", values.parse_duration)
TOKENS: Final = Parsed("tokens", values.parse_tokens)
COUNT: Final = Parsed("n", values.parse_count)
METHOD: Final = Name("method", METHODS)
FORMAT: Final = Name("format", FORMAT_WORDS, is_format)
RUNTIME: Final = Name("runtime", RUNTIMES)
KV_TYPE: Final = Name("KV cache type", KV_TYPES)
GOAL: Final = Suggested("goal", GOALS)
QUANTIZER: Final = Suggested("quantizer", ("llama.cpp", "llmcompressor", "gptqmodel", "autoawq", "bitsandbytes", "hqq"))
EXISTING: Final = Existing()
TEXT: Final = ExistingText()
NEW_PATH: Final = click.Path(path_type=Path)
COUNTS: Final = Several("n,n", values.parse_tokens)
