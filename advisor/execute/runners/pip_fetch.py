"""Fetches one distribution file as pip would find it, with pip's configuration, without building anything.

``pip download`` of a source archive installs build tools and runs them just to learn the archive's name; here pip only
looks the file up and this script downloads it. Where pip's inner parts moved, ``pip download`` itself does the work.

Request: ``{"requirement": "name" or "name==version", "kind": "sdist" or "wheel", "dest": folder, "max_bytes": n}``.
Result: ``{"path", "file", "bytes", "sha256", "version"}``.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import protocol

_NETWORK = re.compile(
    r"connection|resolution|not known|timed out|retries exceeded|proxy|ssl|certificate|unreachable|no route",
    re.IGNORECASE,
)


class _Heard(logging.Handler):
    """Keeps what pip says: an index that cannot be reached is only logged, and looks like a missing package."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if record.levelno >= logging.WARNING or "Could not fetch URL" in line:
            self.lines.append(line)
            print(line, file=sys.stderr)


def _arguments(request: dict[str, Any]) -> list[str]:
    which = "--no-binary" if request["kind"] == "sdist" else "--only-binary"
    return ["--no-deps", which, ":all:", "--dest", request["dest"], request["requirement"]]


def _not_found(requirement: str, kind: str, heard: list[str]) -> protocol.Failed:
    if any(_NETWORK.search(line) for line in heard):
        return protocol.Failed("network", f"The package index could not be reached for {requirement}.", heard[-5:])
    return protocol.Failed("file-not-found", f"No {kind} of {requirement} is found by pip.", heard[-5:])


def _look_up(request: dict[str, Any], heard: _Heard) -> tuple[Any, str, Any]:
    """The link, the version and the session of the best file. Errors of pip's inner parts pass."""
    from pip._internal.commands import create_command
    from pip._vendor.packaging.requirements import Requirement

    command = create_command("download")
    requirement = Requirement(request["requirement"])
    with command.main_context():
        options, _ = command.parse_args(_arguments(request))
        session = command.get_default_session(options)
        finder = command._build_package_finder(options=options, session=session)
        best = finder.find_best_candidate(requirement.name, requirement.specifier).best_candidate
    if best is None:
        raise _not_found(request["requirement"], request["kind"], heard.lines)
    return best.link, str(best.version), session


def _download(request: dict[str, Any], link: Any, version: str, session: Any) -> dict[str, Any]:
    from pip._vendor.requests.exceptions import RequestException

    name = Path(link.filename).name
    path = Path(request["dest"]) / name
    digest = hashlib.sha256()
    declared = hashlib.new(link.hash_name) if link.hash_name in hashlib.algorithms_guaranteed else None
    done = 0
    try:
        response = session.get(link.url_without_fragment, headers={"Accept-Encoding": "identity"}, stream=True)
        response.raise_for_status()
        length = str(response.headers.get("Content-Length", ""))
        total = int(length) if length.isdigit() else None
        with path.open("xb") as out:
            for block in response.iter_content(1 << 18):
                done += len(block)
                if done > request["max_bytes"]:
                    raise protocol.Failed("integrity", f"{name} is bigger than {request['max_bytes']:,} bytes.")
                out.write(block)
                digest.update(block)
                if declared is not None:
                    declared.update(block)
                protocol.progress(done, total, "bytes", f"downloading {name}")
    except RequestException as e:
        raise protocol.Failed("network", f"{name} could not be fetched: {type(e).__name__}.", [str(e)]) from e
    if total is not None and done != total:
        raise protocol.Failed("network", f"{name} ended after {done:,} of {total:,} bytes.")
    if declared is not None and declared.hexdigest() != link.hash:
        raise protocol.Failed("integrity", f"{name} does not match the hash in the package index.")
    return {"path": str(path), "file": name, "bytes": done, "sha256": digest.hexdigest(), "version": version}


def _by_pip(request: dict[str, Any]) -> dict[str, Any]:
    import subprocess

    command = [sys.executable, "-I", "-m", "pip", "download", "--progress-bar", "off", *_arguments(request)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout, file=sys.stderr)
    if done.returncode != 0:
        raise _not_found(request["requirement"], request["kind"], done.stdout.splitlines()[-5:])
    (path,) = (p for p in Path(request["dest"]).iterdir() if p.is_file())
    if path.stat().st_size > request["max_bytes"]:
        raise protocol.Failed("integrity", f"{path.name} is bigger than {request['max_bytes']:,} bytes.")
    with path.open("rb") as f:
        sha256 = hashlib.file_digest(f, "sha256").hexdigest()
    parts = path.name.removesuffix(".tar.gz").removesuffix(".zip").split("-")
    version = parts[1] if path.suffix == ".whl" else parts[-1]
    return {"path": str(path), "file": path.name, "bytes": path.stat().st_size, "sha256": sha256, "version": version}


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Look the file up, download it, check it."""
    heard = _Heard()
    logging.getLogger("pip").addHandler(heard)
    logging.getLogger("pip").setLevel(logging.DEBUG)
    try:
        link, version, session = _look_up(request, heard)
    except (ImportError, AttributeError, TypeError) as e:
        print(f"pip's inner parts are not as known ({e}); using pip download", file=sys.stderr)
        return _by_pip(request)
    return _download(request, link, version, session)


if __name__ == "__main__":
    protocol.run(work, code="network")
