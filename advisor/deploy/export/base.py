"""What every exporter is given, and what it answers."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol

from advisor._version import __version__
from advisor.errors import AdvisorError
from advisor.facts.exports import ExportedFile
from advisor.facts.plan import Plan
from advisor.facts.text import clean

MIB: Final = 1 << 20
# What a server may take above the upper end of the prediction's range before it is stopped: nothing; and where the
# range is narrow (exact sizes), a tenth of the value, for connections and the allocator.
HEADROOM_PERCENT: Final = 110
READY_S: Final = 900
STOP_S: Final = 15
# Threads that compute, and one core for what answers requests: less would stop computing threads in mid-token.
SERVING_CORES: Final = 1
RESTARTS: Final = 5
RESTART_WINDOW_S: Final = 300
# Where a container finds things.
PORT: Final = 8080
MODELS: Final = "/models"
KEY: Final = "/run/secrets/api-key"
# NVIDIA's documentation of NCCL, "Shared memory" in containers: 1 GB a process.
SHARED_MEMORY: Final = 1 << 30
# A user that no system has, for who exports as root: the number that images without a root user commonly take.
NOBODY: Final = 65532


class Program(NamedTuple):
    """What runs on this machine: a command line and what is added to its environment."""

    argv: tuple[str, ...]
    env: dict[str, str]


class Container(NamedTuple):
    """What runs in a container: ``arguments`` follow the image's ``entrypoint``.

    ``key_variable``: the server takes its key from this variable, not from a file. ``devices``: how many it is given,
    of ``vendor`` (``cpu``: none); ``uuids`` names them where not all are meant. ``shared_bytes`` of /dev/shm.
    ``source``: where the image's version comes from.
    """

    image: str
    source: str
    entrypoint: tuple[str, ...]
    arguments: tuple[str, ...]
    env: dict[str, str]
    probe: tuple[str, ...]
    key_variable: str | None
    vendor: str
    devices: int
    uuids: tuple[str, ...]
    shared_bytes: int
    uid: int
    gid: int


class Service(NamedTuple):
    """One served model, in terms that all formats share.

    ``served_as``: what the API calls it. ``host`` and ``port``: where clients reach it. ``artifact``: a file, or a
    folder (``folder``); ``made_by``: the command that makes it where it is not there yet. ``limit_bytes``: host memory
    at which it is stopped; ``None``: no prediction. ``scope``: ``user`` or ``system``; ``user``: whose service it is,
    ``None`` for the own user. ``python``: an interpreter on this machine that can ask the health path.
    """

    name: str
    plan: Plan
    served_as: str
    host: str
    port: int
    health_path: str
    key_file: str
    artifact: Path
    folder: bool
    artifact_bytes: int | None
    made_by: str | None
    limit_bytes: int | None
    predicted_bytes: int | None
    cores: int | None
    scope: Literal["user", "system"]
    user: str | None
    python: str
    program: Program | None = None
    container: Container | None = None
    notes: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """Its name among other services."""
        return f"advisor-{self.name}"

    @property
    def title(self) -> str:
        """One line that says what it is."""
        p = self.plan
        return clean(f"{self.served_as}: {p.format} in {p.runtime} (advisor, plan {p.id})")

    @property
    def inside(self) -> str:
        """The artifact's path in a container."""
        return f"{MODELS}/model" + ("" if self.folder else self.artifact.suffix or ".gguf")

    @property
    def url(self) -> str:
        """Where its health is asked on this machine."""
        from advisor.deploy.ports import url

        return url(self.host, self.port) + self.health_path


class Exporter(Protocol):
    """One format. ``needs``: what it runs; ``systems``: kernels whose paths it may name (``linux``, ``darwin``)."""

    name: str
    title: str
    needs: Literal["program", "container", "gguf"]
    systems: tuple[str, ...]

    def files(self, service: Service) -> tuple[ExportedFile, ...]:
        """The files, the one to read first in front.

        Raises:
            AdvisorError: ``cannot-export`` for what the format cannot say.
        """
        ...

    def steps(self, service: Service) -> tuple[str, ...]:
        """Command lines that put the files to use, from the folder that they lie in."""
        ...


def limit(predicted: float, high: float, shared_bytes: int = 0) -> int:
    """Bytes of host memory to stop at, in whole MiB: the upper end of the prediction, a tenth above it at least."""
    return math.ceil((max(high, predicted * HEADROOM_PERCENT / 100) + shared_bytes) / MIB) * MIB


def cannot(message: str, hint: str | None, **data: object) -> AdvisorError:
    """The error about a plan that a format cannot carry."""
    return AdvisorError("cannot-export", message, hint=hint, data=data)


def program(service: Service) -> Program:
    """What runs on this machine; a format that needs it is never asked without."""
    if service.program is None:
        raise AdvisorError("bug", f"{service.name} was exported without its command line.")
    return service.program


def container(service: Service) -> Container:
    """What runs in a container; a format that needs it is never asked without."""
    if service.container is None:
        raise AdvisorError("bug", f"{service.name} was exported without its container.")
    return service.container


def header(service: Service, fmt: str, *more: str, mark: str = "#") -> str:
    """Comment lines: what made the file, from what, and ``more``."""
    lines = [
        f"{service.title}",
        f"Made by advisor {__version__}: advisor export {fmt} {service.plan.id}",
        *(() if service.container is None else (f"Image: {service.container.image} ({service.container.source})",)),
        *more,
    ]
    return "".join(f"{mark} {clean(line, 400)}\n" for line in lines)


def yaml_of(*documents: Mapping[str, Any]) -> str:
    """YAML of plain data, in its order, every value written out where it stands (no anchors)."""
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump_all(documents, Dumper=Plain, sort_keys=False, allow_unicode=True, width=10_000)


def label(name: str, longest: int = 50) -> str:
    """``name`` as a label of DNS (Kubernetes, projects of compose): letters, digits and dashes."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c == "-") else "-" for c in name.lower())
    return plain[:longest].strip("-") or "model"


def key_steps(service: Service) -> tuple[str, ...]:
    """The command that makes the key where there is none; the key itself is in no file of an export."""
    path = shlex.quote(service.key_file)
    parent = shlex.quote(str(Path(service.key_file).parent))
    make = f"od -An -tx1 -N32 /dev/urandom | tr -d ' \\n' > {path}"
    return (f"test -s {path} || (umask 077 && mkdir -p {parent} && {make})",)


def readable_steps(service: Service) -> tuple[str, ...]:
    """What lets a container's user, who has no account here, read key and weights."""
    c = container(service)
    if c.uid != NOBODY:
        return ()
    weights, key = shlex.quote(str(service.artifact)), shlex.quote(service.key_file)
    return (f"sudo chmod -R a+rX {weights}", f"sudo chown {c.uid}:{c.gid} {key}")


def first_steps(service: Service) -> tuple[str, ...]:
    """What has to be there first: the artifact and the key."""
    return (*((service.made_by,) if service.made_by is not None else ()), *key_steps(service))
