"""Words of systemd's unit files, which podman's quadlets share (systemd.syntax, systemd.service: command lines)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

_PLAIN: Final = re.compile(r"[A-Za-z0-9@%_+=:,./$-]+")


def word(text: str, *, dollars: bool = True) -> str:
    """``text`` as one word: specifiers are doubled, and variables (``dollars``), where the setting expands them."""
    out = text.replace("%", "%%")
    if dollars:
        out = out.replace("$", "$$")
    if _PLAIN.fullmatch(out):
        return out
    escaped = out.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def command(argv: Iterable[str]) -> str:
    """A command line for ``ExecStart=`` and its like.

    The program's own path is not expanded, so that a ``$`` in it would stay doubled; the prefix ``:`` then turns
    expansion off for the whole line.
    """
    line = tuple(argv)
    if "$" in line[0]:
        return ":" + " ".join(word(a, dollars=False) for a in line)
    return words(line)


def words(line: Iterable[str]) -> str:
    """Arguments of a command line, without its program."""
    return " ".join(word(a) for a in line)


def environment(env: Mapping[str, str]) -> tuple[str, ...]:
    """``Environment=`` lines; variables are not expanded in them, specifiers are."""
    return tuple(f"Environment={word(f'{k}={v}', dollars=False)}" for k, v in sorted(env.items()))


def text(value: str) -> str:
    """A value that is taken to the end of its line, a description for instance."""
    return value.replace("%", "%%")
