"""llama.cpp: every GGUF file type, with or without an importance matrix, on any CPU."""

from __future__ import annotations

from typing import Final

from advisor.backends.base import QuantizerCapabilities
from advisor.backends.diagnose import first, known
from advisor.facts.recipe import Recipe
from advisor.facts.results import Finding
from advisor.facts.words import GGUF_FORMATS

ENV: Final = "convert"
PLAIN: Final = ("f16", "bf16")

_FAILURES: Final = (
    known(
        r"BPE pre-tokenizer was not recognized|get_vocab_base_pre",
        "unknown-tokenizer",
        "The converter does not know the model's pre-tokenizer: {0}",
        "Take a GGUF file that the model's makers publish, or another format: advisor recommend MODEL --runtime vllm",
    ),
    known(
        r"Model \S+ is not supported|The converter does not know this model",
        "unknown-architecture",
        "The converter does not know the architecture: {0}",
        "Take another runtime: advisor recommend MODEL --runtime vllm",
    ),
    known(
        r"requantizing from type .* is disabled|already quantized",
        "already-quantized",
        "The source is quantized already, and errors would add up: {0}",
        "Start from the original weights, or serve the file as it is: advisor up FILE.gguf",
    ),
    known(
        r"Missing importance matrix for tensor|requires an importance matrix",
        "imatrix-missing",
        "The format needs an importance matrix: {0}",
        "advisor quantize MODEL --calibration text.txt",
        "000 section 4",
    ),
    known(
        r"not all columns|columns.{0,40}not divisible|invalid size for type|unsupported tensor size",
        "row-width",
        "A row of the model does not divide into blocks of the format: {0}",
        "Take a format of 32-weight blocks: advisor quantize MODEL --format q8_0",
    ),
    known(
        r"No space left on device|Disk quota exceeded",
        "disk-full",
        "The disk is full: {0}",
        "advisor paths",
    ),
    known(
        r"std::bad_alloc|Cannot allocate memory|MemoryError|DefaultCPUAllocator: can't allocate",
        "out-of-memory",
        "The quantizer ran out of memory: {0}",
        "Close other programs; without an importance matrix less is needed: advisor quantize MODEL --format q4_k_m",
    ),
    known(
        r"Illegal instruction|SIGILL|exit status 132",
        "illegal-instruction",
        "The quantizer was built for another processor: {0}",
        "advisor env doctor",
    ),
)


class Gguf:
    """Makes GGUF files: llama.cpp's converter, its quantizer, and libgguf where an importance matrix takes part."""

    name = "llama.cpp"
    runner: str | None = None

    def capabilities(self) -> QuantizerCapabilities:
        """All formats of the contract; calibration text is optional for all but the plain ones."""
        return QuantizerCapabilities(
            name=self.name,
            methods={"gguf": GGUF_FORMATS},
            executable=True,
            needs=(),
            runs_on=("cpu",),
            calibrates=tuple(f for f in GGUF_FORMATS if f not in (*PLAIN, "q8_0", "mxfp4")),
            env=ENV,
        )

    def check(self, recipe: Recipe) -> None:
        """GGUF files are made by a chain of their own (``advisor.execute.chain``), which checks for itself."""

    def diagnose(self, log_tail: str) -> Finding | None:
        """The known failure that a log tail shows."""
        return first(_FAILURES, log_tail)


BACKEND: Final = Gguf()
