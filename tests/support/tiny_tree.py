"""A source archive of a project that CMake and Ninja really build in a second, without any compiler.

Each program is a copy of a script made by a custom command, in several steps that leave a line in ``steps.log``; the
step ``slow`` waits while a file ``hold`` lies in the build folder.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import sys
import tarfile
from pathlib import Path

from advisor.backends.pins import BackendPins, PackagePin, SdistPin

CMAKE = """cmake_minimum_required(VERSION 3.18)
project(tiny NONE)
set(previous "")
foreach(step one slow two three)
  add_custom_command(
    OUTPUT ${CMAKE_BINARY_DIR}/${step}.o
    COMMAND ${PYTHON} ${CMAKE_SOURCE_DIR}/step.py ${step}
    DEPENDS ${CMAKE_SOURCE_DIR}/step.py ${previous}
    COMMENT "Building C object src/${step}.c.o"
    VERBATIM)
  set(previous ${CMAKE_BINARY_DIR}/${step}.o)
endforeach()
foreach(program llama-server llama-quantize)
  add_custom_command(
    OUTPUT ${CMAKE_BINARY_DIR}/bin/${program}
    COMMAND ${CMAKE_COMMAND} -E copy ${CMAKE_SOURCE_DIR}/program.sh ${CMAKE_BINARY_DIR}/bin/${program}
    COMMAND chmod 755 ${CMAKE_BINARY_DIR}/bin/${program}
    DEPENDS ${CMAKE_BINARY_DIR}/three.o
    COMMENT "Linking C executable bin/${program}")
  add_custom_target(${program} DEPENDS ${CMAKE_BINARY_DIR}/bin/${program})
endforeach()
"""
STEP = """import pathlib, sys, time
step = sys.argv[1]
with open("steps.log", "a") as f:
    f.write(step + "\\n")
while step == "slow" and pathlib.Path("hold").exists():
    time.sleep(0.05)
if pathlib.Path("../fail").exists():
    sys.exit("error: " + step + " does not compile")
pathlib.Path(step + ".o").write_text("done")
"""
PROGRAM = "#!/bin/sh\necho version: 9000 '(abcdef0)'\n"


def archive(path: Path) -> SdistPin:
    """Write the archive and return its pin."""
    with tarfile.open(path, "w:gz") as tar:
        for name, text, mode in (
            ("CMakeLists.txt", CMAKE, 0o644),
            ("step.py", STEP, 0o644),
            ("program.sh", PROGRAM, 0o755),
            ("LICENSE", "free\n", 0o644),
        ):
            member = tarfile.TarInfo(f"tiny-1/tree/{name}")
            member.size, member.mode = len(text), mode
            tar.addfile(member, io.BytesIO(text.encode()))
    raw = path.read_bytes()
    return pin(path.name, hashlib.sha256(raw).hexdigest(), len(raw))


def pin(file: str, sha256: str, size: int) -> SdistPin:
    """The pin of an archive that is there."""
    return SdistPin(
        name="tiny",
        version="1",
        file=file,
        sha256=sha256,
        bytes=size,
        members=("tree/",),
        strip="tree/",
        into="tiny",
        why="w",
        source="s",
    )


def pins(sdist: SdistPin) -> BackendPins:
    """An environment of nothing but the archive."""
    return BackendPins(
        name="llama.cpp-build",
        description="for tests",
        python=">=3.11",
        packages=(PackagePin(name="ninja", version="1.13.2", why="w", source="s"),),
        health="health_tools.py",
        capabilities=(),
        disk_bytes=1000,
        source="s",
        sdists=(sdist,),
    )


def tools() -> dict[str, str]:
    """CMake and Ninja, of the machine or of the development environment."""
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/opt/homebrew/bin"
    found = {name: shutil.which(name, path=path) for name in ("cmake", "ninja")}
    missing = [name for name, at in found.items() if at is None]
    assert not missing, f"pip install {' '.join(missing)}"
    return {name: str(at) for name, at in found.items()}
