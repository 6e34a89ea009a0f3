"""A plain shell script that serves in the foreground."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

from advisor.deploy.export import base
from advisor.facts.exports import ExportedFile

# Paths are data: a dollar in single quotes is meant so. And ulimit -c is tried where a shell has it.
_BODY: Final = """\
# shellcheck disable=SC2016,SC3045
set -eu
umask 077
# A core dump would hold the key.
ulimit -c 0 2>/dev/null || true

model={model}
key={key}

if [ ! -r "$model" ]; then
  echo "There is no readable model at $model{made}" >&2
  exit 66
fi
if [ ! -s "$key" ]; then
  mkdir -p -- {key_folder}
  od -An -tx1 -N32 /dev/urandom | tr -d ' \\n' > "$key"
  echo "A new key was made: $key" >&2
fi

# Nothing of the caller's environment but what is named here.
set -- env -i PATH="${{PATH:-/usr/bin:/bin}}" HOME="${{HOME:-/tmp}}" {env}{argv}
{limited}exec "$@"
"""
_LIMITED: Final = """\
# A limit on memory needs a control group, which systemd gives where it runs.
if systemd-run --user --scope --quiet -- true >/dev/null 2>&1; then
  set -- systemd-run --user --scope --quiet --property=MemoryMax={bytes} --property=MemorySwapMax=0{cpu} -- "$@"
else
  echo "No limit on memory can be set here; the plan allows {mib} MiB." >&2
fi
"""


class Script:
    """``advisor-NAME.sh``."""

    name = "script"
    title = "a shell script"
    needs: Final = "program"
    systems = ("linux", "darwin")

    def files(self, service: base.Service) -> tuple[ExportedFile, ...]:
        """The script: POSIX sh; it makes the key where there is none, and becomes the server."""
        program = base.program(service)
        limit = service.limit_bytes
        quota = service.cores and (service.cores + base.SERVING_CORES) * 100
        cpu = f" --property=CPUQuota={quota}%" if quota else ""
        made = f"; make it with: {service.made_by}" if service.made_by is not None else ""
        body = _BODY.format(
            model=shlex.quote(str(service.artifact)),
            made=_in_quotes(made),
            key=shlex.quote(service.key_file),
            key_folder=shlex.quote(str(Path(service.key_file).parent)),
            env="".join(f"\\\n  {k}={shlex.quote(v)} " for k, v in sorted(program.env.items())),
            argv=_wrapped(program.argv),
            limited=_LIMITED.format(bytes=limit, mib=limit // base.MIB, cpu=cpu) if limit is not None else "",
        )
        ready = f"Ready once {service.url} answers 200; Ctrl-C or SIGTERM ends it."
        text = "#!/bin/sh\n" + base.header(service, self.name, ready) + body
        return (ExportedFile(name=f"{service.unit}.sh", text=text, executable=True),)

    def steps(self, service: base.Service) -> tuple[str, ...]:
        """Run it."""
        made = (service.made_by,) if service.made_by is not None else ()
        return (*made, f"sh {service.unit}.sh")


def _in_quotes(text: str) -> str:
    """``text`` as it stands between double quotes of a shell."""
    return "".join(f"\\{c}" if c in '"$`\\' else c for c in text)


def _wrapped(argv: tuple[str, ...]) -> str:
    """The words of a command, an option with its value a line."""
    out = ""
    for i, one in enumerate(argv):
        begins = i == 0 or one.startswith("-")
        out += (
            ("\\\n  " if begins else " ") + shlex.quote(one) + (" " if i + 1 < len(argv) and _begins(argv, i) else "")
        )
    return out


def _begins(argv: tuple[str, ...], i: int) -> bool:
    return argv[i + 1].startswith("-")


EXPORT: Final = Script()
