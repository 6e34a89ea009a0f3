"""The same question has the same answer to the byte, and no two plans tie: over the whole spread."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from advisor import datafiles
from advisor.facts.plan import PlanRequest
from advisor.guide.load import load_pack
from advisor.guide.schema import RulePack
from advisor.planner.recommend import recommend
from tests.properties.spread import MODELS, NAMED, RECORDED, goals, machine, over_the_spread, plans
from tests.scenarios.planning import loaded, model_of

pytestmark = pytest.mark.beside

REPO = Path(__file__).resolve().parents[2]


def lines(count: int) -> Iterator[tuple[str, str, str]]:
    """Machines, models and goals, none of them left out for long."""
    names = (*NAMED, *RECORDED)
    for i in range(count):
        yield names[(7 * i) % len(names)], MODELS[(3 * i) % len(MODELS)], goals()[i % len(goals())]


def answer(
    name: str, model: str, wanted: str, *, rng: random.Random | None = None, pack: RulePack | None = None
) -> bytes:
    """The JSON of a recommendation; with ``rng`` rules, capabilities, devices and tensors come in another order."""
    known = loaded()
    facts, weights = model_of(model)
    where, rules, rest = machine(name), pack or known.pack, [dict(known.runtimes), dict(known.quantizers)]
    if rng is not None:

        def mixed(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(rng.sample(values, len(values)))

        weights = mixed(weights)
        where = msgspec.structs.replace(where, devices=mixed(where.devices), runtimes=mixed(where.runtimes))
        rules = msgspec.structs.replace(rules, rules=mixed(rules.rules))
        rest = [dict(mixed(tuple(d.items()))) for d in rest]
    found = recommend(
        facts,
        weights,
        where,
        known.goals[wanted],
        PlanRequest(goal=wanted),
        rules,
        runtimes=rest[0],
        quantizers=rest[1],
        executable_here=False,
    )
    return msgspec.json.encode(found.to_json())


def digest(count: int) -> str:
    """One hash over many answers."""
    return hashlib.sha256(b"".join(answer(*line) for line in lines(count))).hexdigest()


ENVIRONMENTS = (
    {"PYTHONHASHSEED": "0", "LC_ALL": "C", "TZ": "UTC"},
    {"PYTHONHASHSEED": "4242", "LC_ALL": "de_DE.UTF-8", "LANG": "tr_TR.UTF-8", "TZ": "America/St_Johns"},
)


def in_environment(count: int, env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"from tests.properties.test_same_answer import digest; print(digest({count}))"],
        cwd=REPO,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_seed_locale_and_zone_change_nothing() -> None:
    first, second = (in_environment(8, env) for env in ENVIRONMENTS)
    assert first == second and len(first) == 64


@pytest.mark.slow
def test_seed_locale_and_zone_change_nothing_widely() -> None:
    third = {"PYTHONHASHSEED": "77", "LC_NUMERIC": "de_DE.UTF-8", "PYTHONUTF8": "0", "TZ": "Asia/Kathmandu"}
    assert len({in_environment(120, env) for env in (*ENVIRONMENTS, third)}) == 1


def shuffled(name: str, model: str, wanted: str) -> None:
    first = answer(name, model, wanted)
    for seed in range(2):
        assert answer(name, model, wanted, rng=random.Random(seed)) == first


test_the_order_of_what_is_known_changes_nothing = over_the_spread(5)(shuffled)
test_the_order_of_what_is_known_changes_nothing_widely = pytest.mark.slow(over_the_spread(120)(shuffled))


@pytest.mark.parametrize("count", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_the_order_of_files_changes_nothing(tmp_path: Path, count: int) -> None:
    for i, path in enumerate(reversed(datafiles.data_files(datafiles.rules_dir()))):
        shutil.copy(path, tmp_path / f"{i:02d}.yaml")
    renamed = load_pack(bundled=tmp_path)
    for line in lines(count):
        said = msgspec.json.decode(answer(*line)) | {"rules_hash": ""}
        assert msgspec.json.decode(answer(*line, pack=renamed)) | {"rules_hash": ""} == said


def no_ties(name: str, model: str, wanted: str) -> None:
    """Plans are ranked by score; equal ones by name, so that no two share a place or an id."""
    found = plans(model, machine(name), wanted)
    keys = [
        (p.method, p.format, p.runtime, p.devices,
         (p.settings.pipeline_parallel, p.tensor_types, p.settings.kv_type, p.quantizer or ""))
        for p in found
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert len({p.id for p in found}) == len(found)
    placed = {k: ("gpu" if "host" not in k[3] else "cpu" if k[3] == ("host",) else "split") for k in keys}
    for (p, a), (q, b) in zip(zip(found, keys, strict=True), list(zip(found, keys, strict=True))[1:], strict=False):
        if p.score == q.score and p.status == q.status:
            assert (*a[:3], placed[a], *a[3]) < (*b[:3], placed[b], *b[3]) or a[:4] == b[:4]


test_no_two_plans_tie = over_the_spread(6)(no_ties)
test_no_two_plans_tie_widely = pytest.mark.slow(over_the_spread(200)(no_ties))
