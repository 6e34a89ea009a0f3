"""A Vulkan device without a graphics card: Mesa's software driver (lavapipe), installed or unpacked into a folder.

Everything that runs on it must have a limit of its own: the device always reports 2 GiB, and takes more than that from
the machine's memory without asking.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGES = ("mesa-vulkan-drivers", "libvulkan1")
# What every Debian system has, and what must not be mixed with another version of itself.
SYSTEM = frozenset({"libc6", "libgcc-s1", "libstdc++6", "libcrypt1", "gcc-12-base"})
INSTALLED = Path("/usr/share/vulkan/icd.d")
SECONDS = 120


def variables(cache: Path) -> dict[str, str]:
    """Environment variables with which a program finds the software device, and no other one.

    Args:
        cache: where the packages are unpacked to if the driver is not installed; it is found again there.

    Fails the test with what is missing; ``ADVISOR_NO_VULKAN=1`` skips it instead.
    """
    if os.environ.get("ADVISOR_NO_VULKAN") == "1":
        pytest.skip("ADVISOR_NO_VULKAN=1: NOTHING OF OFFLOADING TO A DEVICE IS TESTED")
    found = sorted(INSTALLED.glob("lvp_icd*.json"))
    if found and shutil.which("ldconfig") and "libvulkan.so.1" in _said(["ldconfig", "-p"]):
        return _named(found[0])
    folder = cache / "lavapipe"
    if not (folder / "icd.json").is_file():
        _unpack(folder)
    libraries = ":".join(str(p) for p in _library_folders(folder))
    return {**_named(folder / "icd.json"), "LD_LIBRARY_PATH": libraries}


def _named(icd: Path) -> dict[str, str]:
    # llama.cpp passes software devices over unless one is asked for by its number.
    return {"VK_DRIVER_FILES": str(icd), "VK_ICD_FILENAMES": str(icd), "GGML_VK_VISIBLE_DEVICES": "0"}


def _library_folders(folder: Path) -> list[Path]:
    """Only the folders of libraries themselves, ``lib`` and what is named for the platform under it."""
    return sorted({p.parent for p in folder.rglob("lib*.so.*") if "lib" in (p.parent.name, p.parent.parent.name)})


def _needed() -> list[str]:
    """The driver's packages and the libraries that they depend on, their libraries' libraries included."""
    wanted: set[str] = set()
    new = set(PACKAGES)
    while new:
        wanted |= new
        said = _said(["apt-cache", "depends", "--important", *sorted(new)])
        named = set(re.findall(r"^ +Depends: (lib[a-z0-9.+-]+)$", said, re.MULTILINE))
        new = named - wanted - SYSTEM
    return sorted(wanted)


def _unpack(folder: Path) -> None:
    """Download the driver with what it needs, as Debian packages, and unpack them without installing anything."""
    for tool in ("apt-get", "apt-cache", "dpkg"):
        if shutil.which(tool) is None:
            pytest.fail(
                f"There is no {tool} here to get a software Vulkan driver with: install one (lavapipe), or set "
                "ADVISOR_NO_VULKAN=1 to leave these tests out."
            )
    if "Candidate: (none)" in _policy() or not _policy().strip():
        _update()
    part = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    (part / "debs").mkdir(parents=True)
    got = _download(part / "debs")
    if got.returncode:  # the lists may name versions that are gone
        _update()
        got = _download(part / "debs")
    debs = sorted((part / "debs").glob("*.deb"))
    if got.returncode or not debs:
        pytest.fail(
            "No software Vulkan driver is installed, and Debian's packages cannot be downloaded "
            f"({got.stderr.strip()[-300:]}). Install mesa-vulkan-drivers, or set ADVISOR_NO_VULKAN=1 to leave these "
            "tests out."
        )
    for deb in debs:
        subprocess.run(["dpkg", "-x", str(deb), str(part / "root")], check=True, capture_output=True, timeout=SECONDS)
    shutil.rmtree(part / "debs")
    drivers = list((part / "root").rglob("libvulkan_lvp.so"))
    manifests = list((part / "root").rglob("lvp_icd*.json"))
    if not drivers or not manifests:
        pytest.fail(f"Debian's {PACKAGES[0]} holds no software driver (lavapipe).")
    manifest = json.loads(manifests[0].read_text(encoding="utf-8"))
    manifest["ICD"]["library_path"] = str(folder / drivers[0].relative_to(part))
    (part / "icd.json").write_text(json.dumps(manifest), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _update() -> None:
    subprocess.run(["apt-get", "update", "-qq"], capture_output=True, timeout=SECONDS)


def _download(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["apt-get", "download", *_needed()], cwd=folder, capture_output=True, text=True, timeout=SECONDS
    )


def _policy() -> str:
    return _said(["apt-cache", "policy", PACKAGES[0]])


def _said(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS).stdout
