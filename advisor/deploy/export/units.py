"""Words and sections of systemd's unit files, which podman's quadlets share (systemd.syntax, systemd.service)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from advisor.deploy.export import base

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


def unit(service: base.Service, *more: str) -> tuple[str, ...]:
    """The section that says what the unit is and how often it is started again; ``more`` lines of it."""
    return (
        "[Unit]",
        f"Description={text(service.title)}",
        *more,
        f"StartLimitIntervalSec={base.RESTART_WINDOW_S}",
        f"StartLimitBurst={base.RESTARTS}",
        "",
    )


def install(service: base.Service) -> tuple[str, ...]:
    """The section that says when it is started: with the system, or with its user's own manager."""
    return ("", "[Install]", f"WantedBy={'multi-user' if service.scope == 'system' else 'default'}.target")


def file_text(service: base.Service, fmt: str, lines: Iterable[str]) -> str:
    """The whole file: how it was made, then its lines."""
    return base.header(service, f"{fmt} --scope {service.scope}") + "\n".join(lines) + "\n"
