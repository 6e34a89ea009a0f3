"""Predictions that follow what was measured: the same choice, other formats and models, never another machine."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from advisor.cost.estimate import Cost, cost
from advisor.facts.bench import ThreadChoice
from advisor.facts.machine import Machine
from advisor.facts.plan import Goal, PlanRequest, Settings
from advisor.facts.quantity import exact
from advisor.model.tensors import tensors
from advisor.planner import estimate as estimating
from advisor.planner.candidate import Candidate
from advisor.planner.costing import Costing
from advisor.planner.learned import PROPORTIONS, Learned
from advisor.planner.targets import Target
from advisor.planner.token_work import device_names, shape_of
from tests.support.bench_samples import Law, measured, measurement, with_engine
from tests.support.samples import sample_machine, sample_model

HOST = with_engine(sample_machine())
MODEL = sample_model()
LARGE = sample_model(
    name="large", ref="large", layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, intermediate=14336,
    vocab=128256, tie_embeddings=False, params=8_000_000_000, active_params=8_000_000_000,
)  # fmt: skip
PLAIN = Settings(context=8192, threads=2)


def predicted(
    learned: Learned, fmt: str, model: Any = MODEL, *, machine: Machine = HOST, run: Settings = PLAIN, **how: Any
) -> Cost:
    parts = tensors(model)
    where: dict[str, Any] = {"devices": ("host",), "method": "gguf", "runtime": "llama.cpp", "imatrix": False, **how}
    named = where.pop("threads_named", False)
    found = cost(model, parts, fmt=fmt, settings=run, machine=machine, **where)
    return learned.corrected(found, model, parts, fmt=fmt, settings=run, threads_named=named, **where)


def test_the_same_choice_has_the_measured_speed() -> None:
    law = Law()
    learned = Learned([law.of(MODEL, "q4_k_m")], HOST)
    found = predicted(learned, "q4_k_m")
    assert found.speed.decode is not None
    assert found.speed.prefill is not None
    assert (found.speed.decode.method, found.speed.prefill.method) == ("measured", "measured")
    assert found.speed.decode.value == pytest.approx(law.tokens_per_second(MODEL, "q4_k_m"))
    assert "advisor bench" in found.speed.decode.source
    assert "wheel 1.2.3" in found.speed.decode.source
    assert any("was measured on this machine" in text for text in found.assumptions)


@pytest.mark.parametrize("fmt", ["q6_k", "f16", "iq4_xs", "q4_0", "q5_k_m"])
@pytest.mark.parametrize(("layer", "rate"), [(1e-5, 40.0), (3e-5, 12.0), (2e-4, 5.0)])
def test_two_formats_teach_the_others_of_the_model(fmt: str, layer: float, rate: float) -> None:
    """Bandwidth and fixed time of a machine whose types are as usual relative to each other are found from two."""
    law = Law(layer_s=layer, gigabytes=rate, **PROPORTIONS)
    learned = Learned([law.of(MODEL, f, depth=d) for f in ("q4_k_m", "q8_0") for d in (256, 1024)], HOST)
    decode = predicted(learned, fmt).speed.decode
    assert decode is not None
    assert decode.method == "fit"
    assert "fitted to 4 measurements" in decode.source
    assert "GB/s" in decode.source
    truth = law.tokens_per_second(MODEL, fmt)
    assert decode.value == pytest.approx(truth, rel=0.06)
    assert decode.low <= truth <= decode.high


def test_a_kernel_that_is_unusually_slow_is_learned_from_a_stand_in() -> None:
    law = Law(iq4_nl=3.0)
    own = [law.of(MODEL, f) for f in ("q4_k_m", "q8_0")]
    taught = Learned([*own, law.of(MODEL, "iq4_nl", origin="stand-in", depth=32)], HOST)
    truth = law.tokens_per_second(MODEL, "iq4_xs")  # whose narrow rows fall back to that type
    before, after = (predicted(k, "iq4_xs").speed.decode for k in (Learned(own, HOST), taught))
    assert before is not None
    assert after is not None
    assert after.value == pytest.approx(truth, rel=0.06)
    assert abs(before.value - truth) > abs(after.value - truth)


def test_a_stand_in_is_never_called_measured() -> None:
    learned = Learned([Law().of(MODEL, "q8_0", origin="stand-in", depth=256)], HOST)
    decode = predicted(learned, "q8_0").speed.decode
    assert decode is not None
    assert decode.method == "fit"


def test_another_model_of_the_engine_gets_a_wider_range() -> None:
    law = Law()
    learned = Learned([law.of(MODEL, f) for f in ("q4_k_m", "q8_0")], HOST)
    near, far = predicted(learned, "q5_k_m").speed.decode, predicted(learned, "q5_k_m", LARGE).speed.decode
    assert near is not None
    assert far is not None
    assert far.method == "fit"
    assert far.low / far.value < near.low / near.value
    assert far.low <= law.tokens_per_second(LARGE, "q5_k_m") <= far.high


def test_what_was_held_in_a_cache_never_promises_more_than_the_memory_gives() -> None:
    slow = msgspec.structs.replace(HOST, host=msgspec.structs.replace(HOST.host, bandwidth=exact(5e9, "bytes/s", "m")))
    learned = Learned([Law(gigabytes=100.0).of(MODEL, "q4_k_m")], slow)
    decode = predicted(learned, "q8_0", LARGE, machine=slow).speed.decode
    assert decode is not None
    assert decode.value <= 5e9 / 8e9


@pytest.mark.parametrize(
    "changes",
    [
        {"threads": 4},
        {"devices": ("NVIDIA GeForce RTX 4090",)},
        {"runtime": "vllm"},
        {"engine": "wheel 9.9"},
    ],
)
def test_other_threads_devices_runtimes_and_versions_teach_nothing(changes: dict[str, Any]) -> None:
    learned = Learned([Law().of(MODEL, "q4_k_m", **{"threads": 2, **changes})], HOST)
    plain = Learned((), HOST)
    assert predicted(learned, "q4_k_m") == predicted(plain, "q4_k_m")


def test_an_accelerator_is_told_by_its_name() -> None:
    machine = sample_machine()
    assert device_names(machine, ("gpu0", "host")) == ("NVIDIA GeForce RTX 4090", "cpu")
    seen = Law(gigabytes=800).of(MODEL, "q4_k_m", devices=("NVIDIA GeForce RTX 4090",), gpu_layers=31)
    run = msgspec.structs.replace(PLAIN, gpu_layers=31, threads=7)
    decode = predicted(Learned([seen], machine), "q4_k_m", machine=machine, run=run, devices=("gpu0",)).speed.decode
    assert decode is not None
    assert decode.method == "measured"


def test_what_was_measured_on_a_busy_machine_teaches_nothing() -> None:
    law, slow = Law(), Law(gigabytes=0.5)
    quiet, busy = law.of(MODEL, "q4_k_m"), slow.of(MODEL, "q8_0", busy=True)
    assert not Learned([busy], HOST)
    assert predicted(Learned([busy], HOST), "q8_0") == predicted(Learned((), HOST), "q8_0")
    assert predicted(Learned([busy, quiet], HOST), "q8_0") == predicted(Learned([quiet], HOST), "q8_0")


def test_a_measurement_at_another_depth_does_not_stand_for_the_stated_one() -> None:
    decode = predicted(Learned([Law().of(MODEL, "q4_k_m", depth=8000)], HOST), "q4_k_m").speed.decode
    assert decode is not None
    assert decode.method == "fit"


def test_the_newest_engine_speaks_where_nothing_says_what_is_installed() -> None:
    machine = msgspec.structs.replace(HOST, runtimes=())
    law, slow = Law(), Law(gigabytes=3.0)
    old = slow.of(MODEL, "q4_k_m", engine="wheel 1", measured_at="2025-01-01T00:00:00Z")
    new = law.of(MODEL, "q4_k_m", engine="wheel 2", measured_at="2026-01-01T00:00:00Z")
    decode = predicted(Learned([new, old], machine), "q4_k_m", machine=machine).speed.decode
    assert decode is not None
    assert decode.value == pytest.approx(law.tokens_per_second(MODEL, "q4_k_m"))


def test_the_threads_that_a_trial_found_under_a_quota_are_those_of_the_prediction() -> None:
    granted = HOST.host.cpu.cores_granted
    choice = ThreadChoice(
        threads=1, tried={"2": 10.0, "1": 40.0}, granted=granted, because="quota", shape=shape_of(MODEL), format="q8_0"
    )
    seen = Law().of(MODEL, "q8_0", threads=1)
    learned = Learned([seen], HOST, threads=[choice])
    decode = predicted(learned, "q8_0").speed.decode
    assert decode is not None
    assert decode.method == "measured"
    assert predicted(learned, "q8_0", threads_named=True) == predicted(Learned((), HOST), "q8_0")


def test_a_checkpoint_in_another_runtime_is_fitted_too() -> None:
    from advisor.planner.token_work import work_of

    work = work_of(MODEL, tensors(MODEL), method="awq", fmt="w4a16-g128", settings=PLAIN, depth=256)
    seen = measurement(fmt="w4a16-g128", method="awq", runtime="vllm", engine="environment 1", shape=shape_of(MODEL),
                       work=work)  # fmt: skip
    learned = Learned([seen], HOST)
    decode = predicted(learned, "w4a16-g32", method="awq", runtime="vllm").speed.decode
    assert decode is not None
    assert decode.method == "fit"


def test_costs_of_another_or_a_changed_machine_are_left_alone() -> None:
    learned = Learned([Law().of(MODEL, "q4_k_m")], HOST)
    goal = Goal(id="chat", description="", context=8192, parallel=1, min_decode_tps=None, weights={}, because="")
    candidate = Candidate("gguf", "q4_k_m", "llama.cpp", Target("cpu", "cpu", (), ("host",)), None, "quantize")

    def method(machine: Machine) -> str:
        request = PlanRequest(threads=2)
        costing = Costing(MODEL, tensors(MODEL), machine, goal, request, learned=learned)
        run = costing.settings(candidate)
        assert run is not None
        decode = costing.cost(candidate, run, imatrix=False).speed.decode
        assert decode is not None
        return decode.method

    assert method(HOST) == "measured"
    assert method(msgspec.structs.replace(HOST, named="other")) != "measured"


def test_an_estimate_follows_what_was_measured() -> None:
    learned = Learned([Law().of(MODEL, "q8_0", threads=1)], HOST)
    found = estimating.estimate(
        MODEL, tensors(MODEL), HOST, method="gguf", fmt="q8_0", runtime="llama.cpp",
        settings=Settings(context=8192, gpu_layers=0, threads=1), learned=learned,
    )  # fmt: skip
    assert found.speed.decode is not None
    assert found.speed.decode.method == "measured"


def test_the_shape_is_that_of_every_copy_and_of_no_other_model() -> None:
    assert shape_of(MODEL) == shape_of(
        msgspec.structs.replace(MODEL, name="tuned", ref="/x.gguf", weights_format="gguf")
    )
    assert shape_of(MODEL) != shape_of(msgspec.structs.replace(MODEL, layers=31))


def test_what_the_fit_cannot_follow_is_taken_from_the_formats_own_stand_in() -> None:
    """A format that is slower than its types explain: the fit lies between the formats, its stand-in says it."""
    law = Law()
    own = [law.of(MODEL, f, depth=256) for f in ("q4_k_m", "q8_0", "q6_k", "q4_0")]
    odd = law.of(MODEL, "q5_k_m", depth=256, origin="stand-in")
    slow = 0.8 * law.tokens_per_second(MODEL, "q5_k_m")
    taught = Learned([*own, msgspec.structs.replace(odd, decode=measured(slow))], HOST)
    decode = predicted(taught, "q5_k_m").speed.decode
    assert decode is not None
    assert decode.value == pytest.approx(slow, rel=0.01)
