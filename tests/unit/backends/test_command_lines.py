"""Command lines for builds of different ages: only options that the build knows, and what the tools print."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.backends.llama import commands
from advisor.backends.llama.binary import Binary
from advisor.errors import AdvisorError
from advisor.facts.plan import Settings
from advisor.facts.words import KV_TYPES, LOAD_MODES
from tests.unit.backends.builds import DEVICES, NEW, NEW_VERSION, OLD, PLAIN, SERVER, VULKAN, a_binary


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
    packed = commands.quantize("q", a, b, "mxfp4", threads=None, imatrix=None, requantize=False)
    assert packed == ("q", "/a", "/b", "MXFP4_MOE")
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
