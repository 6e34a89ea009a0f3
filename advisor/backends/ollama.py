"""What Ollama is told: the Modelfile for people, and the requests of its HTTP API that do the same.

The daemon is the user's: advisor imports the GGUF file as a model of it, loads it, and deletes it again. Source:
Ollama's documentation, API (create a model, blobs, generate) and Modelfile (parameters).
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from advisor.errors import AdvisorError
from advisor.facts.plan import Settings

DEFAULT_URL: Final = "http://127.0.0.1:11434"
INSTALLED: Final = "Ollama installed and running"
DRIVERS: Final = ("an NVIDIA driver", "a ROCm driver")
_PORTS: Final = {"http": 80, "https": 443}
_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{0,253})(:(?P<port>[0-9]{1,5}))?")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}(/[a-z0-9][a-z0-9._-]{0,79})?(:[a-zA-Z0-9_][a-zA-Z0-9._-]{0,79})?")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
# ServerSettings of the daemon, not of a model: the type of its KV cache and its slots.
_KV: Final = ("f16", "q8_0", "q4_0")


class Call(NamedTuple):
    """One request to the daemon. ``body`` is sent as JSON; ``file``: instead, the bytes of the GGUF file."""

    method: str
    path: str
    body: dict[str, Any] | None = None
    file: bool = False


def address(text: str) -> str:
    """The daemon's URL of what stands in ``OLLAMA_HOST``; the default where that is empty.

    As Ollama reads it: ``host``, ``host:port``, ``:port`` or a URL; 11434 is the port of an address without a scheme.
    An address that a daemon listens on everywhere is asked on loopback.

    Raises:
        AdvisorError: ``bad-option`` for what is no address, has a path, or carries a login.
    """
    given = text.strip().strip("\"'")
    if not given:
        return DEFAULT_URL
    scheme, mark, rest = given.partition("://")
    if not mark:
        scheme, rest = "http", given
    rest = rest.rstrip("/")
    if rest.count(":") > 1 and not rest.startswith("["):
        rest = f"[{rest}]"
    found = _AUTHORITY.fullmatch(rest)
    port = int(found["port"] or (_PORTS.get(scheme, 0) if mark else 11434)) if found is not None else 0
    if found is None or scheme not in _PORTS or not 0 < port < 65536:
        raise AdvisorError(
            "bad-option",
            "OLLAMA_HOST does not name an Ollama: it is host, host:port or http://host:port.",
            hint="OLLAMA_HOST=127.0.0.1:11434 advisor up --runtime ollama",
        )
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(found["host"], found["host"])  # noqa: S104
    return f"{scheme}://{host}:{port}"


def is_local(url: str) -> bool:
    """Whether ``url`` (of ``address``) is of this machine's loopback."""
    host = url.partition("://")[2].rpartition(":")[0].lower()
    return host in ("localhost", "[::1]") or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host) is not None


def check_name(name: str) -> str:
    """``name`` where Ollama takes it: lower case, ``owner/model:tag`` at most.

    Raises:
        AdvisorError: ``bad-option``.
    """
    if _NAME.fullmatch(name) is None:
        raise AdvisorError("bad-option", f"Ollama does not take {name[:80]!r} as the name of a model.")
    return name


def parameters(settings: Settings) -> dict[str, int | bool]:
    """The model's parameters. ``num_ctx`` is of one conversation: the daemon multiplies it by its slots."""
    out: dict[str, int | bool] = {
        "num_ctx": max(1, settings.context // max(1, settings.parallel)),
        "num_gpu": settings.gpu_layers,
        "num_batch": settings.batch,
    }
    if settings.threads is not None:
        out["num_thread"] = settings.threads
    if settings.load_mode in ("none", "mmap"):
        out["use_mmap"] = settings.load_mode == "mmap"
    return out


def modelfile(path: str, settings: Settings) -> str:
    """The Modelfile: where the weights are, and the parameters; the chat template is left to the GGUF file.

    Raises:
        AdvisorError: ``bad-option`` for a path with a line break, which would be read as another instruction.
    """
    if any(c in path for c in "\r\n\0"):
        raise AdvisorError("bad-option", "A path with a line break cannot stand in a Modelfile.")
    lines = [f"FROM {path}", *(f"PARAMETER {k} {_text(v)}" for k, v in parameters(settings).items())]
    return "\n".join(lines) + "\n"


def _text(value: int | bool) -> str:
    return str(value).lower()


def daemon_environment(settings: Settings) -> dict[str, str]:
    """What only the daemon's own environment decides: slots, and the type of the KV cache.

    Raises:
        AdvisorError: ``not-available`` for a type that Ollama does not take.
    """
    if settings.kv_type not in _KV:
        raise AdvisorError(
            "not-available",
            f"Ollama has no KV cache of type {settings.kv_type}; it has {', '.join(_KV)}.",
            hint="advisor up MODEL --kv-type f16",
        )
    out = {"OLLAMA_NUM_PARALLEL": str(settings.parallel)}
    if settings.kv_type != "f16":
        out |= {"OLLAMA_KV_CACHE_TYPE": settings.kv_type, "OLLAMA_FLASH_ATTENTION": "1"}
    return out


def blob(sha256: str) -> str:
    """The path of a file's blob: HEAD asks whether the daemon has it, POST brings it.

    Raises:
        AdvisorError: ``bug`` for what is no SHA-256.
    """
    if _DIGEST.fullmatch(sha256) is None:
        raise AdvisorError("bug", "A blob of Ollama's is named by the SHA-256 of its bytes.")
    return f"/api/blobs/sha256:{sha256}"


def calls(name: str, file_name: str, sha256: str, settings: Settings) -> tuple[Call, ...]:
    """All requests in order: is it there, bring the file, make the model, load it and keep it loaded.

    The second is left out where the first answers 200.

    Raises:
        AdvisorError: ``bad-option`` for a name that Ollama does not take.
    """
    made = {
        "model": check_name(name),
        "files": {file_name: f"sha256:{sha256}"},
        "parameters": parameters(settings),
        "stream": False,
    }
    return (
        Call("HEAD", blob(sha256)),
        Call("POST", blob(sha256), file=True),
        Call("POST", "/api/create", made),
        load(name),
    )


def load(name: str) -> Call:
    """Load the model and keep it until told otherwise."""
    return Call("POST", "/api/generate", {"model": name, "keep_alive": -1, "stream": False})


def unload(name: str) -> Call:
    """Take the model out of memory."""
    return Call("POST", "/api/generate", {"model": name, "keep_alive": 0, "stream": False})


def delete(name: str) -> Call:
    """Remove the model (and its copy of the file) from the daemon."""
    return Call("DELETE", "/api/delete", {"model": name})
