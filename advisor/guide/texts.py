"""The guide's texts: which sections they have, so that no rule cites one that there is not, and what of them is carried
by a check instead of a rule.
"""

from __future__ import annotations

from typing import Final

from advisor.errors import did_you_mean
from advisor.facts.plan import SourceRef


def _numbered(*chapters: tuple[str, int]) -> tuple[str, ...]:
    return tuple(s for chapter, last in chapters for s in (chapter, *(f"{chapter}.{i}" for i in range(1, last + 1))))


# Texts 000 and 004 are one text, in English and in Korean. Text 003 lost its headings: its tables go by the head of
# their first telling column, its paragraphs by the words they begin with.
SECTIONS: Final[dict[str, tuple[str, ...]]] = {
    "000": tuple(str(i) for i in range(1, 9)),
    "001": (
        "Why Quantization Matters",
        "The Core Idea: Fewer Bits Per Weight",
        "GPTQ: Post-Training Quantization with Calibration Data",
        "AWQ: Activation-Aware Weight Quantization",
        "GGUF: CPU-First Quantization for Local Inference",
    ),
    "002": _numbered(
        *(("27.1", 3), ("27.2", 5), ("27.3", 6), ("27.4", 4), ("27.5", 7), ("27.6", 3), ("27.7", 3), ("27.8", 3)),
        ("27.9", 3),
    ),
    "003": (
        *("Key Insight", "Best For", "GPTQ", "AWQ", "GGUF", "GGUF levels", "Marlin", "Scenario"),
        *("Recommended Path", "For fine-tuned models", "Model Size", "Inference Tools"),
    ),
}
TRANSLATIONS: Final = {"004": "000"}

# (text, section) -> what of it is a check of something that was made or is running, and where it is done.
CHECKS: Final[dict[tuple[str, str], str]] = {
    ("002", "27.8.2"): "`advisor verify`: perplexity and KL divergence against the original, fixed prompts, edge cases",
    (
        "002",
        "27.8.3",
    ): "findings of `advisor verify` (garbled output), of the log (kernels that are not the ones meant) "
    "and of the receipt (memory that is not lower)",
    ("000", "6"): "`advisor compare`: the same table for one's own model and machine",
    ("002", "27.7.2"): "`advisor compare`: the same table for one's own model and machine",
    ("000", "5"): "commands of the plan: vLLM needs no `--quantization` for a checkpoint that is quantized already",
    ("002", "27.5.4"): "commands of the plan: `make`, `convert.py` and `quantize` are gone from llama.cpp",
    ("002", "27.5.5"): "commands of the plan: `main` and `server` are `llama-cli` and `llama-server` today",
    ("002", "27.5.6"): "`settings.gpu_layers` of the plan, computed from memory",
}


def citation_problem(source: SourceRef) -> str | None:
    """What is wrong with a citation of the guide: a text or a section that there is not; ``None`` where nothing is."""
    if source.doc is None:
        return None
    if source.doc in TRANSLATIONS:
        return f"text {source.doc} is a translation; cite {TRANSLATIONS[source.doc]!r}"
    if source.doc not in SECTIONS:
        return f"there is no text {source.doc!r}.{did_you_mean(source.doc, list(SECTIONS))}"
    if source.section is None:
        return f"text {source.doc} is cited without a section"
    if source.section not in SECTIONS[source.doc]:
        near = did_you_mean(source.section, list(SECTIONS[source.doc]))
        return f"text {source.doc} has no section {source.section!r}.{near}"
    return None
