"""What a quantizer calibrates on: pieces of the bundled text, or of a user's file (text, JSON lines, conversations).

The pieces go to the runner as JSON lines, ``{"text": ...}`` or ``{"messages": [...]}``; it tokenizes them, applies the
model's own chat template to conversations, and cuts them to the recipe's length.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from advisor.errors import AdvisorError
from advisor.execute.disk import disk_errors, make_folders, write_atomic
from advisor.execute.texts import Text, calibration_text, read_text, text_of, verification_text
from advisor.facts.text import clean

RECORDS: Final = (".jsonl", ".ndjson", ".json")
Kind = Literal["text", "lines", "conversations"]
# English prose has about four characters a token, other scripts fewer; what is too much is cut by the tokenizer.
_CHARACTERS_A_TOKEN: Final = 5
_MAX_LINES: Final = 200_000
_MAX_LINE: Final = 4 << 20
# Below, the statistics rest on too little: the guide's lowest numbers (002 section 27.8.1: AWQ 16, GPTQ 128).
FEWEST: Final[dict[str, int]] = {"awq": 16, "gptq": 128, "w8a8": 64, "fp8": 16}
_TELLING: Final = 60
_SHARED: Final = 0.1


class Calibration(NamedTuple):
    """``path``: the JSON lines; ``sha256`` of them; ``pieces`` in them; ``notes``: what a person should know."""

    path: Path
    name: str
    sha256: str
    pieces: int
    notes: tuple[str, ...]


def prepare(
    source: Path | None,
    folder: Path,
    *,
    method: str,
    samples: int,
    sequence_length: int,
    held_out: Text | None = None,
) -> Calibration:
    """Write the pieces into ``folder``, named by their hash.

    Args:
        source: the user's file: ``.jsonl`` with ``text``, ``prompt`` and ``response``, or ``messages``; anything else
            is plain text. ``None``: the bundled text.
        method: whose usual number of samples a warning goes by.
        samples: pieces wanted.
        sequence_length: tokens of a piece.
        held_out: the text that the result will be measured on; it must not be the one that is calibrated on.

    Raises:
        AdvisorError: ``file-not-found``, ``bad-option``: not usable, the line, or it is the text measured on.
    """
    if source is None:
        text = calibration_text()
        kind: Kind = "text"
        name, lines = text.name, _packed(text.text, samples, sequence_length)
    elif source.suffix.lower() in RECORDS:
        kind, read = read_lines(source)
        name, lines = source.name, read[:samples]
    else:
        kind = "text"
        name, lines = source.name, _packed(read_text(source).text, samples, sequence_length)
    shared = overlap(lines, held_out or verification_text())
    if shared > _SHARED:
        raise AdvisorError(
            "bad-option",
            f"{clean(name, 120)} shares {shared:.0%} of its text with what the result is measured on, which would then "
            "say nothing.",
            hint="advisor quantize --help",
            context=["name another text to calibrate on (--calibration), or to measure on (--text)"],
        )
    # JSON can spell halves of surrogate pairs, which UTF-8 has not.
    raw = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode(errors="replace")
    sha256 = hashlib.sha256(raw).hexdigest()
    path = folder / f"calibration-{sha256[:16]}.jsonl"
    if not path.is_file():
        make_folders(folder)
        with disk_errors(path):
            write_atomic(path, raw)
    return Calibration(path, name, sha256, len(lines), _notes(name, lines, kind, method, samples, sequence_length))


def read_lines(path: Path) -> tuple[Kind, list[dict[str, Any]]]:
    """The lines of a user's JSON-lines file in the runners' form.

    Raises:
        AdvisorError: ``file-not-found``; ``bad-option`` with the line that is none of the three kinds.
    """
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise AdvisorError("file-not-found", f"{path} cannot be read: {e.strerror}.") from e
    out: list[dict[str, Any]] = []
    kinds: set[Kind] = set()
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        if len(line) > _MAX_LINE or number > _MAX_LINES:
            raise AdvisorError(
                "bad-option", f"{path}, line {number}: a file has {_MAX_LINES:,} lines of 4 MiB at most."
            )
        try:
            parsed = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise AdvisorError("bad-option", f"{path}, line {number}: not JSON: {e}.") from e
        made = _line(parsed)
        if made is None:
            raise AdvisorError(
                "bad-option",
                f'{path}, line {number}: neither {{"text"}} nor {{"prompt", "response"}} nor {{"messages": '
                '[{"role", "content"}]}.',
            )
        kinds.add("conversations" if "messages" in made else "lines")
        out.append(made)
    if not out:
        raise AdvisorError("bad-option", f"{path} has no lines to calibrate on.")
    return ("conversations" if "conversations" in kinds else "lines"), out


def as_text(path: Path) -> Text:
    """A user's file as one text: plain text as it is, of JSON lines the words, for what takes no records.

    Raises:
        AdvisorError: as ``read_lines`` and ``texts.read_text``.
    """
    if path.suffix.lower() not in RECORDS:
        return read_text(path)
    _, lines = read_lines(path)
    return text_of(path.name, "\n\n".join(map(_words, lines)))


def _line(parsed: Any) -> dict[str, Any] | None:
    if isinstance(parsed, str) and parsed.strip():
        return {"text": parsed}
    if not isinstance(parsed, dict):
        return None
    if isinstance(parsed.get("text"), str) and parsed["text"].strip():
        return {"text": parsed["text"]}
    turns = parsed.get("messages") or parsed.get("conversations")
    if isinstance(turns, list) and turns:
        messages = [_message(t) for t in turns]
        return {"messages": messages} if all(m is not None for m in messages) else None
    if isinstance(parsed.get("prompt"), str) and isinstance(parsed.get("response"), str):
        return {
            "messages": [
                {"role": "user", "content": parsed["prompt"]},
                {"role": "assistant", "content": parsed["response"]},
            ]
        }
    return None


def _message(turn: Any) -> dict[str, str] | None:
    if not isinstance(turn, dict):
        return None
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    named = {"human": "user", "gpt": "assistant"}
    if not isinstance(role, str) or not isinstance(content, str):
        return None
    return {"role": named.get(role, role), "content": content}


def _packed(text: str, samples: int, sequence_length: int) -> list[dict[str, Any]]:
    """Paragraphs packed into pieces long enough for ``sequence_length`` tokens, spread evenly over the whole text.

    A text too short for so many gives shorter pieces, down to a quarter: many short ones tell more than few long ones.
    """
    wanted = max(1, sequence_length) * _CHARACTERS_A_TOKEN
    room = max(wanted // 4, min(wanted, int(0.98 * len(text)) // max(1, samples)), 1)
    pieces: list[str] = []
    piece = ""
    for paragraph in text.split("\n\n"):
        piece = f"{piece}\n\n{paragraph}" if piece else paragraph
        while len(piece) >= room:
            pieces.append(piece[:room])
            piece = piece[room:]
    if len(piece) >= room // 4:
        pieces.append(piece)
    if len(pieces) <= samples:
        return [{"text": p} for p in pieces]
    return [{"text": pieces[i * len(pieces) // samples]} for i in range(samples)]


def overlap(lines: Sequence[dict[str, Any]], held_out: Text) -> float:
    """The share of the paragraphs of ``lines`` that stand in ``held_out``, short ones left aside; 0 without any."""
    told = [p for line in lines for p in _words(line).split("\n") if len(p.strip()) >= _TELLING]
    if not told:
        return 0.0
    return sum(p.strip() in held_out.text for p in told) / len(told)


def _words(line: dict[str, Any]) -> str:
    if "text" in line:
        return str(line["text"])
    return "\n".join(str(m["content"]) for m in line["messages"])


def _notes(
    name: str, lines: Sequence[dict[str, Any]], kind: Kind, method: str, samples: int, sequence_length: int
) -> tuple[str, ...]:
    out = []
    shown = clean(name, 80)
    fewest = FEWEST.get(method, 1)
    if len(lines) < samples:
        out.append(f"{shown} gives {len(lines)} samples of {sequence_length} tokens; {samples} were wanted.")
    if len(lines) < fewest:
        out.append(f"{len(lines)} samples are few for {method}: the guide asks for {fewest} or more.")
    texts = [_words(line) for line in lines]
    short = sum(len(t) < sequence_length for t in texts)
    if kind != "text" and 2 * short > len(texts):
        out.append(f"Most samples of {shown} are shorter than {sequence_length} tokens: each shows the model little.")
    if len(set(texts)) < 0.9 * len(texts):
        out.append(f"{len(texts) - len(set(texts))} of {len(texts)} samples of {shown} repeat others.")
    letters = sum(c.isalpha() or c.isspace() for t in texts for c in t)
    whole = sum(map(len, texts))
    if whole and letters < 0.5 * whole:
        out.append(
            f"Only {letters / whole:.0%} of {shown} are letters and spaces, unlike prose or conversations: calibrate "
            "on it only if the model is used on such text."
        )
    return tuple(out)
