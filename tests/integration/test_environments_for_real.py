"""The environments of the checkpoint backends: built from their locks, and used by their own health checks."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor import settings
from advisor.backends.pins import pins
from advisor.errors import AdvisorError
from advisor.execute import envs

pytestmark = pytest.mark.slow
CHECKPOINT = ("autoawq", "gptqmodel", "llmcompressor", "transformers", "vllm")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n == "autoawq" else n for n in CHECKPOINT])
def test_it_builds_and_quantizes_or_serves_a_tiny_model(name: str, in_shared_home: Path) -> None:
    here = settings.load(env={"ADVISOR_HOME": str(in_shared_home)})
    known = pins(name)
    env = envs.ensure(name, settings=here)
    assert Path(env.python).exists()
    health = env.health
    assert health["devices"][0] == "cpu"
    for package, version in health["versions"].items():
        assert version.partition("+")[0] == known.version_of(package), package
    if name in ("autoawq", "gptqmodel"):
        assert health["packed"] >= 14
    elif name in ("llmcompressor", "transformers"):
        assert all(count >= 14 for count in health["packed"].values())
        assert len(health["packed"]) == 2
    else:
        assert (health["tokens"], health["platform"], health["version"]) == (1, "cpu", "0.32.0")
        assert "bitsandbytes" in health["plugins"]
    there = envs.installed(Path(env.path))
    missing = [r for r in known.locked if there.get(r.partition("==")[0], "").partition("+")[0] != r.partition("==")[2]]
    assert missing == []
    (info,) = [e for e in envs.list_envs(settings=here) if e.path == env.path]
    assert info.current
    assert info.built
    # Another build of torch (CUDA) brings gigabytes that the pins count under its own variant.
    if there["torch"].endswith("+cpu"):
        assert abs(info.bytes - known.disk_bytes) < 0.15 * known.disk_bytes


def test_a_variant_for_devices_that_are_not_there_says_so(in_shared_home: Path, tmp_path: Path) -> None:
    """The CPU's environment asked to be CUDA's: its check says that torch is another build or sees no device."""
    from advisor.events import silent
    from advisor.execute import env_build

    here = settings.load(env={"ADVISOR_HOME": str(in_shared_home)})
    env = envs.ensure("transformers", settings=here)
    cuda = pins("transformers", "cuda")
    try:
        health = env_build.check_health(cuda, env, log=tmp_path / "log", reporter=silent, cancel=None)
    except AdvisorError as e:
        assert e.code == "env-failed"
        assert "CUDA" in e.message
    else:
        assert any(d.startswith("cuda:") for d in health["devices"])
