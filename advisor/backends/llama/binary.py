"""What a llama.cpp program says of itself: ``--version``, ``--help`` and ``--list-devices``, read into facts.

Options come and go from build to build (``--flash-attn`` was a bare flag once and takes ``on|off|auto`` now, ``--mmap``
gave way to ``--load-mode``), so every command line is made from what the program at hand lists.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from advisor.facts.base import Shape
from advisor.facts.text import clean

SERVER: Final = "llama-server"
TOOLS: Final = (
    SERVER,
    "llama-quantize",
    "llama-imatrix",
    "llama-fit-params",
    "llama-bench",
    "llama-perplexity",
)
_TEXT_LIMIT: Final = 1 << 20
_INDENT_LIMIT: Final = 12  # descriptions stand further right than any spelling of an option
# A history without depth (a copy of one commit) counts its commits from one.
_FIRST_REAL_NUMBER: Final = 1000

# The newer form is "version: 0.5.0 (build 11739, commit 0ce8cd1)", the older one "version: 4719 (53dd4beb)".
_NEW_VERSION: Final = re.compile(r"^version: (\S+) \(build (\d+), commit (\w+)\)", re.MULTILINE)
_OLD_VERSION: Final = re.compile(r"^version: (\d+) \((\w+)\)", re.MULTILINE)
_BUILT_WITH: Final = re.compile(r"^built with (.+) for (.+)$", re.MULTILINE)
_SPELLING: Final = re.compile(r"(-{1,2}[A-Za-z][\w-]*)(,\s+|\s|$)")
_DEVICE: Final = re.compile(r"^\s+([A-Za-z]+)(\d*): (.+?)(?: \((\d+) MiB, (\d+) MiB free\))?\s*$", re.MULTILINE)
_ALLOWED: Final = re.compile(r"allowed values: ([\w, ]+)")
_BULLET: Final = re.compile(r"^\s+- ([\w+-]+):", re.MULTILINE)
_BACKENDS: Final = {
    "cuda": "cuda",
    "rocm": "rocm",
    "hip": "rocm",
    "vulkan": "vulkan",
    "sycl": "sycl",
    "metal": "metal",
    "mtl": "metal",
    "opencl": "opencl",
    "cann": "cann",
    "musa": "musa",
}


class Option(Shape, frozen=True, kw_only=True):
    """One option. ``takes``: what follows it as the help writes it, empty for a bare flag; ``words``: the values that
    the help lists, empty where it lists none."""

    takes: str = ""
    words: tuple[str, ...] = ()


class BinaryDevice(Shape, frozen=True, kw_only=True):
    """An accelerator as the program sees it now. Memory in MiB."""

    name: str
    backend: str
    description: str
    total_mib: int | None = None
    free_mib: int | None = None


class Binary(Shape, frozen=True, kw_only=True):
    """A build of llama.cpp: its server and the tools beside it.

    ``tools``: name -> absolute path. ``number``: the build number of its makers, ``None`` where the build does not know
    it. ``features``: processor features that it uses, as its own system information lists them, once it has run.
    """

    tools: dict[str, str]
    version: str | None = None
    number: int | None = None
    commit: str | None = None
    compiler: str | None = None
    target: str | None = None
    options: dict[str, Option] = msgspec.field(default_factory=dict)
    devices: tuple[BinaryDevice, ...] = ()
    features: tuple[str, ...] = ()

    @property
    def server(self) -> str:
        """The path of ``llama-server``."""
        return self.tools[SERVER]

    @property
    def backends(self) -> tuple[str, ...]:
        """``cpu`` and the backends for which it finds a device here."""
        return ("cpu", *sorted({d.backend for d in self.devices}))

    @property
    def label(self) -> str:
        """Version, build number and commit, as far as they are known."""
        number = f"b{self.number}" if self.number is not None else None
        return " ".join(p for p in (self.version, number, self.commit) if p) or "unknown"

    def has(self, *spellings: str) -> str | None:
        """The first of the spellings that the program knows."""
        return next((s for s in spellings if s in self.options), None)

    def words(self, spelling: str) -> tuple[str, ...]:
        """The values that the help lists for an option."""
        option = self.options.get(spelling)
        return option.words if option is not None else ()


def read_version(text: str) -> dict[str, str | int | None]:
    """``version``, ``number``, ``commit``, ``compiler`` and ``target`` out of what ``--version`` prints."""
    text = text[:_TEXT_LIMIT]
    out: dict[str, str | int | None] = {}
    new, old, built = _NEW_VERSION.search(text), _OLD_VERSION.search(text), _BUILT_WITH.search(text)
    if new is not None:
        out |= {"version": clean(new[1], 40), "number": _number(new[2]), "commit": clean(new[3], 40)}
    elif old is not None:
        out |= {"number": _number(old[1]), "commit": clean(old[2], 40)}
    if out.get("commit") == "unknown":
        out["commit"] = None
    if built is not None:
        out |= {"compiler": clean(built[1], 120), "target": clean(built[2], 80)}
    return out


def _number(digits: str) -> int | None:
    number = int(digits[:12])
    return number if number >= _FIRST_REAL_NUMBER else None


def read_help(text: str) -> dict[str, Option]:
    """All spellings of all options out of what ``--help`` prints."""
    out: dict[str, Option] = {}
    spellings: list[str] = []
    takes, block = "", [""]

    def keep() -> None:
        if spellings:
            option = Option(takes=takes, words=_words(takes, "\n".join(block)))
            out.update(dict.fromkeys(spellings, option))

    for line in text[:_TEXT_LIMIT].splitlines():
        found = _synopsis(line)
        if found is None:
            block.append(line)
            continue
        keep()
        spellings, takes = found
        block = [line]
    keep()
    return out


def _synopsis(line: str) -> tuple[list[str], str] | None:
    """Spellings and value of a line that introduces an option, else ``None``."""
    rest = line.lstrip()
    if not rest.startswith("-") or len(line) - len(rest) >= _INDENT_LIMIT:
        return None
    found = []
    while (m := _SPELLING.match(rest)) is not None:
        found.append(m[1])
        rest = rest[m.end() :]
        if not m[2].startswith(","):
            break
    if not found:
        return None
    # A single space sets the value off, more than one the description.
    takes = "" if rest[:1] in ("", " ") else re.split(r"\s{2,}", rest, maxsplit=1)[0]
    return found, clean(takes, 80)


def _words(takes: str, block: str) -> tuple[str, ...]:
    listed = re.fullmatch(r"[\[{<](\w+(?:[|,]\w+)+)[\]}>]", takes)
    if listed is not None:
        return tuple(re.split(r"[|,]", listed[1]))
    allowed = _ALLOWED.search(" ".join(block.split()))
    if allowed is not None:
        return tuple(w.strip() for w in allowed[1].split(",") if w.strip())
    return tuple(_BULLET.findall(block))


def read_devices(text: str) -> tuple[BinaryDevice, ...]:
    """The accelerators out of what ``--list-devices`` prints; libraries for the CPU (BLAS) do not count."""
    out = []
    for kind, number, description, total, free in _DEVICE.findall(text[:_TEXT_LIMIT]):
        backend = _BACKENDS.get(kind.lower())
        if backend is not None:
            out.append(
                BinaryDevice(
                    name=kind + number,
                    backend=backend,
                    description=clean(description, 120),
                    total_mib=int(total) if total else None,
                    free_mib=int(free) if free else None,
                )
            )
    return tuple(out)


def read_features(log: str) -> tuple[str, ...]:
    """Processor features out of the ``system_info`` line of a log: those that are on."""
    line = next((at for at in log[-_TEXT_LIMIT:].splitlines() if "system_info:" in at), "")
    return tuple(dict.fromkeys(re.findall(r"\b([A-Z][A-Z0-9_]+) = [1-9]", line)))


def binary(tools: dict[str, str], version: str, help_text: str, devices: str) -> Binary:
    """The facts of a build out of its three answers."""
    facts = Binary(tools=tools, options=read_help(help_text), devices=read_devices(devices))
    return msgspec.structs.replace(facts, **read_version(version))
