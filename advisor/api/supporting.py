"""The support bundle: what somebody else needs to see what is wrong here, without keys, tokens, names and homes."""

from __future__ import annotations

import getpass
import io
import platform
import re
import socket
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from advisor import settings as settings_
from advisor._version import __version__
from advisor.api import health, receipts
from advisor.api.context import load_settings
from advisor.api.serving import manager
from advisor.errors import AdvisorError
from advisor.facts import redact
from advisor.facts.base import dumps_any
from advisor.facts.text import clean, shell_word

if TYPE_CHECKING:
    from advisor.deploy.manager import Deployments
    from advisor.settings import Settings

_LOG_LINES: Final = 400
_JOURNAL_BYTES: Final = 256 * 1024
_BUGS: Final = 5
_MOST_BYTES: Final = 2 * 1024 * 1024  # of one file
# Shorter names would blot out ordinary words.
_SHORTEST_NAME: Final = 3

Part = tuple[str, bytes]


def support_bundle(path: Path, *, settings: Settings | None = None) -> Path:
    """Write ``path`` (``.tar.gz``, readable by its owner alone): checks, machine, settings, deployments, logs.

    Values of secret environment variables, keys of deployments, tokens, the user's and the machine's name and the home
    folder are replaced. The machine can be replayed: ``advisor recommend --machine BUNDLE/machine``.

    Raises:
        AdvisorError: ``name-taken`` where the file exists, ``not-writable``, ``disk-full``.
    """
    from advisor.execute.disk import make_folders, write_atomic

    path = Path(path)
    if path.exists():
        raise AdvisorError("name-taken", f"{clean(str(path))} exists already.", hint=f"rm {shell_word(str(path))}")
    s = load_settings(settings)
    m = manager(s)
    scrub = _scrubber(m)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        for name, content in _parts(s, m):
            told = scrub(content[-_MOST_BYTES:].decode("utf-8", "replace")).encode()
            info = tarfile.TarInfo(f"advisor-support/{scrub(name)}")
            info.size, info.mode = len(told), 0o600
            tar.addfile(info, io.BytesIO(told))
    make_folders(path.parent)
    write_atomic(path, raw.getvalue())
    path.chmod(0o600)
    return path


def _scrubber(m: Deployments) -> Callable[[str], str]:
    from advisor.deploy import keys

    known = list(settings_.secrets())
    for name in m.names():
        try:
            key = keys.for_spec(m.spec(name))
        except (AdvisorError, OSError):
            continue
        if key:
            known.append(key)
    names = [(n, word) for n, word in ((_user(), "USER"), (socket.gethostname(), "HOST")) if n and n != "root"]
    patterns = [(re.compile(rf"(?<![\w-]){re.escape(n)}(?![\w-])"), w) for n, w in names if len(n) >= _SHORTEST_NAME]
    home = settings_.home()

    def scrub(text: str) -> str:
        text = redact.text(text, sorted(known, key=len, reverse=True))
        if home is not None:
            text = text.replace(str(home), "~")
        for pattern, word in patterns:
            text = pattern.sub(word, text)
        return text

    return scrub


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without an entry
        return ""


def _parts(s: Settings, m: Deployments) -> Iterator[Part]:
    about = {
        "advisor": __version__,
        "python": sys.version,
        "platform": platform.platform(),
        "settings": {k: {"value": str(v.value), "origin": v.origin} for k, v in s.values.items()},
        "paths": s.paths.to_json(),
    }
    yield _json("about.json", about)
    yield _told("doctor.json", lambda: [c.to_json() for c in health.doctor(settings=s)])
    yield from _machine()
    yield _told("environments.json", lambda: _environments(s))
    found, warnings = m.survey()
    yield _json(
        "deployments.json",
        {"deployments": [d.to_json() for d in found], "warnings": [w.to_json() for w in warnings]},
    )
    for d in found:
        yield _told(f"deployments/{d.name}/spec.json", partial(_spec, m, d.name))
        receipt = receipts.load(m.folder(d.name))
        if receipt is not None:
            yield f"deployments/{d.name}/receipt.json", receipt.dumps()
        yield f"deployments/{d.name}/log.txt", _log(m, d.name)
    yield from _files(s)


def _json(name: str, value: Any) -> Part:
    return name, dumps_any(value)


def _told(name: str, make: Callable[[], Any]) -> Part:
    """A document, or why there is none: a bundle is made where things are broken."""
    try:
        return _json(name, make())
    except (AdvisorError, OSError) as e:
        return _json(name, {"error": str(e)})


def _spec(m: Deployments, name: str) -> Any:
    return m.spec(name).to_json()


def _log(m: Deployments, name: str) -> bytes:
    try:
        return "\n".join(m.logs(name, _LOG_LINES)).encode()
    except (AdvisorError, OSError) as e:
        return f"{e}\n".encode()


def _machine() -> Iterator[Part]:
    from advisor.probes.record import record

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "machine"
        try:
            record(folder, environment=settings_.probe_variables())
        except (AdvisorError, OSError) as e:
            yield _json("machine.json", {"error": str(e)})
            return
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            yield f"machine/{file.relative_to(folder).as_posix()}", file.read_bytes()


def _environments(s: Settings) -> list[Any]:
    from advisor.execute import envs

    return [e.to_json() for e in envs.list_envs(settings=s)]


def _files(s: Settings) -> Iterator[Part]:
    """The last recommendation, the journal's end and the last bug reports."""
    bugs = sorted(s.paths.logs.glob("bug-*.log"), key=lambda p: p.stat().st_mtime)[-_BUGS:]
    kept = (s.paths.plans / "last.json", s.paths.logs / "journal.jsonl", *bugs)
    for file in kept:
        try:
            yield f"logs/{file.name}", file.read_bytes()[-_JOURNAL_BYTES if file.suffix == ".jsonl" else 0 :]
        except OSError:
            continue  # there is none
