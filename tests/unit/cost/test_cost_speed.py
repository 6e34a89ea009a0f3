"""Speed: published measurements, laws, and what is unknown."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from advisor.cost import cpu_speed, devices
from advisor.cost.devices import Range, classes, kernel, law, prompt_share, scope
from advisor.cost.speed import SpeedResult, speed
from advisor.cost.work import link_bandwidth
from advisor.facts.machine import Device, Link, Machine
from advisor.facts.plan import Settings
from advisor.facts.words import GGUF_FORMATS
from advisor.probes import catalog
from advisor.probes.named import device_of
from tests.support import shapes

KNOWN = {name: (shapes.facts(a), shapes.tensors(a)) for name, a in shapes.KNOWN.items()}
RTX_4090 = shapes.machine(shapes.gpu())


def run(name: str, fmt: str, machine: Machine, *devices: str, method: str = "gguf", runtime: str = "llama.cpp",
        depth: int = 256, **settings: int) -> SpeedResult:  # fmt: skip
    model, tensors = KNOWN[name]
    asked = Settings(**{"context": 32768, **settings})
    return speed(
        model, tensors, method=method, fmt=fmt, runtime=runtime, settings=asked, machine=machine, devices=devices,
        depth=depth,
    )  # fmt: skip


def decode(*args: object, **kwargs: object) -> float:
    q = run(*args, **kwargs).speed.decode  # type: ignore[arg-type]
    assert q is not None
    assert 0 < q.low <= q.value <= q.high
    assert q.unit == "tokens/s"
    return float(q.value)


def card(profile: str, key: str = "gpu0") -> Device:
    """The device of a bundled profile."""
    return device_of(catalog.find(profile), key)


# tokens/s of one request: XiongjieDai/GPU-Benchmarks-on-LLM-Inference@aa72e0e, geerlingguy/ai-benchmarks@bdf9441.
MEASURED = [
    ("llama-3.1-8b", "f16", "rtx-4090", 54.34),
    ("llama-3.3-70b", "q4_k_m", "rtx-6000-ada", 18.36),
    ("llama-3.1-8b", "f16", "rtx-5000-ada", 32.67),
    ("llama-3.3-70b", "q4_k_m", "a40", 12.08),
    ("llama-3.1-8b", "q4_k_m", "m4", 20.87),
    ("llama-3.3-70b", "q4_k_m", "gb10", 4.71),
    ("llama-3.3-70b", "q4_k_m", "m3-ultra-80", 14.41),
]


@pytest.mark.parametrize(("name", "fmt", "profile", "measured"), MEASURED)
def test_published_measurements_are_in_range(name: str, fmt: str, profile: str, measured: float) -> None:
    q = run(name, fmt, shapes.machine(card(profile)), "gpu0").speed.decode
    assert q is not None
    assert q.low <= measured <= q.high
    assert q.value == pytest.approx(measured, rel=0.15)
    assert q.method == "fit"
    assert "published measurements" in q.source


@pytest.mark.parametrize("profile", [n for n in catalog.names() if not catalog.bundled(n).host_only])
def test_no_device_is_faster_than_its_memory(profile: str) -> None:
    device = card(profile)
    machine = shapes.machine(device)
    assert device.bandwidth is not None
    for fmt in (*GGUF_FORMATS, "iq2_xs"):
        family = kernel(fmt, "gguf")
        for moe in (False, True):
            found = law(device, runtime="llama.cpp", family=family, moe=moe, layers=32)
            assert found.inverse >= 1
            assert found.fixed > 0
            assert found.low < 1 < found.high
    for name, fmt, method, runtime in (
        ("llama-3.1-8b", "q8_0", "gguf", "llama.cpp"),
        ("qwen3-30b-a3b", "q4_k_m", "gguf", "ollama"),
        ("llama-3.1-8b", "w4a16-g128", "awq", "vllm"),
        ("llama-3.1-8b", "nf4", "nf4", "transformers"),
    ):
        result = run(name, fmt, machine, "gpu0", method=method, runtime=runtime, depth=0)
        q, p = result.speed.decode, result.speed.prefill
        assert q is not None
        assert p is not None
        model = KNOWN[name][0]
        bits = 8.5 if fmt == "q8_0" else 4.0
        embedding = model.vocab * model.hidden
        limit = float(device.bandwidth.value) / ((model.active_params - embedding) * bits / 8)
        assert 0 < q.low <= q.value <= q.high <= limit
        assert 0 < p.low <= p.value <= p.high
        assert result.warnings == ()


def test_unknown_bandwidth_is_not_guessed_for_a_device() -> None:
    bare = shapes.gpu(bandwidth=None, tflops=None)
    result = run("llama-3.1-8b", "q4_k_m", shapes.machine(bare), "gpu0")
    assert result.speed.decode is None
    assert result.speed.prefill is None
    assert any("bandwidth of gpu0" in w for w in result.warnings)
    assert any("FP16 rate" in w for w in result.warnings)


def test_a_cpu_without_measured_bandwidth_is_a_wide_guess() -> None:
    guess = run("llama-3.1-8b", "q4_k_m", shapes.machine(), "host")
    assert guess.speed.decode is not None
    assert guess.speed.decode.method == "guess"
    assert guess.speed.decode.high / guess.speed.decode.low > 5
    assert any("advisor probe --measure" in a for a in guess.assumptions)
    known = run("llama-3.1-8b", "q4_k_m", shapes.machine(bandwidth=40_000_000_000), "host")
    assert known.assumptions == ()
    assert known.speed.decode is not None
    assert known.speed.decode.method == "fit"


def test_a_cpu_is_bound_by_cores_or_by_memory() -> None:
    # One core made three to four tokens a second of an 8B Q4_K_M.
    assert 2.5 < decode("llama-3.1-8b", "q4_k_m", shapes.machine(cores=1, bandwidth=40_000_000_000), "host") < 4.5
    few = decode("llama-3.1-8b", "q4_k_m", shapes.machine(cores=2, bandwidth=100_000_000_000), "host")
    many = decode("llama-3.1-8b", "q4_k_m", shapes.machine(cores=64, bandwidth=100_000_000_000), "host")
    assert few < many <= 0.7 * 100e9 / 4.9e9
    limited = shapes.machine(cores=64, bandwidth=100_000_000_000)
    assert decode("llama-3.1-8b", "q4_k_m", limited, "host", threads=2) == pytest.approx(few)
    old = shapes.machine(isa=("sse4_2",), bandwidth=100_000_000_000)
    assert decode("llama-3.1-8b", "q4_k_m", old, "host") < few
    # SmolLM2-135M: 93 tokens a CPU second.
    assert 45 < decode("smollm2-135m", "q4_k_m", shapes.machine(cores=1, bandwidth=40_000_000_000), "host") < 140


def test_fewer_bytes_are_faster() -> None:
    order = ["bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m"]
    rates = [decode("llama-3.1-8b", fmt, RTX_4090, "gpu0") for fmt in order]
    assert rates == sorted(rates)
    assert decode("llama-3.1-8b", "q4_k_m", RTX_4090, "gpu0", depth=30000) < rates[4]
    assert decode("qwen3-30b-a3b", "q4_k_m", RTX_4090, "gpu0") > decode("gemma-3-27b", "q4_k_m", RTX_4090, "gpu0")


def test_a_split_adds_both_times() -> None:
    box = shapes.machine(shapes.gpu(), bandwidth=50_000_000_000)
    rates = [decode("llama-3.1-8b", "q4_k_m", box, "gpu0", "host", gpu_layers=n) for n in (0, 8, 16, 24, 33)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(decode("llama-3.1-8b", "q4_k_m", box, "gpu0"))
    two = shapes.machine(shapes.gpu("gpu0"), shapes.gpu("gpu1"))
    in_turn = decode("llama-3.1-8b", "q4_k_m", two, "gpu0", "gpu1")
    assert in_turn < decode("llama-3.1-8b", "q4_k_m", RTX_4090, "gpu0")
    together = decode("llama-3.1-8b", "bf16", two, "gpu0", "gpu1", method="none", runtime="vllm")
    assert together > decode("llama-3.1-8b", "bf16", RTX_4090, "gpu0", method="none", runtime="vllm")


def test_runtimes() -> None:
    vllm = decode("llama-3.1-8b", "w4a16-g128", RTX_4090, "gpu0", method="awq", runtime="vllm")
    eager = run("llama-3.1-8b", "nf4", RTX_4090, "gpu0", method="nf4", runtime="transformers").speed.decode
    assert eager is not None
    assert eager.value < vllm
    assert eager.method == "guess"
    cpu = shapes.machine(bandwidth=40_000_000_000)
    slow = decode("smollm2-135m", "fp8", cpu, "host", method="fp8", runtime="vllm")
    assert slow < decode("smollm2-135m", "w8a8", cpu, "host", method="w8a8", runtime="vllm") / 5


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("rtx-3060-12gb", ("nvidia", "nvidia-gddr", "nvidia-ampere")),
        ("rtx-5090", ("nvidia", "nvidia-gddr", "nvidia-blackwell")),
        ("p40", ("nvidia", "nvidia-gddr", "nvidia-pascal")),
        ("h200", ("nvidia", "nvidia-hbm", "nvidia-hbm-hopper")),
        ("b200", ("nvidia", "nvidia-hbm", "nvidia-hbm-blackwell")),
        ("jetson-agx-orin", ("nvidia", "nvidia-unified", "nvidia-unified-ampere")),
        ("mi300x", ("amd", "amd-cdna", "amd-cdna3")),
        ("mi50", ("amd", "amd-gcn", "amd-vega")),
        ("rx-7900-xtx", ("amd", "amd-rdna", "amd-rdna3")),
        ("ryzen-ai-max-395", ("amd", "amd-apu")),
        ("arc-b580", ("intel", "intel-arc")),
        ("arc-140v", ("intel", "intel-igpu")),
        ("m2-ultra-76", ("apple", "apple-unified", "apple-to-m3", "apple-ultra")),
        ("m4-pro-20", ("apple", "apple-unified", "apple-from-m4", "apple-base")),
    ],
)
def test_classes(profile: str, expected: tuple[str, ...]) -> None:
    assert classes(card(profile)) == expected


def test_classes_of_devices_without_a_profile() -> None:
    bare = msgspec.structs.replace(shapes.gpu(name="NVIDIA H200"), compute_capability=None)
    assert classes(bare) == ("nvidia", "nvidia-hbm")
    assert classes(shapes.gpu(name="Something", vendor="other")) == ("other",)
    assert classes(shapes.gpu(name="AMD Instinct MI999", vendor="amd")) == ("amd", "amd-cdna")
    assert classes(shapes.gpu(name="Apple GPU", vendor="apple")) == ("apple", "apple-unified")


def test_what_nobody_measured_is_a_wide_guess() -> None:
    def law_of(profile: str, family: str = "k") -> devices.Law:
        return law(card(profile), runtime="llama.cpp", family=family, moe=False, layers=32)

    known, generation, memory = law_of("rtx-4090"), law_of("rtx-5090"), law_of("mi300x")
    assert known.method == generation.method == "fit"
    assert memory.method == law_of("rtx-4090", "iq").method == "guess"
    spans = [one.high / one.low for one in (known, generation, memory)]
    assert spans == sorted(spans)
    assert spans[0] < spans[1] < spans[2]
    odd = law(shapes.gpu(name="Something", vendor="other"), runtime="vllm", family="k", moe=True, layers=32)
    assert odd.method == "guess"
    assert odd.inverse > 1


@given(
    table=st.lists(st.floats(0.1, 0.99), min_size=4, max_size=4),
    known=st.booleans(),
    measured=st.booleans(),
    moe=st.booleans(),
)
def test_the_narrowest_range_that_was_measured(table: list[float], known: bool, measured: bool, moe: bool) -> None:
    keys = ("any", "nvidia-gddr", "moe any", "moe nvidia-gddr")
    ranges = {k: Range(low=v, high=2 - v, devices=3, rows=3) for k, v in zip(keys, table, strict=True)}
    chain = ("nvidia", "nvidia-gddr", "nvidia-ada")
    span, wider = scope(ranges, chain, known=known, names={"nvidia-ada"} if measured else set(), moe=moe)
    assert span is ranges[("moe " if moe else "") + ("nvidia-gddr" if known and measured else "any")]
    assert (wider == 1) == known


@pytest.mark.parametrize(
    ("fmt", "method", "family"),
    [
        ("q4_k", "gguf", "k"),
        ("q3_k", "gguf", "k-low"),
        ("iq2_xs", "gguf", "iq"),
        ("iq4_nl", "gguf", "iq"),
        ("q5_1", "gguf", "block"),
        ("bf16", "none", "plain"),
        ("w4a16-g128", "awq", "int4"),
        ("w4a16-g32", "rtn", "int4"),
        ("w8a8", "w8a8", "byte"),
        ("nf4", "nf4", "table"),
        ("hqq4-g64", "hqq", "table"),
        ("nvfp4", "nvfp4", "fp4"),
    ],
)
def test_kernels(fmt: str, method: str, family: str) -> None:
    assert kernel(fmt, method) == family


def test_more_layers_take_longer_than_fewer_of_the_same_bytes() -> None:
    few, many = (law(card("rtx-4090"), runtime="llama.cpp", family="k", moe=False, layers=n).fixed for n in (16, 64))
    assert many == pytest.approx(2 * few)


def test_a_measured_copy_stands_for_a_higher_nominal_bandwidth() -> None:
    device = card("rtx-4090")
    assert device.bandwidth is not None
    copied = msgspec.structs.replace(device.bandwidth, method="measured")
    faster = msgspec.structs.replace(device, bandwidth=copied)
    assert decode("llama-3.1-8b", "f16", shapes.machine(faster), "gpu0") > decode(
        "llama-3.1-8b", "f16", shapes.machine(device), "gpu0"
    )


def test_prompts() -> None:
    share = prompt_share(card("rtx-4090"), runtime="llama.cpp", family="k", moe=False)
    assert 0 < share.share <= 1
    assert share.method == "fit"
    assert prompt_share(card("mi300x"), runtime="llama.cpp", family="k", moe=False).method == "guess"
    # A Tesla P40 has no tensor rate: by its bandwidth, as a guess. Measured: 870 tokens/s of a 7B in Q4_K_S.
    old = run("llama-2-7b", "q4_k_s", shapes.machine(card("p40")), "gpu0").speed.prefill
    assert old is not None
    assert old.method == "guess"
    assert old.low < 870 < old.high
    shallow, deep = (run("llama-3.1-8b", "f16", RTX_4090, "gpu0", depth=d).speed.prefill for d in (0, 30000))
    assert shallow is not None
    assert deep is not None
    assert deep.value < shallow.value


def test_prompts_of_small_models_are_bound_by_their_batches() -> None:
    """Nearly no prompt of a model below 3B was published, and each batch starts as many kernels as a token does."""
    small, large = (run(n, "q4_k_m", RTX_4090, "gpu0").speed for n in ("smollm2-135m", "llama-3.1-8b"))
    assert small.prefill is not None
    assert small.decode is not None
    assert large.prefill is not None
    fixed = law(shapes.gpu(), runtime="llama.cpp", family="k", moe=False, layers=30).fixed
    assert small.prefill.value < Settings(context=32768).ubatch / fixed
    assert small.prefill.method == "guess"
    assert large.prefill.method == "fit"
    assert small.prefill.high / small.prefill.low > 2 * large.prefill.high / large.prefill.low
    halved = run("smollm2-135m", "q4_k_m", RTX_4090, "gpu0", ubatch=64).speed.prefill
    assert halved is not None
    assert halved.value < small.prefill.value / 1.5


def test_prompts_take_layers_of_the_host_over_the_bus() -> None:
    slot = shapes.gpu()
    wide = msgspec.structs.replace(slot, link=Link(pcie_gen=4, pcie_width=16))
    narrow = msgspec.structs.replace(slot, link=Link(pcie_gen=3, pcie_width=4, pcie_width_now=1))
    assert link_bandwidth(wide) > 20 * link_bandwidth(narrow) > 0
    assert link_bandwidth(slot) == link_bandwidth(msgspec.structs.replace(slot, link=Link(pcie_width=16)))
    assert link_bandwidth(card("gb10")) > link_bandwidth(wide)
    rates = []
    for device in (narrow, wide):
        box = shapes.machine(device, cores=2, bandwidth=40_000_000_000)
        found = run("llama-3.1-8b", "q4_k_m", box, "gpu0", "host", gpu_layers=16).speed
        alone = run("llama-3.1-8b", "q4_k_m", box, "host").speed
        assert found.prefill is not None
        assert alone.prefill is not None
        assert found.prefill.value > alone.prefill.value
        assert found.decode is not None
        rates.append((found.prefill.value, found.decode.value))
    assert rates[0] < rates[1]
    assert rates[0][1] < rates[1][1]


def test_threads_beyond_the_granted_cores_wait() -> None:
    quota = shapes.machine(cores=1.5, bandwidth=40_000_000_000)
    usual = decode("llama-3.1-8b", "q4_k_m", quota, "host", threads=1)
    assert decode("llama-3.1-8b", "q4_k_m", quota, "host", threads=2) > usual
    assert decode("llama-3.1-8b", "q4_k_m", quota, "host", threads=8) < usual
    told = run("llama-3.1-8b", "q4_k_m", quota, "host", threads=8).warnings
    assert any("8 threads share 1.5 granted cores" in w for w in told)
    assert run("llama-3.1-8b", "q4_k_m", quota, "host", threads=2).warnings == ()


def test_a_part_of_a_processor_has_a_lower_bound() -> None:
    whole = shapes.machine(cores=8, bandwidth=40_000_000_000)
    cpu = msgspec.structs.replace(whole.host.cpu, cores_physical=64, cores_logical=128)
    part = msgspec.structs.replace(whole, host=msgspec.structs.replace(whole.host, cpu=cpu))
    a, b = (run("llama-3.1-8b", "q4_k_m", m, "host").speed.decode for m in (whole, part))
    assert a is not None
    assert b is not None
    assert b.value == a.value
    assert b.low < a.low


@hypothesis_settings(deadline=None)
@given(
    fmt=st.sampled_from(GGUF_FORMATS),
    cores=st.sampled_from((0.5, 2.0, 16.0, 128.0)),
    bandwidth=st.integers(5, 1000),
    threads=st.sampled_from((0, 1, 3, 64)),
    depth=st.integers(0, 30000),
)
def test_no_cpu_is_faster_than_its_memory(fmt: str, cores: float, bandwidth: int, threads: int, depth: int) -> None:
    machine = shapes.machine(cores=cores, bandwidth=bandwidth * 10**9)
    q = run("smollm2-135m", fmt, machine, "host", depth=depth, threads=threads).speed.decode
    assert q is not None
    work = KNOWN["smollm2-135m"][0].params * (devices_bits(fmt) / 8)
    assert 0 < q.low <= q.value <= q.high <= bandwidth * 1e9 / work


def devices_bits(fmt: str) -> float:
    """Bits a weight that no file of the type goes below."""
    return {"f16": 16, "bf16": 16, "q8_0": 8.5}.get(fmt, 2.6)


def test_runtimes_share_the_kernels_of_their_engine() -> None:
    host = shapes.machine(bandwidth=40_000_000_000).host
    settings = Settings(context=4096)

    def rate(runtime: str, kind: str = "q4_k", method: str = "gguf") -> cpu_speed.Rate:
        return cpu_speed.decode(
            host, settings, read=1e6, params=1.3e8, kinds=((kind, 1.0),), runtime=runtime, method=method, layers=30
        )

    assert rate("llama.cpp").fitted
    assert rate("ollama").seconds == rate("llama.cpp").seconds
    assert rate("ollama").fitted
    assert not rate("exllama", "w4a16-g128", "gptq").fitted
    assert rate("vllm", "bf16", "none").fitted
    assert not rate("sglang", "bf16", "none").fitted
    assert rate("sglang", "bf16", "none").seconds == rate("vllm", "bf16", "none").seconds
    mixed = cpu_speed.decode(
        host, settings, read=1e6, params=1.3e8, kinds=(("q4_k", 0.5), ("q5_0", 0.5)), runtime="llama.cpp", method="gguf"
    )
    plain = [cpu_speed.decode(host, settings, read=1e6, params=1.3e8, kinds=((k, 1.0),), runtime="llama.cpp",
                              method="gguf").seconds for k in ("q4_k", "q5_0")]  # fmt: skip
    assert mixed.fitted
    assert plain[0] < mixed.seconds < plain[1]
    assert rate("llama.cpp", "q4_k").seconds <= rate("llama.cpp", "tq1_0").seconds
