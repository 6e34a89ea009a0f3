"""What a llama.cpp program says of itself: its version, options, devices and features."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from advisor.backends.llama import commands
from advisor.backends.llama.binary import read_devices, read_features, read_help, read_version
from tests.unit.backends.builds import DEVICES, NEW, OLD, VULKAN, VULKAN_VERSION, a_binary


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
