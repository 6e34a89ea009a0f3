"""Parameter types: they turn words of the command line into values and say what would have been right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from advisor.cli import values
from advisor.errors import AdvisorError, did_you_mean
from advisor.facts.words import GGUF_FORMATS, GOALS, KV_TYPES, METHODS, PLAIN_FORMATS, RUNTIMES, is_format

if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:  # generic only in newer releases
    _Type = click.ParamType


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


class Word(_Type):
    """A word of a fixed vocabulary; case does not matter. ``accepts`` admits words beyond the listed ones."""

    def __init__(self, name: str, words: tuple[str, ...], accepts: Callable[[str], bool] | None = None) -> None:
        self.name = name
        self._words = words
        self._accepts = accepts or words.__contains__

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the word in lower case."""
        word = str(value).lower()
        if not self._accepts(word):
            near = did_you_mean(word, self._words)
            known = "" if near else " Known: " + ", ".join(self._words) + "."
            self.fail(f"there is no {self.name} {value!r}.{near}{known}", param, ctx)
        return word

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
        if isinstance(value, str) and (value == "wikitext-2" or value.startswith("hf:datasets/")):
            return value
        return super().convert(value, param, ctx)


SIZE: Final = Parsed("size", values.parse_size)
BANDWIDTH: Final = Parsed("rate", values.parse_bandwidth)
DURATION: Final = Parsed("duration", values.parse_duration)
TOKENS: Final = Parsed("tokens", values.parse_tokens)
COUNT: Final = click.IntRange(min=1)
METHOD: Final = Word("method", METHODS)
FORMAT: Final = Word("format", (*GGUF_FORMATS, *PLAIN_FORMATS, "w4a16-g128", "hqq4-g64"), is_format)
RUNTIME: Final = Word("runtime", RUNTIMES)
KV_TYPE: Final = Word("KV cache type", KV_TYPES)
GOAL: Final = Suggested("goal", GOALS)
EXISTING: Final = Existing()
TEXT: Final = ExistingText()
NEW_PATH: Final = click.Path(path_type=Path)
