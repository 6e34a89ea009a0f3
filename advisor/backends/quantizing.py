"""A quantizer that a runner of its own carries out, and the failures that the logs of all of them show alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from advisor.backends.base import QuantizerCapabilities
from advisor.backends.diagnose import CUDA, Known, first, known
from advisor.errors import AdvisorError
from advisor.facts.recipe import Recipe
from advisor.facts.results import Finding

GROUPS: Final = (128, 64, 32)

MEMORY: Final = (
    known(
        r"std::bad_alloc|Cannot allocate memory|MemoryError|DefaultCPUAllocator: (can't|not enough)|"
        r"killed by SIGKILL|exit status 137",
        "out-of-memory",
        "The quantizer ran out of memory: {0}",
        "Close other programs, or take fewer samples: advisor quantize MODEL --samples 16",
    ),
    known(
        r"killed by SIGSEGV|Segmentation fault|exit status 139",
        "crashed",
        "The quantizer crashed inside a library: {0}",
        "advisor env doctor",
    ),
    known(r"No space left on device|Disk quota exceeded", "disk-full", "The disk is full: {0}", "advisor paths"),
)
VALUES: Final = (
    known(
        r"not positive[- ]definite|linalg\.cholesky|cholesky.{0,40}(failed|could not be completed)|"
        r"Hessian inversion failed",
        "hessian",
        "GPTQ could not invert the statistics of a layer: {0}",
        "Add more to their diagonal, or take more text: advisor quantize MODEL --method gptq --damp 0.1 --samples 256",
        "arXiv 2210.17323, section 3.3",
    ),
    known(
        r"values in \d+ tensors are not finite|torch\.isnan\(|\bnan\b.{0,40}(scale|loss)|(scale|loss)\S*.{0,20}\bnan\b",
        "not-finite",
        "Values that are not numbers came out: {0}",
        "Take other text, or weights in bfloat16, whose range is larger: advisor quantize MODEL --calibration FILE",
        "002 section 27.8.3",
    ),
    known(
        r"No calibration samples|needs calibration text|[Cc]alibration (dataset|data) .{0,40}empty|"
        r"expected a non-empty list of Tensors",
        "no-samples",
        "There was no usable calibration text: {0}",
        "advisor quantize MODEL --calibration FILE",
        "002 section 27.8.1",
    ),
    known(
        r"Groups of \d+ do not divide|must be a multiple of group_size",
        "group-size",
        "The group size does not divide a row of the model: {0}",
        "advisor quantize MODEL --group-size 32",
        "FMT-001",
    ),
)
IMPORTS: Final = (
    known(
        r"ImportError: .{0,200}(cannot import name|undefined symbol|GLIBC|shared object)|"
        r"AttributeError: module '(torch|transformers|triton)\S*' has no attribute",
        "package-broken",
        "Packages of the environment do not fit each other: {0}",
        "advisor env doctor",
    ),
)


def refuse(recipe: Recipe, message: str, seen: object, command: str) -> AdvisorError:
    """The error for a recipe that a library cannot carry out; ``command`` follows ``advisor quantize MODEL``."""
    return AdvisorError(
        "illegal-recipe",
        message,
        hint=f"advisor quantize MODEL --method {recipe.method} {command}".rstrip(),
        data={"method": recipe.method, "quantizer": recipe.quantizer, "value": seen},
    )


def check_needs(recipe: Recipe, by: str, *, kernels: str, samples: int) -> None:
    """Refuse what every library that looks at text refuses: groups without kernels, no text, quantizing at load.

    ``by`` follows ``--method``: how this library is named; ``kernels``: whose groups they are; ``samples``: usual.

    Raises:
        AdvisorError: ``illegal-recipe``.
    """
    name = recipe.method.upper()
    if recipe.at_load:
        raise refuse(recipe, f"{name} looks at text for minutes; no runtime does that when it loads.", True, by)
    if recipe.group_size not in GROUPS:
        given = "one scale a row" if recipe.group_size is None else recipe.group_size
        raise refuse(
            recipe,
            f"{kernels} have groups of 32, 64 or 128; {given} was given.",
            recipe.group_size,
            f"{by} --bits {recipe.bits} --group-size {nearest_group(recipe.group_size)}".strip(),
        )
    if not recipe.samples:
        raise refuse(
            recipe,
            f"{name} needs samples of text; none were given.",
            recipe.samples,
            f"{by} --samples {samples}".strip(),
        )


class RunQuantizer:
    """A quantizer with a runner, its capabilities, what it refuses, and what its logs mean."""

    def __init__(
        self,
        capabilities: QuantizerCapabilities,
        *,
        runner: str | None,
        check: Callable[[Recipe], None],
        failures: Sequence[Known] = (),
    ) -> None:
        self.name = capabilities.name
        self.runner = runner
        self._capabilities, self._check = capabilities, check
        self._failures = (*failures, *VALUES, *CUDA[:-1], *IMPORTS, CUDA[-1], *MEMORY)

    def capabilities(self) -> QuantizerCapabilities:
        """What it makes and what it needs."""
        return self._capabilities

    def check(self, recipe: Recipe) -> None:
        """Refuse what the library cannot carry out.

        Raises:
            AdvisorError: ``illegal-recipe``, with the nearest legal choice as a hint.
        """
        self._check(recipe)

    def diagnose(self, log_tail: str) -> Finding | None:
        """The known failure that a log tail shows."""
        return first(self._failures, log_tail)


def nearest_group(group: int | None) -> int:
    """The legal group nearest to ``group``, the smaller of two."""
    return min(sorted(GROUPS), key=lambda g: (abs(g - (group or 128)), g))
