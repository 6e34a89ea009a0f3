"""Runners whose libraries write into the current folder work in one of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.backends.support import runner

NATIVE = runner("native")


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_where_the_user_was(fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[Path] = []

    def work(request: dict[str, Any]) -> dict[str, Any]:
        seen.append(Path.cwd())
        Path("logs").mkdir()
        if fails:
            raise OSError("no")
        return request

    try:
        assert NATIVE.elsewhere(work)({"a": 1}) == {"a": 1}
        assert not fails
    except OSError:
        assert fails
    assert seen[0] != tmp_path
    assert not seen[0].exists()
    assert os.listdir(tmp_path) == []
