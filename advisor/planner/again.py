"""The command line that asks again: what was asked for, as words of ``advisor recommend``."""

from __future__ import annotations

from typing import Final, NamedTuple

from advisor.facts.plan import PlanRequest
from advisor.facts.text import shell_word

_SIZES: Final = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (10**9, "GB"), (10**6, "MB"))
_DEFAULTS: Final = PlanRequest()
_PLAIN: Final = (
    *(("goal", "--goal"), ("context", "--context"), ("parallel", "--parallel"), ("method", "--method")),
    *(("format", "--format"), ("runtime", "--runtime"), ("quantizer", "--quantizer"), ("kv_type", "--kv-type")),
    *(("threads", "--threads"), ("min_tps", "--min-tps"), ("min_quality", "--min-quality")),
    *(("calibration", "--calibration"), ("adapter", "--adapter")),
)
_RECIPE: Final = (
    *(("bits", "--bits"), ("group_size", "--group-size"), ("damp", "--damp"), ("samples", "--samples")),
    *(("smoothing", "--smoothing"), ("layout", "--layout")),
)
_SWITCHES: Final = (
    ("desc_act", "--desc-act", "--no-desc-act"),
    ("sym", "--sym", "--no-sym"),
    ("static_activations", "--static-activations", "--dynamic-activations"),
    ("double_quant", "--double-quant", "--no-double-quant"),
)


class Named(NamedTuple):
    """How model and machine were named: the words for the model; names of hardware; bytes, and bytes a second;
    the file or folder of a recorded machine."""

    model: tuple[str, ...] = ()
    hardware: tuple[str, ...] = ()
    memory: int | None = None
    vram: int | None = None
    bandwidth: int | None = None
    recorded: str | None = None


def size_word(value: int) -> str:
    """Bytes as an option takes them, exactly: ``24GiB``, ``16GB``, or the plain number."""
    return next((f"{value // step}{unit}" for step, unit in _SIZES if value % step == 0), str(value))


def time_word(seconds: float) -> str:
    """Seconds as an option takes them: ``10m``, ``90s``."""
    whole = round(seconds)
    if abs(seconds - whole) > 1e-9:
        return f"{seconds:f}".rstrip("0") + "s"
    return f"{whole // 60}m" if whole % 60 == 0 else f"{whole}s"


def number_word(value: float) -> str:
    """A number without an exponent and without needless digits."""
    return f"{value:.10f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def command(named: Named, request: PlanRequest) -> str:
    """``advisor recommend ...`` as it is typed; what is as by default is left out."""
    words = ["advisor", "recommend", *(shell_word(w) for w in named.model)]
    for name, option in _PLAIN:
        value = getattr(request, name)
        if value is not None and value != getattr(_DEFAULTS, name):
            words += [option, shell_word(number_word(value) if isinstance(value, int | float) else str(value))]
    if request.max_memory_bytes is not None:
        words += ["--max-memory", size_word(request.max_memory_bytes)]
    if request.within_s is not None:
        words += ["--within", time_word(request.within_s)]
    words += ["--no-download"] if request.no_download else []
    for name, option in _RECIPE:
        value = getattr(request.recipe, name)
        if value is not None:
            words += [option, number_word(value) if isinstance(value, int | float) else shell_word(str(value))]
    for name, yes, no in _SWITCHES:
        value = getattr(request.recipe, name)
        words += [] if value is None else [yes if value else no]
    for word in named.hardware:
        words += ["--hardware", shell_word(word)]
    for option, size in (("--memory", named.memory), ("--vram", named.vram), ("--bandwidth", named.bandwidth)):
        words += [] if size is None else [option, size_word(size)]
    words += [] if named.recorded is None else ["--machine", shell_word(named.recorded)]
    return " ".join(words)
