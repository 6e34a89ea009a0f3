"""The one way out. Standard output carries data only: one JSON document, text for people, or the bare answer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

from advisor._version import __version__
from advisor.errors import AdvisorError
from advisor.facts.text import clean

from . import encoding, redact

if TYPE_CHECKING:
    from advisor.facts.base import Shape
    from advisor.facts.plan import Warning_
    from advisor.facts.results import ErrorBody

    from .page import Page

Mode = Literal["human", "json", "quiet"]
# The command word of a document when the command line did not even name a command.
NO_COMMAND: Final = "error"


class Sink:
    """Where a command's answer goes. ``written``: a whole document is already out."""

    def __init__(self, mode: Mode = "human", *, verbose: bool = False) -> None:
        self.mode: Mode = mode
        self.verbose = verbose
        self.written = False
        self.warned: set[str] = set()
        self._broken = False

    # ------------------------------------------------------------------ answers
    def result(
        self,
        command: str,
        data: Shape,
        *,
        human: Callable[[Page], None],
        quiet: Iterable[str] = (),
        warnings: tuple[Warning_, ...] = (),
    ) -> None:
        """Write the answer of ``command`` in the mode that was asked for.

        Args:
            command: its words joined by hyphens.
            data: the document's data.
            human: writes the answer on a page.
            quiet: the bare answer, a value a line.
            warnings: into the document, or to standard error.

        Raises:
            AdvisorError: ``not-writable`` when standard output cannot be written.
        """
        if self.mode == "json":
            self._document(command, data.to_json(), warnings, None)
            return
        for warning in warnings:
            if warning.message not in self.warned:
                self.warn(warning.message)
        if self.mode == "quiet":
            self._out("".join(f"{clean(line, None)}\n" for line in quiet))
            return
        page = _page(sys.stdout)
        human(page)
        self._out(page.finish())

    def raw(self, text: str) -> None:
        """Write ``text`` as it is: a file's content, not a table."""
        self._out(text)

    def line(self, text: str, data: Shape) -> None:
        """Write one line of a stream: JSON in that mode, otherwise ``text``.

        Raises:
            BrokenPipeError: the reader has gone, so the stream should end.
        """
        if self.mode == "json":
            _write_bytes(sys.stdout, encode(data.to_json()) + b"\n")
        else:
            sys.stdout.write(clean(text, None) + "\n")
        sys.stdout.flush()
        self.written = True

    def failure(self, command: str, error: ErrorBody) -> None:
        """Write an error: a document in JSON mode unless one is out already, otherwise lines on standard error."""
        if self.mode == "json" and not (self.written or self._broken):
            try:
                self._document(command, None, (), error)
                return
            except AdvisorError:
                pass
        if self.mode == "json":
            write_line(sys.stderr, encode({"kind": "error", "code": error.code, "message": error.message}).decode())
            return
        from .views import errors

        for text in errors.lines(error, verbose=self.verbose, told=error.message in self.warned):
            write_line(sys.stderr, text)

    # ------------------------------------------------------------- standard error
    def note(self, text: str) -> None:
        """Tell something beside the answer."""
        if self.mode == "quiet":
            return
        self._aside("note", text)

    def warn(self, text: str) -> None:
        """Tell something that may matter; also in quiet mode."""
        self.warned.add(text)
        self._aside("warning", text)

    def _aside(self, kind: str, text: str) -> None:
        shown = clean(redact.text(text), 2000)
        if self.mode == "json":
            write_line(sys.stderr, encode({"kind": kind, "step": "", "message": shown}).decode())
        else:
            write_line(sys.stderr, shown if kind == "note" else f"warning: {shown}")

    # -------------------------------------------------------------------- details
    def _document(
        self, command: str, data: dict[str, Any] | None, warnings: tuple[Warning_, ...], error: ErrorBody | None
    ) -> None:
        import msgspec

        from advisor.facts.results import Envelope
        from advisor.facts.schemas import schema_id

        envelope = Envelope(
            schema=schema_id(command), advisor=__version__, data=data, warnings=warnings, error=error
        ).to_json()
        self._guarded(lambda: _write_bytes(sys.stdout, msgspec.json.format(encode(envelope), indent=2) + b"\n"))
        self.written = True

    def _out(self, text: str) -> None:
        self._guarded(lambda: sys.stdout.write(text))
        self.written = True

    def _guarded(self, write: Callable[[], object]) -> None:
        """Write and flush; a reader that has gone is no failure of the command."""
        try:
            write()
            sys.stdout.flush()
        except BrokenPipeError:
            encoding.hang_up()
        except OSError as e:
            encoding.hang_up()
            self._broken = True
            raise AdvisorError("not-writable", f"The answer cannot be written to standard output: {e.strerror}.") from e


def encode(value: Any) -> bytes:
    """JSON of builtins. Names that are no valid Unicode (undecodable file names) are escaped."""
    import msgspec

    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        import json

        return json.dumps(value, ensure_ascii=True).encode()


def _page(stream: TextIO) -> Page:
    from .page import Page

    return Page(stream)


def _write_bytes(stream: TextIO, raw: bytes) -> None:
    # JSON is UTF-8 whatever the locale says.
    binary = getattr(stream, "buffer", None)
    if binary is None:
        stream.write(raw.decode())
        return
    stream.flush()
    binary.write(raw)


def write_line(stream: TextIO, text: str) -> None:
    """Write a line where failing to write must not hide the exit code."""
    try:
        stream.write(text + "\n")
        stream.flush()
    except (OSError, ValueError):
        return
