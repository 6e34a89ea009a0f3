"""Sizes of GGUF tensor types."""

from __future__ import annotations

from advisor.facts.ggml_types import BLOCKS as BLOCKS
from advisor.facts.model import TensorSpec

ALIGNMENT = 32  # bytes; ``general.alignment`` of every file that converters and quantizers write


def row_bytes(type_name: str, width: int) -> int:
    """Bytes of one row of ``width`` weights.

    Raises:
        KeyError: no such type.
        ValueError: the row does not hold whole blocks.
    """
    weights, size = BLOCKS[type_name]
    if width % weights:
        raise ValueError(f"a row of {width} weights does not hold whole {type_name} blocks of {weights}")
    return width // weights * size


def tensor_bytes(tensor: TensorSpec, type_name: str) -> int:
    """Bytes of a whole tensor, without padding.

    Raises:
        KeyError: no such type.
        ValueError: a row does not hold whole blocks.
    """
    width = tensor.width
    return row_bytes(type_name, width) * (tensor.elements // width) if width else 0


def pad(n: int, multiple: int) -> int:
    """``n`` rounded up to a multiple."""
    return -(-n // multiple) * multiple
