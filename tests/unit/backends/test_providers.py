"""What a llama.cpp program says of itself, the command lines made from it, and which provider is taken."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.backends.llama import commands, floors, native, providers
from advisor.backends.llama.binary import (
    Binary,
    BinaryDevice,
    binary,
    read_devices,
    read_features,
    read_help,
    read_version,
)
from advisor.backends.llama.providers import Offer, choose
from advisor.errors import AdvisorError
from advisor.facts.plan import Settings
from advisor.facts.words import KV_TYPES, LOAD_MODES
from tests.unit.planner import planner_fakes as fakes

HELP = Path(__file__).resolve().parents[2] / "fixtures" / "llama"
SERVER = "/opt/llama/llama-server"
NEW_VERSION = "version: 0.5.0-dev (build 0, commit 0c1e57098)\nbuilt with GNU 12.2.0 for Linux x86_64\n"
VULKAN_VERSION = "version: 0.1.0-dev (build 1, commit 7e4c0a9)\nbuilt with GNU 11.4.0 for Linux x86_64\n"
OLD_VERSION = "version: 4719 (53dd4beb)\nbuilt with cc (Debian 12.2.0-14) 12.2.0 for x86_64-linux-gnu\n"
DEVICES = """Available devices:
  CUDA0: NVIDIA GeForce RTX 4090 (24563 MiB, 24101 MiB free)
  Vulkan0: NVIDIA GeForce RTX 4090 (24563 MiB, 24101 MiB free)
  BLAS: OpenBLAS (0 MiB, 0 MiB free)
"""


def a_binary(name: str, version: str, devices: str = "Available devices:\n  (none)\n") -> Binary:
    text = (HELP / f"help-{name}.txt").read_text(encoding="utf-8")
    return binary({"llama-server": SERVER}, version, text, devices)


NEW = a_binary("0c1e57098", NEW_VERSION)
VULKAN = a_binary("7e4c0a9", VULKAN_VERSION)
OLD = a_binary("53dd4beb", OLD_VERSION)


# -- reading ---------------------------------------------------------------------------------------------------------


def test_three_builds_tell_their_versions() -> None:
    assert (NEW.version, NEW.number, NEW.commit) == ("0.5.0-dev", None, "0c1e57098")
    assert NEW.compiler == "GNU 12.2.0"
    # A copy of one commit counts its commits from one: that says nothing about its age.
    assert (VULKAN.version, VULKAN.number, VULKAN.commit) == ("0.1.0-dev", None, "7e4c0a9")
    assert (OLD.version, OLD.number, OLD.commit) == (None, 4719, "53dd4beb")
    assert OLD.target == "x86_64-linux-gnu"
    assert OLD.label == "b4719 53dd4beb"


def test_options_are_read_with_their_values() -> None:
    assert NEW.options["--flash-attn"].words == ("on", "off", "auto")
    assert OLD.options["--flash-attn"].takes == ""
    assert NEW.options["-fa"] == NEW.options["--flash-attn"]
    assert set(NEW.words("--load-mode")) >= {"auto", "none", "mmap", "mlock", "mmap+mlock"}
    assert "q8_0" in OLD.words("--cache-type-k")
    assert "--load-mode" not in OLD.options
    assert "--no-mmap" in OLD.options
    assert {"--n-cpu-moe", "--fit", "--no-repack", "--api-key-file", "--metrics"} <= set(NEW.options)
    assert not {"--n-cpu-moe", "--fit", "--no-repack"} & set(OLD.options)
    assert {"--no-ui", "--no-webui"} <= set(NEW.options)
    assert len(NEW.options) > 200


def test_descriptions_are_no_options() -> None:
    found = read_help(
        "-c,    --ctx-size N                     size, see also -np\n"
        "                                        --not-an-option in a description\n"
        "                                        - none: not one either\n"
        "  -ub,   --ubatch-size N  indented in older builds\n"
        "         --keep N  further in\n"
        "----- section -----\n"
        "-- \n"
    )
    assert sorted(found) == ["--ctx-size", "--keep", "--ubatch-size", "-c", "-ub"]
    assert found["--keep"].takes == "N"


def test_devices_are_those_that_compute() -> None:
    found = read_devices(DEVICES)
    assert [(d.name, d.backend, d.total_mib, d.free_mib) for d in found] == [
        ("CUDA0", "cuda", 24563, 24101),
        ("Vulkan0", "vulkan", 24563, 24101),
    ]
    assert read_devices("Available devices:\n  (none)\n") == ()
    assert a_binary("7e4c0a9", VULKAN_VERSION, DEVICES).backends == ("cpu", "cuda", "vulkan")


def test_features_are_those_that_are_on() -> None:
    log = "x\n0.0 I cmn: system_info: n_threads = 1 / 2 | CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | REPACK = 1 | \n"
    assert read_features(log) == ("SSE3", "AVX2", "REPACK")
    assert read_features("no such line") == ()


@given(st.text(max_size=4000))
def test_readers_survive_any_text(text: str) -> None:
    read_version(text)
    read_devices(text)
    read_features(text)
    for spelling, option in read_help(text).items():
        assert spelling.startswith("-")
        assert len(option.takes) <= 80
    commands.read_fit(text)
    commands.read_progress(text)


# -- command lines ---------------------------------------------------------------------------------------------------

PLAIN = Settings(context=8192, parallel=2, threads=6, batch=1024, ubatch=256, load_mode="mmap")


def argv(settings: Settings, built: Binary, key: str | None = None) -> list[str]:
    made = commands.serve(
        settings, built, model_path="/m.gguf", model_name="m", host="127.0.0.1", port=8080, api_key_file=key
    )
    assert made.env == {"GGML_NO_BACKTRACE": "1"}
    assert made.argv[0] == SERVER
    return list(made.argv[1:])


def test_the_command_for_a_new_build() -> None:
    assert argv(PLAIN, NEW, "/key") == [
        "--model", "/m.gguf", "--alias", "m", "--host", "127.0.0.1", "--port", "8080",
        "--ctx-size", "8192", "--parallel", "2", "--batch-size", "1024", "--ubatch-size", "256",
        "--threads", "6", "--threads-batch", "6", "--n-gpu-layers", "0", "--load-mode", "mmap",
        "--fit", "off", "--cache-ram", "0", "--no-cache-idle-slots", "--ctx-checkpoints", "0", "--no-kv-unified",
        "--no-ui", "--no-slots", "--cors-origins", "http://localhost", "--no-cors-credentials", "--offline",
        "--jinja", "--metrics", "--api-key-file", "/key",
    ]  # fmt: skip


def test_the_command_for_a_build_of_february_2025() -> None:
    assert argv(PLAIN, OLD, "/key") == [
        "--model", "/m.gguf", "--alias", "m", "--host", "127.0.0.1", "--port", "8080",
        "--ctx-size", "8192", "--parallel", "2", "--batch-size", "1024", "--ubatch-size", "256",
        "--threads", "6", "--threads-batch", "6", "--n-gpu-layers", "0",
        "--no-webui", "--no-slots", "--jinja", "--metrics", "--api-key-file", "/key",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("built", "flash"),
    [(NEW, ["--flash-attn", "on"]), (VULKAN, ["--flash-attn", "on"]), (OLD, ["--flash-attn"])],
)
def test_a_quantized_cache_turns_flash_attention_on_as_the_build_takes_it(built: Binary, flash: list[str]) -> None:
    line = argv(msgspec.structs.replace(PLAIN, kv_type="q8_0"), built)
    at = line.index("--cache-type-k")
    assert line[at : at + 4] == ["--cache-type-k", "q8_0", "--cache-type-v", "q8_0"]
    assert line[at + 4 : at + 4 + len(flash)] == flash
    assert line[at + 4 + len(flash)].startswith("--")


@pytest.mark.parametrize(
    ("mode", "new", "old"),
    [
        ("mmap", ["--load-mode", "mmap"], []),
        ("none", ["--load-mode", "none"], ["--no-mmap"]),
        ("mlock", ["--load-mode", "mlock"], ["--no-mmap", "--mlock"]),
        ("mmap+mlock", ["--load-mode", "mmap+mlock"], ["--mlock"]),
        (None, ["--load-mode", "auto"], []),
    ],
)
def test_load_modes_are_said_as_each_build_understands_them(mode: str | None, new: list[str], old: list[str]) -> None:
    def part(built: Binary) -> list[str]:
        line = argv(msgspec.structs.replace(PLAIN, load_mode=mode), built)
        words = ("--load-mode", "--no-mmap", "--mlock")
        return [w for i, w in enumerate(line) if w in words or (i and line[i - 1] == "--load-mode")]

    assert part(NEW) == new
    assert part(OLD) == old


def test_layers_shares_and_experts() -> None:
    on_gpu = Settings(context=4096, gpu_layers=20, tensor_split=(0.75, 0.25), cpu_moe_layers=3)
    line = argv(on_gpu, NEW)
    assert line[line.index("--n-gpu-layers") + 1] == "20"
    assert line[line.index("--tensor-split") + 1] == "0.75,0.25"
    assert line[line.index("--n-cpu-moe") + 1] == "3"
    with pytest.raises(AdvisorError) as e:
        argv(on_gpu, OLD)
    assert e.value.code == "runtime-unfit"
    assert e.value.exit_code == 5
    assert "--override-tensor" in e.value.message
    older = msgspec.structs.replace(OLD, options={**OLD.options, "--override-tensor": OLD.options["--device"]})
    line = argv(on_gpu, older)
    assert line[line.index("--override-tensor") + 1] == r"blk\.(0|1|2)\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU"


def test_a_plan_for_the_host_keeps_off_the_devices_of_a_build_that_has_some() -> None:
    assert "--device" not in argv(PLAIN, NEW)
    line = argv(PLAIN, a_binary("0c1e57098", NEW_VERSION, DEVICES))
    assert line[line.index("--device") + 1] == "none"


def test_everything_that_a_build_lacks_is_named_at_once() -> None:
    bare = Binary(tools={"llama-server": SERVER}, options={"--model": NEW.options["--model"]})
    lacking = commands.unmet(msgspec.structs.replace(PLAIN, kv_type="q8_0", gpu_layers=3), bare)
    text = "; ".join(lacking)
    for option in ("--host", "--port", "--ctx-size", "--parallel", "--cache-type-k", "--flash-attn", "--n-gpu-layers"):
        assert option in text
    assert commands.unmet(msgspec.structs.replace(PLAIN, kv_type="q6_k"), NEW)[0].startswith("the KV cache type q6_k")


@given(
    built=st.sampled_from([NEW, VULKAN, OLD]),
    kv=st.sampled_from(KV_TYPES),
    layers=st.integers(-1, 99),
    threads=st.none() | st.integers(1, 64),
    mode=st.sampled_from([None, "auto", *LOAD_MODES]),
    name=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
)
def test_a_line_has_only_options_that_the_build_knows(
    built: Binary, kv: str, layers: int, threads: int | None, mode: str | None, name: str
) -> None:
    s = Settings(context=4096, kv_type=kv, gpu_layers=layers, threads=threads, load_mode=mode)
    if commands.unmet(s, built):
        return
    made = commands.serve(s, built, model_path="/m", model_name=name, host="h", port=1)
    rest = list(made.argv[1:])
    while rest:
        word = rest.pop(0)
        assert word in built.options
        if built.options[word].takes:
            rest.pop(0)


def test_tools() -> None:
    a, b, c = Path("/a"), Path("/b"), Path("/c")
    assert commands.quantize("q", a, b, "q4_k_m", threads=2, imatrix=c, requantize=True) == (
        "q", "--imatrix", "/c", "--allow-requantize", "/a", "/b", "Q4_K_M", "2",
    )  # fmt: skip
    assert commands.quantize("q", a, b, "f16", threads=None, imatrix=None, requantize=False) == ("q", "/a", "/b", "F16")
    assert commands.imatrix("i", a, b, c, chunks=12, context=512, threads=2) == (
        "i", "-m", "/a", "-f", "/b", "-o", "/c", "-c", "512", "--chunks", "12", "-ngl", "0", "-t", "2",
    )  # fmt: skip
    line = commands.fit("f", a, Settings(context=8192, gpu_layers=-1, tensor_split=(1.0, 3.0), cpu_moe_layers=2))
    assert line[-2:] == ("--fit-print", "on")
    assert line[line.index("-ngl") + 1] == "999"
    assert line[line.index("-ts") + 1] == "1,3"
    assert line[line.index("-ncmoe") + 1] == "2"


def test_what_the_tools_print() -> None:
    assert commands.read_fit("noise\nCUDA0 4096 512 300\nHost 256 180 98\nx 1 2\n") == (
        commands.DeviceNeed("CUDA0", 4096, 512, 300),
        commands.DeviceNeed("Host", 256, 180, 98),
    )
    assert commands.read_progress("[  12/ 272]  blk.0.attn_q.weight - [576, 576]") == (12, 272)
    assert commands.read_progress("[1]23.14,[2]19.02,") == (2, None)
    assert commands.read_progress("load_imatrix: something") is None


# -- floors ----------------------------------------------------------------------------------------------------------


def test_a_build_below_a_floor_is_refused_with_the_holes() -> None:
    error = floors.refusal(OLD)
    assert error is not None
    assert error.code == "runtime-vulnerable"
    assert error.exit_code == 7
    assert "b4719" in error.message
    assert "7824" in error.message
    assert error.data["floors"] == ["CVE-2026-33298", "CVE-2025-52566", "CVE-2025-49847"]


@pytest.mark.parametrize(
    ("number", "holes"), [(7824, 0), (7823, 1), (5721, 1), (5720, 2), (5662, 2), (5661, 3), (None, 0)]
)
def test_floors_are_exact(number: int | None, holes: int) -> None:
    assert len(floors.below(msgspec.structs.replace(OLD, number=number))) == holes


def test_builds_of_the_newer_scheme_are_above_all_floors() -> None:
    assert floors.refusal(NEW) is None
    assert floors.refusal(VULKAN) is None
    assert floors.floors("vllm") == ()


# -- the choice ------------------------------------------------------------------------------------------------------

WHEEL = Offer(provider="wheel", state="works", version="1")
PATH = Offer(provider="path", state="works", version="2", binary=NEW)
BUILT = Offer(provider="build", state="works", version="3", binary=NEW)
CAN_BUILD = Offer(provider="build", state="absent", version="3")
CUDA = Offer(
    provider="path",
    state="works",
    backends=("cpu", "cuda"),
    binary=msgspec.structs.replace(NEW, devices=(BinaryDevice(name="CUDA0", backend="cuda", description="d"),)),
)
ON_GPU = msgspec.structs.replace(PLAIN, gpu_layers=33)


def but(offer: Offer, **changes: object) -> Offer:
    return msgspec.structs.replace(offer, **changes)


@pytest.mark.parametrize(
    ("there", "kind", "taken"),
    [
        ((WHEEL,), "cpu", WHEEL),
        ((PATH, WHEEL), "cpu", PATH),
        ((PATH, BUILT, WHEEL), "cpu", BUILT),
        ((CAN_BUILD, WHEEL), "cpu", WHEEL),
        ((CAN_BUILD, but(WHEEL, state="absent")), "cpu", but(WHEEL, state="absent")),
        ((but(PATH, state="failed", why="SIGILL"), WHEEL), "cpu", WHEEL),
        ((but(PATH, state="refused", why="old"), WHEEL), "cpu", WHEEL),
        ((but(PATH, state="untested"), WHEEL), "cpu", but(PATH, state="untested")),
        ((CUDA, WHEEL), "nvidia", CUDA),
        ((CUDA, but(BUILT, backends=("cpu", "cuda")), WHEEL), "nvidia", CUDA),
        ((PATH, but(CAN_BUILD, backends=("cpu", "cuda")), WHEEL), "nvidia", but(CAN_BUILD, backends=("cpu", "cuda"))),
        ((but(BUILT, backends=("cpu", "vulkan")), WHEEL), "amd", but(BUILT, backends=("cpu", "vulkan"))),
        ((but(BUILT, backends=("cpu", "metal")), WHEEL), "apple", but(BUILT, backends=("cpu", "metal"))),
    ],
)
def test_the_provider_that_can_do_the_plan_is_taken(there: tuple[Offer, ...], kind: str, taken: Offer) -> None:
    settings = PLAIN if kind == "cpu" else ON_GPU
    assert choose(settings, kind, there) == taken
    assert choose(settings, kind, tuple(reversed(there))) == taken


def test_a_build_without_the_processors_features_is_no_gain() -> None:
    slow = but(PATH, binary=msgspec.structs.replace(NEW, features=("SSE3", "AVX")))
    assert choose(PLAIN, "cpu", (slow, WHEEL), isa=("sse3", "avx", "avx2", "fma")) == WHEEL
    assert choose(PLAIN, "cpu", (slow, WHEEL), isa=("sse3", "avx")) == slow
    assert choose(PLAIN, "cpu", (slow, WHEEL), wanted="path", isa=("avx2", "fma")) == slow


def test_a_build_that_lacks_an_option_of_the_plan_is_passed_over() -> None:
    old = but(PATH, binary=OLD)
    moe = msgspec.structs.replace(ON_GPU, cpu_moe_layers=4)
    assert choose(PLAIN, "cpu", (old, WHEEL)) == old
    with pytest.raises(AdvisorError) as e:
        choose(moe, "nvidia", (but(old, backends=("cpu", "cuda")), WHEEL))
    assert e.value.code == "runtime-unfit"
    assert "experts" in e.value.data["reasons"]["path"]
    assert "nvidia" in e.value.data["reasons"]["wheel"]


def test_a_named_provider_is_taken_or_says_why_not() -> None:
    assert choose(PLAIN, "cpu", (PATH, CAN_BUILD, WHEEL), wanted="wheel") == WHEEL
    assert choose(PLAIN, "cpu", (PATH, CAN_BUILD, WHEEL), wanted="build") == CAN_BUILD
    with pytest.raises(AdvisorError) as e:
        choose(ON_GPU, "nvidia", (CUDA, WHEEL), wanted="wheel")
    assert e.value.code == "runtime-unfit"
    assert "no backend for nvidia" in e.value.message
    with pytest.raises(AdvisorError) as e:
        choose(PLAIN, "cpu", (WHEEL,), wanted="path")
    assert e.value.context == ("path: none is found here",)
    with pytest.raises(AdvisorError) as e:
        choose(PLAIN, "cpu", (but(PATH, state="refused", why="old", binary=OLD), WHEEL), wanted="path")
    assert e.value.code == "runtime-vulnerable"


def test_what_can_be_had_makes_a_plan_ready() -> None:
    from advisor.facts.machine import RuntimeFound

    bare = fakes.rtx_4090()
    assert not providers.provided(bare, "nvidia")
    found = RuntimeFound(runtime="llama.cpp", provider="path", version="1", backends=("cpu", "cuda"))
    assert providers.provided(msgspec.structs.replace(bare, runtimes=(found,)), "nvidia")
    assert providers.provided(msgspec.structs.replace(bare, buildable=("cpu", "cuda")), "nvidia")
    assert not providers.provided(msgspec.structs.replace(bare, buildable=("cpu", "cuda")), "amd")


# -- compiling -------------------------------------------------------------------------------------------------------

ALL_TOOLS = {n.found: f"/tools/{n.found}" for needs in native.NEEDS.values() for n in needs}


@pytest.mark.parametrize("backend", native.BACKENDS)
def test_each_backend_names_all_that_is_missing(backend: str) -> None:
    assert native.missing(backend, ALL_TOOLS) == ()
    lacking = native.missing(backend, {})
    assert {"cc", "c++"} <= {n.found for n in lacking}
    assert all(n.what and n.how for n in lacking)


def test_what_is_compiled_for_follows_the_devices_and_the_tools() -> None:
    nvidia, cpu, apple = fakes.rtx_4090(), fakes.cpu_only(), fakes.m2_ultra()
    assert native.best(nvidia, ALL_TOOLS) == "cuda"
    assert native.best(nvidia, {k: v for k, v in ALL_TOOLS.items() if k != "nvcc"}) == "vulkan"
    # Where neither can be compiled, the device's own compiler is what is missing.
    assert native.best(nvidia, {"cc": "/cc", "c++": "/c++"}) == "cuda"
    assert native.best(cpu, ALL_TOOLS) == "cpu"
    assert native.best(apple, ALL_TOOLS) == "metal"
    assert native.buildable(nvidia, ALL_TOOLS) == ("cpu", "cuda", "vulkan")
    assert native.buildable(cpu, ALL_TOOLS) == ("cpu",)
    assert native.buildable(nvidia, {}) == ()


def test_options_follow_the_device() -> None:
    cuda = native.flags("cuda", ALL_TOOLS, fakes.rtx_4090(), commit="abc")
    assert {"-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=89", "-DCMAKE_CUDA_COMPILER=/tools/nvcc"} <= set(cuda)
    for backend, flag in (("rocm", "-DGGML_HIP=ON"), ("vulkan", "-DGGML_VULKAN=ON"), ("metal", "-DGGML_METAL=ON")):
        assert flag in native.flags(backend, ALL_TOOLS, fakes.cpu_only(), commit="abc")
    for backend in native.BACKENDS:
        made = native.flags(backend, ALL_TOOLS, fakes.cpu_only(), commit="abc")
        assert {"-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_UI=OFF", "-DGGML_NATIVE=ON"} <= set(made)


def test_a_build_is_known_by_all_that_decides_it() -> None:
    machine = fakes.cpu_only()
    flags = native.flags("cpu", ALL_TOOLS, machine, commit="abc")

    def known(**changes: object) -> dict[str, object]:
        base: dict[str, object] = {"sdist": "s", "compilers": ("gcc 12",), "machine": machine}
        return native.identity("cpu", flags, **(base | changes))  # type: ignore[arg-type]

    assert known() == known()
    assert known() != known(sdist="other")
    assert known() != known(compilers=("gcc 13",))
    cpu = msgspec.structs.replace(machine.host.cpu, isa=("avx512f",))
    newer = msgspec.structs.replace(machine, host=msgspec.structs.replace(machine.host, cpu=cpu))
    assert known() != known(machine=newer)
