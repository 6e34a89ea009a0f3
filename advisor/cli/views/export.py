"""An export: its text on standard output, or in files, and what puts it to use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.errors import AdvisorError
from advisor.facts.text import clean

if TYPE_CHECKING:
    from advisor.facts.exports import Export

    from ..run import Run


def write(made: Export, out: Path) -> tuple[str, ...]:
    """Write the files into the folder ``out``, or the one file there is as ``out``; their paths.

    Each appears whole or not at all.

    Raises:
        AdvisorError: ``bad-option`` where several files have one name; ``not-writable``.
    """
    if not out.is_dir() and len(made.files) > 1:
        raise AdvisorError(
            "bad-option",
            f"{made.format} has several files ({', '.join(f.name for f in made.files)}); {clean(str(out), 200)} is no "
            "folder.",
            hint=f"advisor export {made.format} {made.plan_id} --out .",
        )
    written = []
    for file in made.files:
        path = out / file.name if out.is_dir() else out
        aside = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            aside.write_text(file.text, encoding="utf-8")
            aside.chmod(0o755 if file.executable else 0o644)
            aside.replace(path)
        except OSError as e:
            aside.unlink(missing_ok=True)
            raise AdvisorError(
                "not-writable", f"{clean(str(path), 400)} cannot be written: {e.strerror}.", hint="advisor paths"
            ) from e
        written.append(str(path))
    return tuple(written)


def show(run: Run, made: Export, written: tuple[str, ...]) -> None:
    """Write the answer in the mode that was asked for; steps and notes for people stay off standard output."""
    from advisor.facts.schemas import ExportData

    if run.sink.mode == "json":
        fields = {name: getattr(made, name) for name in made.__struct_fields__}
        run.sink.result(run.command, ExportData(**fields, written=written), human=lambda page: None)
        return
    if written:
        for path in written:
            run.sink.raw(f"{clean(path, None)}\n")
    else:
        run.sink.raw(made.text)
    for note in made.notes:
        run.sink.note(note)
    if not written and len(made.files) > 1:
        run.sink.note(f"Further files ({', '.join(f.name for f in made.files[1:])}) are written with --out FOLDER.")
    for step in made.steps:
        run.sink.note(f"$ {step}")
