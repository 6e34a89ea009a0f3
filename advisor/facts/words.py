"""The frozen vocabulary: methods, formats, runtimes, goals, states and exit codes."""

from __future__ import annotations

import re
from typing import Final, Literal, get_args

MethodName = Literal["awq", "gptq", "w8a8", "fp8", "nvfp4", "mxfp4", "nf4", "int8", "hqq", "rtn", "gguf", "none"]
RuntimeName = Literal[
    "llama.cpp",
    "llama-cpp-python",
    "vllm",
    "transformers",
    "exllama",
    "sglang",
    "tgi",
    "ollama",
    "lmstudio",
    "textgen",
    "mlx",
]
GoalName = Literal[
    "chat",
    "coding",
    "long-context",
    "serving",
    "throughput",
    "accuracy",
    "fastest-deployment",
    "smallest-memory",
    "edge",
    "adapter",
]
PlanStatus = Literal["ready", "needs", "elsewhere"]
DeploymentState = Literal["starting", "loading", "ready", "unhealthy", "stopping", "stopped", "failed", "lost"]
RecoverMode = Literal["ask", "auto", "never"]
Verdict = Literal["pass", "warn", "fail"]
Vendor = Literal["nvidia", "amd", "intel", "apple", "other"]

METHODS: Final[tuple[str, ...]] = get_args(MethodName)
RUNTIMES: Final[tuple[str, ...]] = get_args(RuntimeName)
GOALS: Final[tuple[str, ...]] = get_args(GoalName)

# The GGUF file types that advisor can make, most compressed first. MXFP4 only of weights that were published in it.
GGUF_FORMATS: Final[tuple[str, ...]] = (
    "q2_k",
    "q3_k_s",
    "q3_k_m",
    "q3_k_l",
    "mxfp4",
    "iq4_xs",
    "iq4_nl",
    "q4_0",
    "q4_k_s",
    "q4_k_m",
    "q4_1",
    "q5_0",
    "q5_k_s",
    "q5_k_m",
    "q5_1",
    "q6_k",
    "q8_0",
    "f16",
    "bf16",
)
# GGUF file types that others make: a file that has one is served as it is.
GGUF_SERVED: Final[tuple[str, ...]] = (
    "q1_0",
    "tq1_0",
    "iq1_s",
    "tq2_0",
    "iq1_m",
    "q2_0",
    "iq2_xxs",
    "iq2_xs",
    "iq2_s",
    "iq2_m",
    "q2_k_s",
    "iq3_xxs",
    "iq3_xs",
    "iq3_s",
    "iq3_m",
    "nvfp4",
)
# How llama.cpp gets a file into memory, in its own words: mapped; read into memory of its own; the same, and kept from
# being swapped out.
LOAD_MODES: Final[tuple[str, ...]] = ("mmap", "none", "mlock", "mmap+mlock")
KV_TYPES: Final[tuple[str, ...]] = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
GROUPED_FORMAT: Final = re.compile(r"^w(?P<bits>[2348])a16-g(?P<group>\d+)$|^hqq(?P<hbits>[2348])-g(?P<hgroup>\d+)$")
# Formats with a group size, of which there are more than can be listed.
GROUPED_EXAMPLES: Final[tuple[str, ...]] = ("w4a16-g128", "hqq4-g64")
PLAIN_FORMATS: Final[tuple[str, ...]] = ("w8a8", "fp8", "nvfp4", "mxfp4", "nf4", "int8", "bf16", "f16")
# Every format there is a word for, groups by example; for suggestions.
FORMAT_WORDS: Final[tuple[str, ...]] = tuple(
    dict.fromkeys((*GGUF_FORMATS, *GGUF_SERVED, *PLAIN_FORMATS, *GROUPED_EXAMPLES))
)

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NO: Final = 3
EXIT_NOT_FOUND: Final = 4
EXIT_MACHINE: Final = 5
EXIT_NETWORK: Final = 6
EXIT_REFUSED: Final = 7
EXIT_BUSY: Final = 8
EXIT_BUG: Final = 70
EXIT_INTERRUPTED: Final = 130


def is_format(word: str) -> bool:
    """Whether ``word`` is a format name of the contract, of any method."""
    return word in (*GGUF_FORMATS, *GGUF_SERVED, *PLAIN_FORMATS) or GROUPED_FORMAT.match(word) is not None


def mixed(fmt: str, types: tuple[str, ...]) -> str:
    """A GGUF file type with types of named tensors as one word: ``q4_k_m:ffn_down=q6_k``; without any, ``fmt``."""
    return f"{fmt}:{','.join(types)}" if types else fmt


def format_options(fmt: str) -> str:
    """A format as ``advisor quantize`` takes it: ``--format q4_k_m --tensor-type ffn_down=q6_k`` of a mix."""
    base, _, own = fmt.partition(":")
    return " ".join((f"--format {base}", *(f"--tensor-type '{named}'" for named in own.split(",") if named)))


WIKITEXT: Final = "wikitext-2"
DATASETS: Final = "hf:datasets/"


def is_hub_text(words: str) -> bool:
    """Whether ``words`` name a text of a dataset of the hub, not a file here."""
    return words == WIKITEXT or words.startswith(DATASETS)
