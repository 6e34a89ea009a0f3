"""The one exception table: every failure a user can meet, by stable code, with its exit class.

A code is never reused for something else. ``docs`` of a code is its entry in ``advisor explain CODE``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, NamedTuple

from advisor.facts.words import (
    EXIT_BUG,
    EXIT_BUSY,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_MACHINE,
    EXIT_NETWORK,
    EXIT_NO,
    EXIT_NOT_FOUND,
    EXIT_REFUSED,
    EXIT_USAGE,
)


class Entry(NamedTuple):
    """Exit code and the explanation that ``advisor explain`` prints."""

    exit_code: int
    explanation: str


CATALOGUE: Final[dict[str, Entry]] = {
    # 1: the operation failed
    "step-failed": Entry(EXIT_FAILED, "A step of the plan failed; the message carries the tail of its log."),
    "quantizer-failed": Entry(EXIT_FAILED, "The quantizer stopped with an error or was killed; nothing was published."),
    "artifact-invalid": Entry(EXIT_FAILED, "The quantizer ended well but what it wrote is not a usable model."),
    "server-failed": Entry(EXIT_FAILED, "The runtime ended or never became ready; the log tail says why."),
    "server-timeout": Entry(EXIT_FAILED, "The runtime did not answer before the deadline."),
    "smoke-failed": Entry(EXIT_FAILED, "The endpoint answers, but not with a usable completion."),
    "probe-failed": Entry(EXIT_FAILED, "A part of the machine could not be read."),
    "out-of-memory": Entry(EXIT_FAILED, "A process was killed or refused for lack of memory."),
    "process-limit": Entry(
        EXIT_MACHINE, "A limit on addresses, processes or threads (ulimit, pids.max) is below what a program needs."
    ),
    # 2: usage
    "bad-option": Entry(EXIT_USAGE, "An option has a value that it cannot take."),
    "illegal-recipe": Entry(
        EXIT_USAGE, "The quantizer or the model cannot take this combination of method, bits, group size and settings."
    ),
    "usage": Entry(EXIT_USAGE, "The command line does not say a whole command."),
    "cannot-export": Entry(EXIT_USAGE, "The format cannot carry the plan; the message says what it lacks."),
    "contradictory-options": Entry(EXIT_USAGE, "Two options exclude each other."),
    "unknown-fact": Entry(EXIT_USAGE, "A rule asks for a fact that does not exist."),
    "bad-rules": Entry(EXIT_USAGE, "A rule file does not load; the message has file, line and key."),
    "bad-profile": Entry(EXIT_USAGE, "A profile file does not load; the message has file, line and key."),
    "bad-model-size": Entry(EXIT_USAGE, "A bare size is written like 8B, 8x7B or 30.5B:3.3B."),
    "bad-machine-file": Entry(EXIT_USAGE, "The recorded machine cannot be read."),
    "bad-settings-file": Entry(EXIT_USAGE, "A settings file does not load."),
    "prompt-needs-terminal": Entry(EXIT_USAGE, "A question would have to be asked, but there is no terminal."),
    # 3: a true no
    "nothing-fits": Entry(
        EXIT_NO, "No plan fits the machine; rejected options and relaxations say what would have to give."
    ),
    "quality-gate-failed": Entry(EXIT_NO, "The artifact is too far from the original to be served."),
    "not-running": Entry(EXIT_NO, "The deployment exists but does not run."),
    # 4: not found
    "model-not-found": Entry(EXIT_NOT_FOUND, "There is no such model here."),
    "model-ambiguous": Entry(EXIT_NOT_FOUND, "The name may mean several of the models that are known."),
    "model-needs-download": Entry(EXIT_NOT_FOUND, "The model is not here yet and the command may not fetch it."),
    "file-not-found": Entry(EXIT_NOT_FOUND, "A file or folder that was named does not exist."),
    "missing-part": Entry(EXIT_NOT_FOUND, "A part of a model in several files is missing."),
    "hardware-not-found": Entry(EXIT_NOT_FOUND, "There is no hardware profile of that name."),
    "deployment-not-found": Entry(EXIT_NOT_FOUND, "There is no deployment of that name."),
    "plan-not-found": Entry(EXIT_NOT_FOUND, "There is no kept plan of that id."),
    "rule-not-found": Entry(EXIT_NOT_FOUND, "There is no rule, plan or error code of that name."),
    "schema-not-found": Entry(EXIT_NOT_FOUND, "There is no schema of that name."),
    "goal-not-found": Entry(EXIT_NOT_FOUND, "There is no goal of that name."),
    "word-not-found": Entry(
        EXIT_NOT_FOUND, "There is no method, format, runtime, quantizer or KV cache type of that name."
    ),
    "backend-not-found": Entry(EXIT_NOT_FOUND, "There is no backend of that name."),
    "not-available": Entry(
        EXIT_NOT_FOUND, "This version of advisor plans that method or runtime but cannot carry it out."
    ),
    # 5: this machine
    "unsupported-system": Entry(EXIT_MACHINE, "advisor does not run on this operating system."),
    "no-home": Entry(EXIT_MACHINE, "There is no folder to keep files in."),
    "file-unreadable": Entry(EXIT_MACHINE, "A file is there but cannot be read: permission, or not a regular file."),
    "not-writable": Entry(EXIT_MACHINE, "A folder cannot be written."),
    "disk-full": Entry(EXIT_MACHINE, "There is not enough disk space."),
    "not-enough-memory": Entry(EXIT_MACHINE, "There is not enough free memory now for what was planned."),
    "env-failed": Entry(EXIT_MACHINE, "A managed environment could not be built or does not work."),
    "tool-missing": Entry(EXIT_MACHINE, "A tool that is needed is not on this machine."),
    "runtime-unfit": Entry(EXIT_MACHINE, "The runtime that is found here lacks what the plan needs, or does not work."),
    "state-unreadable": Entry(EXIT_MACHINE, "A state file is damaged or belongs to somebody else."),
    # 6: network
    "network": Entry(EXIT_NETWORK, "Something could not be fetched."),
    "offline": Entry(EXIT_NETWORK, "It would have to be fetched, but advisor is offline."),
    "gated": Entry(EXIT_NETWORK, "The model's terms have to be accepted first."),
    "unauthorized": Entry(EXIT_NETWORK, "The hub does not accept the token, or the token may not read the model."),
    # 7: refused
    "untrusted-model-header": Entry(EXIT_REFUSED, "The header of a model file breaks the format's limits."),
    "untrusted-model-config": Entry(EXIT_REFUSED, "config.json breaks its limits or lacks what it must have."),
    "untrusted-model-path": Entry(EXIT_REFUSED, "A model names files outside its own folder."),
    "remote-code-refused": Entry(EXIT_REFUSED, "The model wants to run code of its own."),
    "pickle-refused": Entry(EXIT_REFUSED, "The model's weights are pickles, which can run code when they are read."),
    "exposed-without-key": Entry(EXIT_REFUSED, "A server beyond loopback needs a key."),
    "runtime-vulnerable": Entry(EXIT_REFUSED, "The runtime is older than the build that closed a known hole."),
    "integrity": Entry(EXIT_REFUSED, "A file is not what its hash or manifest says."),
    # 8: busy
    "busy": Entry(EXIT_BUSY, "Another advisor is doing the same; it was waited for in vain."),
    "port-taken": Entry(EXIT_BUSY, "The port is in use."),
    "name-taken": Entry(EXIT_BUSY, "A deployment of that name runs another plan."),
    # bugs and interruption
    "bug": Entry(EXIT_BUG, "advisor met a case it does not know. The log has the details."),
    "interrupted": Entry(EXIT_INTERRUPTED, "Stopped by the user. What was finished is kept."),
}


class AdvisorError(Exception):
    """A failure with a stable code, what it was about, and a hint that can be run.

    Args:
        code: a key of ``CATALOGUE``.
        message: what, which, and the value seen; one or two plain sentences.
        context: further lines, outermost first (file, key, log tail).
        hint: a command that can be run, or ``None``.
        data: machine-readable detail, for ``error.data``.

    Raises:
        KeyError: the code is not in the catalogue.
    """

    docs_prefix: ClassVar[str] = "docs/errors.md#"

    def __init__(
        self,
        code: str,
        message: str,
        *,
        context: tuple[str, ...] | list[str] = (),
        hint: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.entry = CATALOGUE[code]
        self.code = code
        self.message = message
        self.context = tuple(context)
        self.hint = hint
        self.data: dict[str, Any] = dict(data or {})

    @property
    def exit_code(self) -> int:
        """The process exit code of this failure."""
        return self.entry.exit_code

    @property
    def docs(self) -> str:
        """Where the code is explained."""
        return f"{self.docs_prefix}{self.code}"


def did_you_mean(word: str, known: list[str] | tuple[str, ...], n: int = 3) -> str:
    """Return `` Did you mean "x" or "y"?`` for near misses of ``word``, or an empty string."""
    import difflib

    spelled = {k.lower(): k for k in known}
    near = difflib.get_close_matches(word.lower(), list(spelled), n=n, cutoff=0.6)
    if not near:
        return ""
    return " Did you mean " + " or ".join(f'"{spelled[k]}"' for k in near) + "?"


def word_not_found(
    what: str, word: str, known: list[str] | tuple[str, ...], *, hint: str | None = None
) -> AdvisorError:
    """The error about a word that is none of a vocabulary: with near misses, and all that are known.

    Args:
        what: what the word was to name: ``method``, ``format``, ``runtime`` ...
        word: the word as it was given.
        known: the words that there are; each is told once.
        hint: a command that can be run.
    """
    words = list(dict.fromkeys(known))
    return AdvisorError(
        "word-not-found",
        f"There is no {what} {word!r}.{did_you_mean(word, words)}",
        context=[f"known: {', '.join(words)}"],
        hint=hint,
        data={"known": words},
    )
