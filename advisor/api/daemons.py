"""The user's own Ollama: where it is, whether it answers, and what it says of the memory that its model takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from advisor.errors import AdvisorError
from advisor.facts.machine import RuntimeFound

if TYPE_CHECKING:
    from advisor.facts.plan import Plan
    from advisor.settings import Settings

# A daemon on loopback answers within milliseconds; a recommendation must not wait for one that hangs.
_PATIENCE_S: Final = 1.0
_REPLY_BYTES: Final = 4096


def address(settings: Settings) -> str:
    """The daemon's URL: ``OLLAMA_HOST`` or the setting ``ollama_host``, else loopback.

    Raises:
        AdvisorError: ``bad-option`` for what is no address, and for another machine that a project's folder names:
            models and prompts would go there, and whoever wrote that file is not this user.
    """
    from advisor.backends import ollama

    set_ = settings.values["ollama_host"]
    url = ollama.address(str(set_.value))
    if not ollama.is_local(url) and Path(set_.origin).name == "advisor.yaml":
        raise AdvisorError(
            "bad-option",
            f"{set_.origin} names an Ollama on another machine, which only you may do.",
            hint="OLLAMA_HOST=127.0.0.1:11434 advisor up --runtime ollama",
        )
    return url


def found(settings: Settings) -> tuple[RuntimeFound, ...]:
    """The daemon, where one answers; asked only where the program is on PATH or the user named an address."""
    program = _program()
    if program is None and settings.values["ollama_host"].origin == "default":
        return ()
    try:
        url = address(settings)
    except AdvisorError:  # said by `up --runtime ollama`; other runtimes are none the worse
        return ()
    reply = _ask(f"{url}/api/version")
    version = reply.get("version")
    if not isinstance(version, str):
        return ()
    from advisor.facts.text import clean

    return (RuntimeFound(runtime="ollama", provider="daemon", version=clean(version, 40), path=program),)


def _program() -> str | None:
    import shutil

    from advisor.settings import child_environment

    return shutil.which("ollama", path=child_environment().get("PATH", ""))


def _ask(url: str, *, patience_s: float = _PATIENCE_S) -> dict[str, object]:
    """The object that ``url`` answers with, empty where it does not."""
    import json

    from advisor.deploy import transport

    try:
        reply = transport.fetch(url, timeout_s=patience_s, limit=_REPLY_BYTES)
        body = json.loads(reply.body) if reply.status == 200 else {}
    except (transport.Unreachable, ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def memory_note(url: str) -> tuple[str, ...]:
    """What the daemon says that the model of the deployment at ``url`` takes, for a receipt."""
    said = _ask(f"{url}/health", patience_s=5.0)
    size, on_devices = said.get("size"), said.get("size_vram")
    if not isinstance(size, int):
        return ("The memory is the daemon's, which does not say how much it takes.",)
    there = f", {on_devices / 2**20:.0f} MiB of them on devices" if isinstance(on_devices, int) and on_devices else ""
    return (f"The memory is the daemon's: {size / 2**20:.0f} MiB by /api/ps{there}.",)


def notes(plan: Plan) -> tuple[str, ...]:
    """What the plan counts on that only the daemon's own environment decides; advisor neither sees nor changes it."""
    from advisor.backends import ollama

    wanted = ollama.daemon_environment(plan.settings)
    if plan.settings.parallel == 1:
        wanted.pop("OLLAMA_NUM_PARALLEL", None)
    if not wanted:
        return ()
    said = " ".join(f"{k}={v}" for k, v in wanted.items())
    return (f"The plan holds only if the daemon was started with {said}; advisor does not change it.",)
