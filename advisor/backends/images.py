"""Container images of runtimes, pinned in profiles/images, and the command that serves in them.

Option lists are those of the backends (``llama.commands``, ``vllm.options``): an image changes the paths and the
address, nothing of the plan.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, Literal, NamedTuple

import msgspec

from advisor import datafiles
from advisor.backends.base import ServeRequest
from advisor.backends.llama import commands as llama
from advisor.backends.llama.binary import SERVER, Binary, Option
from advisor.backends.vllm import options as vllm
from advisor.errors import AdvisorError
from advisor.facts.base import Shape, from_json

EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - inside the container; what is published is the exporter's choice


class Pin(Shape, frozen=True, kw_only=True):
    """One image: ``REPOSITORY:TAG``, with ``@sha256:...`` where the digest is known, and who says that it is there."""

    image: str
    source: str


class Images(Shape, frozen=True, kw_only=True):
    """The images of one runtime, by kind of device (``cpu`` or a vendor).

    ``entrypoint``: what they start, to which arguments are added. ``key``: how the server takes its key, from a file or
    from the variable ``key_variable``. ``probe``: a command inside that succeeds once requests are served, with
    ``{port}``. ``variables`` are set in every container. ``options``: of llama.cpp, what the build lists.
    """

    runtime: str
    version: str
    source: str
    entrypoint: tuple[str, ...]
    key: Literal["file", "variable"]
    probe: tuple[str, ...]
    probe_source: str
    images: dict[str, Pin]
    key_variable: str | None = None
    variables: dict[str, str] = msgspec.field(default_factory=dict)
    options: dict[str, Option] = msgspec.field(default_factory=dict)
    options_source: str | None = None


class Contained(NamedTuple):
    """What runs in a container: the arguments after the image's entrypoint, and the environment."""

    arguments: tuple[str, ...]
    env: dict[str, str]


@cache
def _all() -> dict[str, Images]:
    import yaml

    found = {}
    for path in datafiles.data_files(datafiles.profiles_dir("images")):
        try:
            data: Any = datafiles.read_yaml(path)
            read = from_json(Images, data)
        except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as e:
            raise AdvisorError("bad-profile", f"{path} does not load: {e}") from e
        found[read.runtime] = read
    return found


def runtimes() -> tuple[str, ...]:
    """The runtimes that have images, sorted."""
    return tuple(sorted(_all()))


def images(runtime: str, device: str) -> Images:
    """The images of a runtime that has one for ``device`` (``cpu`` or a vendor).

    Raises:
        AdvisorError: ``cannot-export`` where it has none; ``bad-profile``.
    """
    known = _all().get(runtime)
    if known is None:
        raise AdvisorError(
            "cannot-export",
            f"There is no container image that serves with {runtime} as advisor does; there are images of "
            f"{', '.join(runtimes())}.",
            hint="advisor export script NAME",
            data={"runtime": runtime},
        )
    if device not in known.images:
        raise AdvisorError(
            "cannot-export",
            f"{runtime} has no container image for {device} devices; it has images for {', '.join(known.images)}.",
            hint="advisor export script NAME",
            data={"runtime": runtime, "device": device},
        )
    return known


def contained(known: Images, request: ServeRequest) -> Contained:
    """The arguments and environment with which an image serves what is asked for, on every address of its container.

    ``request.python`` and ``runner`` play no part; ``api_key_file`` is a path inside.

    Raises:
        AdvisorError: ``runtime-unfit`` with what the build in the image lacks; ``not-available`` or ``bad-option`` from
            the runtime's own options.
    """
    if known.runtime == "llama.cpp":
        program = Binary(tools={SERVER: known.entrypoint[0]}, version=known.version, options=known.options)
        command = llama.serve(
            request.settings,
            program,
            model_path=request.model_path,
            model_name=request.model_name,
            host=EVERYWHERE,
            port=request.port,
            api_key_file=request.api_key_file,
        )
        return Contained(command.argv[1:], {**known.variables, **command.env})
    own = vllm.options(
        request.settings,
        model=request.model_path,
        name=request.model_name,
        host=EVERYWHERE,
        port=request.port,
        method=request.method,
        fmt=request.format,
        device=request.device,
        kv_cache_bytes=request.kv_cache_bytes,
        at_load=request.recipe is not None and request.recipe.at_load,
    )
    # The model stands alone in front, as `vllm serve MODEL` has it.
    return Contained((own[1], *own[2:]), {**known.variables, **vllm.environment(request.settings, request.device)})
