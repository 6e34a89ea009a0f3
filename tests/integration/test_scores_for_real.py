"""The arithmetic of the measuring runners, in an environment that has numpy."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from advisor import settings
from advisor.execute import envs
from advisor.execute.proc import RUNNERS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, {runners!r})
import numpy as np
import scores

rng = np.random.default_rng(1)
POSITIONS, VOCAB = 70, 5000
ref = (rng.standard_normal((POSITIONS, VOCAB)) * 3).astype(np.float32)
got = ref + (rng.standard_normal((POSITIONS, VOCAB)) * 0.3).astype(np.float32)
targets = rng.integers(0, VOCAB, POSITIONS)
def exact(a, b):
    a, b = (x.astype(np.float64) - np.log(np.exp(x.astype(np.float64)).sum(1, keepdims=True)) for x in (a, b))
    return (np.exp(a) * (a - b)).sum(1)
out = {{"exact": exact(ref, got).mean(), "exact_max": exact(ref, got).max()}}
for keep in (16, 512, 4096, VOCAB):
    kept = scores.Kept.empty(POSITIONS, VOCAB, keep)
    first = scores.Sums(None, kept)
    first.add(ref, targets)
    path = Path({folder!r}) / f"{{keep}}.npz"
    kept.save(path, {{"tokens": "x"}})
    read = scores.Kept.load(path)
    assert read.meta == {{"vocab": VOCAB, "tokens": "x"}}
    same, other = scores.Sums(read), scores.Sums(read)
    same.add(ref, targets)
    other.add(got, targets)
    out[str(keep)] = {{"self": same.result(), "other": other.result(), "first": first.result()}}
broken = got.copy()
broken[3, 7] = np.nan
bad = scores.Sums(scores.Kept.load(path))
bad.add(broken, targets)
out["bad"] = bad.result()
out["nll"] = -float(np.mean([r[t] - np.log(np.exp(r.astype(np.float64)).sum()) for r, t in zip(ref, targets)]))
spike = np.full((2, VOCAB), -100.0, dtype=np.float32)
spike[:, 3] = 100.0
kept = scores.Kept.empty(2, VOCAB)
scores.Sums(None, kept).add(spike, np.array([3, 3]))
sure = scores.Sums(kept)
sure.add(np.roll(spike, 1, axis=1), np.array([3, 3]))
out["opposite"] = sure.result()
out["likelihood"] = scores.log_likelihood(ref[:2], [int(ref[0].argmax()), 5])
out["likelihood_nan"] = scores.log_likelihood(broken[:4], [1, 2, 3, 4])
try:
    Path({folder!r}, "torn.npz").write_bytes(path.read_bytes()[:-2000])
    scores.Kept.load(Path({folder!r}, "torn.npz"))
except ValueError as e:
    out["torn"] = str(e)
print(json.dumps(out))
"""


@pytest.fixture
def found(in_shared_home: Path, tmp_path: Path) -> dict[str, Any]:
    """What the script computes."""
    env = envs.ensure("llama.cpp", settings=settings.load())
    script = SCRIPT.format(runners=str(RUNNERS), folder=str(tmp_path))
    done = subprocess.run([env.python, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_divergence_through_a_file_is_the_divergence(found: dict[str, Any]) -> None:
    exact, last = found["exact"], 0.0
    for keep, share in (("16", 1.0), ("512", 0.5), ("4096", 0.01), ("5000", 1e-4)):
        one = found[keep]
        other, self_ = one["other"], one["self"]
        # Merging outcomes never enlarges a divergence, and keeping more never makes it less.
        assert last <= other["kld"] <= exact * (1 + 1e-4)
        assert other["kld"] >= exact * (1 - share)
        last = other["kld"] - 1e-6
        assert 0 <= self_["kld"] < 1e-6
        assert (self_["top1_agreement"], self_["positions"]) == (1.0, 70)
        assert 0.5 < other["top1_agreement"] < 1.0
        assert self_["perplexity"] == one["first"]["perplexity"]
        assert one["first"]["kld"] is None
    assert found["5000"]["other"]["kld_max"] == pytest.approx(found["exact_max"], rel=1e-3)


def test_perplexity_is_of_the_targets(found: dict[str, Any]) -> None:
    import math

    assert found["5000"]["first"]["perplexity"] == pytest.approx(math.exp(found["nll"]), rel=1e-4)


def test_numbers_that_are_not_finite_are_counted_and_nothing_is_claimed(found: dict[str, Any]) -> None:
    bad = found["bad"]
    assert (bad["non_finite"], bad["perplexity"], bad["kld"], bad["top1_agreement"]) == (1, None, None, None)
    assert found["likelihood_nan"] is None


def test_opposite_certainties_are_far_apart_and_finite(found: dict[str, Any]) -> None:
    assert found["opposite"]["top1_agreement"] == 0.0
    assert 80 < found["opposite"]["kld"] < 1000


def test_a_torn_file_is_named(found: dict[str, Any]) -> None:
    assert "torn.npz is damaged" in found["torn"]


def test_log_likelihood_is_negative(found: dict[str, Any]) -> None:
    assert -30 < found["likelihood"] < 0
