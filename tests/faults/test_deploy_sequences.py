"""Whatever is done to deployments in whatever order: nothing is left running, listening or half written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.sequences import Sequence
from tests.unit.deploy.rig import Rig


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_left_after_any_sequence(tmp_path: Path, seed: int) -> None:
    rig = Rig(tmp_path / "any order")
    try:
        Sequence(rig, seed).run()
    finally:
        rig.clean_up()
