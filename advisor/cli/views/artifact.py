"""A finished quantized model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.facts import shown

from ..page import FAINT, Cell
from . import verification as quality

if TYPE_CHECKING:
    from advisor.facts.results import Artifact

    from ..page import Page


def artifact(page: Page, made: Artifact, *, verbose: bool = False) -> None:
    """Write an artifact and, where there is one, its verification."""
    page.title(f"{made.method} {made.format} of {made.from_}")
    page.fields(
        [
            ("path", made.path),
            *((("own types", ", ".join(made.tensor_types)),) if made.tensor_types else ()),
            ("size", Cell(shown.size(made.bytes), "", "measured")),
            ("sha256", Cell(made.sha256, FAINT)),
            ("made by", Cell(made.quantizer or "taken as it was", "", "importance matrix" if made.imatrix else "")),
            ("took", Cell(shown.seconds(made.seconds), "", "measured" if made.seconds is not None else "")),
        ]
    )
    if made.fallbacks:
        page.text(
            "Stored in another type than named: "
            + ", ".join(f"{shown.counted(n, 'tensor')} {k}" for k, n in made.fallbacks.items())
        )
    page.bullets(made.notes)
    if made.verification is not None:
        quality.verification(page, made.verification, verbose=verbose)
