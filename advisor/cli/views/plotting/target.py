"""Where a chart goes: a file, or the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from advisor.errors import AdvisorError
from advisor.facts.text import clean

from . import DRAWN_BY

if TYPE_CHECKING:
    from ...page import Page
    from ...run import Run
    from .chart import Chart

HERE: Final = Path("-")
SUFFIXES: Final = (".svg", ".png")
# A mark of our own stands within so many bytes from a file's start.
_HEAD: Final = 2048


class Target:
    """The place for charts of one command; nothing happens where no plot was asked for.

    Raises:
        AdvisorError: ``bad-option`` for a file of another kind; ``contradictory-options`` for the terminal together
            with a document; ``tool-missing`` where a PNG cannot be made; ``not-writable``;
            ``prompt-needs-terminal`` or ``interrupted`` where something that is no plot would be overwritten.
    """

    def __init__(self, run: Run, where: Path | None) -> None:
        self.where = where
        self._run = run
        self._charts: tuple[Chart, ...] = ()
        if where is None:
            return
        if where == HERE:
            if run.sink.mode != "human":
                raise AdvisorError(
                    "contradictory-options",
                    f"--plot - draws for people, --{run.sink.mode} does not answer to people; name a file.",
                    hint=f"advisor {run.command} 8B --plot plot.svg --{run.sink.mode}",
                )
            return
        if where.suffix.lower() not in SUFFIXES:
            raise AdvisorError(
                "bad-option",
                f"--plot draws .svg and .png files, or - into the terminal, not {clean(str(where), 200)!r}.",
                hint=f"advisor {run.command} 8B --plot plot.svg",
            )
        if where.suffix.lower() == ".png":
            from .png import converter

            converter()
        self._check(where.resolve())

    @property
    def wanted(self) -> bool:
        """A plot was asked for."""
        return self.where is not None

    def draw(self, charts: Sequence[Chart]) -> None:
        """Write the file, whole or not at all; charts for the terminal wait for ``show``.

        Raises:
            AdvisorError: ``disk-full``, ``not-writable``, ``tool-missing``.
        """
        self._charts = tuple(charts)
        if self.where is None or self.where == HERE or not charts:
            return
        from advisor.execute.disk import make_folders, write_atomic

        from .svg import svg

        path = self.where.resolve()
        document = svg(charts)
        if path.suffix.lower() == ".png":
            from .png import png

            raw = png(document)
        else:
            raw = document.encode()
        make_folders(path.parent)
        write_atomic(path, raw)
        self._run.sink.note(f"drawn: {path}")

    def show(self, page: Page) -> None:
        """Write charts for the terminal onto the page."""
        if self.where != HERE:
            return
        from .terminal import lines

        for chart in self._charts:
            page.blank()
            page.drawing(lines(chart, page.width))

    def _check(self, path: Path) -> None:
        """Refuse, or ask, before something that advisor did not draw is overwritten."""
        if not path.exists():
            return
        if not path.is_file():
            raise AdvisorError(
                "not-writable",
                f"{clean(str(path), 400)} is not a file, so no plot can be written there.",
                hint=f"advisor {self._run.command} 8B --plot plot.svg",
            )
        try:
            with path.open("rb") as f:
                ours = DRAWN_BY.encode() in f.read(_HEAD)
        except OSError:
            ours = False
        if not ours:
            self._run.confirm(f"{clean(str(path), 400)} is there and is no plot of advisor's. Overwrite it?")
