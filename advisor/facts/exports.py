"""A plan in the words of another system: the shapes of ``advisor export``."""

from __future__ import annotations

from advisor.facts.base import Shape


class ExportedFile(Shape, frozen=True, kw_only=True):
    """One file. ``name`` is relative to the folder that the files go to; ``executable``: it is run itself."""

    name: str
    text: str
    executable: bool = False


class Export(Shape, frozen=True, kw_only=True):
    """``text`` is the first file's. ``steps``: command lines, in order, that put the files to use; ``notes``: what a
    person should know of them. ``image`` is the container image, ``None`` for formats without."""

    format: str
    name: str
    plan_id: str
    text: str
    files: tuple[ExportedFile, ...]
    steps: tuple[str, ...]
    notes: tuple[str, ...]
    image: str | None = None
