"""A recorded machine: the folder it lies in, the source that replays it, and the source that records one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from advisor.facts.base import Shape, loads
from advisor.probes.measured import Measurements
from advisor.probes.source import MAX_REPLY_BYTES, MAX_TEXT_BYTES, Platform, Source, bad_machine_file, failure

BUNDLE_SCHEMA: Final = "advisor/machine-bundle/v1"


class Bundle(Shape, frozen=True, kw_only=True):
    """``bundle.json``. ``provenance``: ``real`` (recorded on a machine) or ``hand-made`` (written from documents).

    ``replies``: what was answered to the questions that were asked, by question. ``environment``: the variables (device
    selections and the like, ``settings.PROBE_VARIABLES``) under which the machine was looked at. ``measurements``: what
    had been measured on it.
    """

    schema: str
    provenance: Literal["real", "hand-made"]
    made_from: str
    platform: Platform
    notes: tuple[str, ...] = ()
    affinity: tuple[int, ...] | None = None
    names: dict[str, tuple[str, ...] | None] = msgspec.field(default_factory=dict)
    present: tuple[str, ...] = ()
    links: dict[str, str] = msgspec.field(default_factory=dict)
    replies: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    measurements: Measurements | None = None


class BundleSource:
    """A recorded machine; never looks at the real one.

    Raises:
        AdvisorError: ``bad-machine-file`` when ``bundle.json`` is missing or not one.
    """

    def __init__(self, folder: Path) -> None:
        self._files = Path(folder).resolve() / "files"
        path = Path(folder) / "bundle.json"
        try:
            with path.open("rb") as f:
                self.bundle = loads(Bundle, f.read(MAX_REPLY_BYTES))
        except (OSError, ValueError, RecursionError) as e:
            raise bad_machine_file(path, e) from e
        if self.bundle.schema != BUNDLE_SCHEMA:
            raise bad_machine_file(path, f"its schema is {self.bundle.schema!r}, not {BUNDLE_SCHEMA!r}")

    def text(self, path: str, /) -> str | None:
        """The recorded file; a link that leaves the bundle is not followed."""
        parts = [p for p in path.split("/") if p]
        if not parts or ".." in parts or "\0" in path:
            return None
        try:
            real = self._files.joinpath(*parts).resolve()
            if not real.is_relative_to(self._files) or not real.is_file():
                return None
            with real.open("rb") as f:
                return f.read(MAX_TEXT_BYTES).decode("utf-8", "replace")
        except (OSError, ValueError, RuntimeError):
            return None

    def names(self, path: str, /) -> tuple[str, ...] | None:
        """The recorded names."""
        return self.bundle.names.get(path)

    def exists(self, path: str, /) -> bool:
        """Whether it was there, or is a recorded file."""
        return path in self.bundle.present or self.text(path) is not None

    def affinity(self) -> tuple[int, ...] | None:
        """The recorded CPUs."""
        return self.bundle.affinity

    def platform(self) -> Platform:
        """The recorded words."""
        return self.bundle.platform

    def link(self, path: str, /) -> str | None:
        """The recorded link."""
        return self.bundle.links.get(path)

    def ask(self, question: str, deadline_s: float, /) -> dict[str, Any]:
        """The recorded reply."""
        found = self.bundle.replies.get(question)
        return failure("no-answer", f"the bundle has no reply to {question!r}") if found is None else found


class RecordingSource:
    """Asks another source, remembers every answer, and writes them, scrubbed, as a bundle."""

    def __init__(self, inner: Source) -> None:
        self._inner = inner
        self.texts: dict[str, str | None] = {}
        self.listed: dict[str, tuple[str, ...] | None] = {}
        self.present: dict[str, bool] = {}
        self.links: dict[str, str | None] = {}
        self.replies: dict[str, dict[str, Any]] = {}
        self._words: dict[str, Any] = {}

    def text(self, path: str, /) -> str | None:
        """The file, read once."""
        if path not in self.texts:
            self.texts[path] = self._inner.text(path)
        return self.texts[path]

    def names(self, path: str, /) -> tuple[str, ...] | None:
        """The folder, read once."""
        if path not in self.listed:
            self.listed[path] = self._inner.names(path)
        return self.listed[path]

    def exists(self, path: str, /) -> bool:
        """Whether the path is there, asked once."""
        if path not in self.present:
            self.present[path] = self._inner.exists(path)
        return self.present[path]

    def affinity(self) -> tuple[int, ...] | None:
        """The CPUs, asked once."""
        found: tuple[int, ...] | None = self._once("affinity", self._inner.affinity)
        return found

    def platform(self) -> Platform:
        """The words, asked once."""
        found: Platform = self._once("platform", self._inner.platform)
        return found

    def link(self, path: str, /) -> str | None:
        """The link, read once."""
        if path not in self.links:
            self.links[path] = self._inner.link(path)
        return self.links[path]

    def ask(self, question: str, deadline_s: float, /) -> dict[str, Any]:
        """The reply, asked for once."""
        if question not in self.replies:
            self.replies[question] = self._inner.ask(question, deadline_s)
        return self.replies[question]

    def _once(self, key: str, ask: Callable[[], Any]) -> Any:
        if key not in self._words:
            self._words[key] = ask()
        return self._words[key]
