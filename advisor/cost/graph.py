"""A graph of operations as llama.cpp builds it, and how large the buffer is that ggml's allocator lays it out in.

Rules of ggml-alloc (llama.cpp, ggml/src/ggml-alloc.c): inputs are placed first; an operation's operands come before it,
from the left; a result takes the best fitting hole, or, where the operation allows it, the place of an operand that
nothing else needs and that is no view; what has no further use is released.
"""

from __future__ import annotations

from typing import Final

from advisor.cost.arena import Holes

ALIGNMENT: Final = 32


class Tensor:
    """A tensor of ``size`` bytes. ``owner``: what a view looks at; ``reuses``: it may take an operand's place."""

    __slots__ = ("address", "children", "operands", "owner", "placed", "reuses", "seen", "size", "views")

    def __init__(
        self, size: int, operands: tuple[Tensor, ...] = (), owner: Tensor | None = None, *, reuses: bool = False
    ) -> None:
        self.size, self.operands, self.owner, self.reuses = size, operands, owner, reuses
        self.children = self.views = self.address = 0
        self.placed = self.seen = False


class Graph:
    """Operations in the order in which they are computed.

    ``op`` makes a result, ``same`` one as large as its first operand that may lie in an operand's place, ``view``
    another look at a tensor. A tensor joins the graph when it, or one made from it, is passed to ``expand``.
    """

    def __init__(self) -> None:
        self.order: list[Tensor] = []
        self.inputs: list[Tensor] = []

    def given(self, size: int) -> Tensor:
        """An input; it stays for the whole graph where nothing uses it."""
        tensor = Tensor(size)
        tensor.seen = True
        self.inputs.append(tensor)
        return tensor

    def op(self, size: int, *operands: Tensor) -> Tensor:
        """A result of ``size`` bytes."""
        return Tensor(size, operands)

    def same(self, *operands: Tensor) -> Tensor:
        """A result as large as its first operand, which may lie in an operand's place."""
        return Tensor(operands[0].size, operands, reuses=True)

    def view(self, of: Tensor, size: int | None = None) -> Tensor:
        """Another look at ``of``, or at a part of it of ``size`` bytes."""
        return Tensor(of.size if size is None else size, (of,), of.owner or of)

    def written(self, what: Tensor, into: Tensor) -> Tensor:
        """``into`` after ``what`` was written into some of its rows."""
        return Tensor(into.size, (what, into), into)

    def stored(self, what: Tensor) -> Tensor:
        """A copy of ``what`` into memory that is not the graph's, such as a cache."""
        return Tensor(0, (what,))

    def expand(self, *tensors: Tensor) -> None:
        """Add the tensors and all that they are made from, from the left."""
        for tensor in tensors:
            if tensor.seen:
                continue
            tensor.seen = True
            self.expand(*tensor.operands)
            self.order.append(tensor)

    def bytes(self) -> int:
        """Bytes of the buffer; a graph can be laid out once."""
        for tensor in self.order:
            if tensor.owner is not None:
                tensor.owner.views += 1
            for operand in tensor.operands:
                operand.children += 1
        holes = Holes(ALIGNMENT)
        for tensor in self.inputs:
            _place(tensor, holes)
        for tensor in self.order:
            _place(tensor, holes)
            for operand in tensor.operands:
                operand.children -= 1
                if operand.children or operand.views:
                    continue
                owner = operand.owner
                if owner is None:
                    _release(operand, holes)
                    continue
                owner.views -= 1
                if not owner.views and not owner.children:
                    _release(owner, holes)
        return holes.top


def _place(tensor: Tensor, holes: Holes) -> None:
    if tensor.placed or tensor.owner is not None or not tensor.size:
        return
    tensor.placed = True
    if tensor.reuses:
        for operand in tensor.operands:
            if operand.placed and operand.children == 1 and not operand.views and operand.size == tensor.size:
                tensor.address = operand.address
                operand.placed = False
                return
    tensor.address = holes.take(tensor.size)


def _release(tensor: Tensor, holes: Holes) -> None:
    if tensor.placed:
        holes.give(tensor.address, tensor.size)
    tensor.placed = False
