"""The fixed prompts that the original and the artifact both answer, and what counts as an answer at all.

The edge cases are those to check after quantizing: very short prompts, long ones, unusual vocabulary, and code.
"""

from __future__ import annotations

import unicodedata
from typing import Final, NamedTuple

# Control characters, unassigned and private code points, halves of surrogate pairs.
_NOT_TEXT: Final = ("Cc", "Cn", "Co", "Cs")


class Prompt(NamedTuple):
    """A prompt and what it is there for. Below 350 tokens with any common tokenizer."""

    name: str
    text: str


PROMPTS: Final[tuple[Prompt, ...]] = (
    Prompt("very-short", "Water is"),
    Prompt("plain", "The capital of France is a large city. It is called"),
    Prompt(
        "long",
        "The lighthouse stood at the end of a narrow spit of land, and for two hundred years its keepers had "
        "written down the weather every evening. The first of them noted only wind and rain. The second, a "
        "schoolteacher before he came to the coast, added the birds he saw and the ships that passed, and once, "
        "in the winter of a great frost, the names of eleven sailors whom he had pulled from the water. His "
        "daughter kept the book after him. She measured the height of the tide against a brass rule that she had "
        "fixed to the rocks, twice a day for thirty-one years, and never missed a reading. When the light was at "
        "last made automatic, a young woman from the university came to take the books away. She had expected "
        "dust. She found forty-three volumes in order, an index in three different hands, and on the last page a "
        "short letter addressed to whoever would come. The letter began:",
    ),
    Prompt(
        "unusual-words",
        "The zymurgist's quixotic sesquipedalian lexicon, replete with defenestration, tmesis and borborygmi, was",
    ),
    Prompt("numbers", "2, 4, 6, 8, 10, 12,"),
    Prompt(
        "code",
        'def is_prime(n: int) -> bool:\n    """Return whether n is a prime number."""\n'
        "    if n < 2:\n        return False\n",
    ),
    Prompt("other-script", "日本の首都は東京です。フランスの首都は"),
)

# The extremes, held against the original one by one: what is finite and a text there must be so here.
EDGES: Final[tuple[Prompt, ...]] = (
    Prompt("one-character", "A"),
    Prompt(
        "emoji-and-marks",
        "Weather: \u2600\ufe0f \U0001f327\ufe0f \u2192 na\u00efve caf\u00e9, Z\u0308u\u0308rich, "
        "\u03c0 \u2248 3.14159, \u2211x\u00b2 \u2264",
    ),
    Prompt("digits", "31415926535897932384626433832795028841971693993751"),
)


def long_prompt(text: str, context: int) -> Prompt:
    """The end of ``text`` that fills ``context`` tokens or more; whoever asks cuts it to what there is room for.

    Eight characters a token are more than any common tokenizer makes of prose.
    """
    return Prompt("near-the-context", text[-8 * context :])


def incoherence(answer: str) -> str | None:
    """Why ``answer`` is no text: empty, not made of characters, or one thing over and over; ``None`` if it is text.

    A small model may well repeat itself, so this is only held against an artifact where its original did better.
    """
    text = answer.strip()
    if not text:
        return "empty"
    odd = sum(1 for c in text if c == "\ufffd" or (c not in "\n\t\r" and unicodedata.category(c) in _NOT_TEXT))
    if odd > 0.05 * len(text):
        return f"{odd} of {len(text)} characters are not text"
    squeezed = "".join(text.split())
    if len(squeezed) >= 16 and len(set(squeezed)) <= 2:
        return "one or two characters over and over"
    words = text.split()
    if len(words) >= 12 and len(set(words)) <= len(words) // 6:
        return f"{len(set(words))} words over and over"
    return None
