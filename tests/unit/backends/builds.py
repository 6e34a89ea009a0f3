"""Recorded llama.cpp builds of three ages, and a usual plan to serve with them."""

from __future__ import annotations

from pathlib import Path

from advisor.backends.llama.binary import Binary, binary
from advisor.facts.plan import Settings

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

PLAIN = Settings(context=8192, parallel=2, threads=6, batch=1024, ubatch=256, load_mode="mmap")
