"""Every bundled rule fires in one of the situations that are bundled with the rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor import api, datafiles
from advisor.api import ruling
from advisor.errors import AdvisorError
from advisor.guide.load import load_pack
from advisor.settings import load
from tests.unit.guide.rule_files import rule, write


def test_every_rule_fires_somewhere() -> None:
    found = api.rules_coverage()
    assert found.never == ()
    assert set(found.fired) | set(found.never) == {r.id for r in load_pack().rules}
    assert set(found.fired.values()) <= set(found.situations)


def test_a_rule_that_can_never_fire_is_found(tmp_path: Path) -> None:
    # vLLM needs a checkpoint and mlx an Apple device: nothing is both.
    never = rule(
        "TST-001", when="{candidate.runtime: vllm, device.kind: apple, candidate.method: gguf, model.layers: 7}"
    )
    often = rule("TST-002", when="{candidate.method: gguf}")
    write(tmp_path / "rules", "test.yaml", never, often)
    found = ruling.coverage_of(load_pack(bundled=tmp_path / "rules"), load())
    assert found.never == ("TST-001",)
    assert list(found.fired) == ["TST-002"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("schema: advisor/situations/v9\nsource: x\nsituations: []\n", "v9"),
        ("schema: advisor/situations/v1\nsource: x\nsituations: [{id: a, modl: 8B, machine: {}}]\n", "does not load"),
        ("schema: advisor/situations/v1\nsource: [\n", "does not load"),
    ],
)
def test_situations_that_do_not_load_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setattr(datafiles, "profiles_dir", lambda kind: tmp_path)
    with pytest.raises(AdvisorError, match=said) as caught:
        api.rules_coverage()
    assert caught.value.code == "bad-profile"
    assert "mine.yaml" in caught.value.message
