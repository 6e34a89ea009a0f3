"""The runner of device copies, in the environment that has torch: on the CPU, which every machine has."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.api.context import load_settings
from advisor.execute import copying, envs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_torch_copies_on_the_cpu(in_shared_home: Path, tmp_path: Path) -> None:
    settings = load_settings(None)
    envs.ensure("convert", settings=settings)
    (env,) = [e for e in copying.with_torch(settings) if e.name == "convert"]
    result = copying.ask(env, tmp_path / "log", kinds=("cpu",), bytes=64 << 20, repeats=3)
    (one,) = result["devices"]
    assert (one["kind"], one["name"], one["bytes"]) == ("cpu", "cpu", 64 << 20)
    assert 10**8 < one["worst"] <= one["median"] <= one["best"]
    assert copying.ask(env, tmp_path / "log", kinds=("xpu",))["devices"] == []
