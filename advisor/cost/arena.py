"""A replay of ggml's graph allocator on one device: how large a work buffer the order of a graph's operations needs.

As ggml-alloc and ggml-backend's scheduler do it (llama.cpp, ggml/src/ggml-alloc.c and ggml-backend.cpp, builds of
2026): a result takes the best fitting hole, is released after its last use, and lies in its operand's place where the
operation allows it. What lies on the host is copied to the device at the start of the piece of the graph ("split")
that wants it, and each copied weight starts a new piece, so that copies of weights do not pile up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

_ALIGNMENT: Final = 64
_ENDLESS: Final = 1 << 62

Place = Literal["device", "host"]


class Node:
    """One tensor of a graph, in the order of its operations.

    ``size`` in bytes; ``operands`` what it is made from; ``place`` where its operation runs; ``reuses`` whether it may
    take an operand's place; ``view`` the tensor that it only looks at; ``weight`` bytes of a weight on the host that
    has to be copied for it; ``kept`` never released.
    """

    __slots__ = (
        "address",
        "children",
        "kept",
        "operands",
        "place",
        "reuses",
        "size",
        "taken",
        "view",
        "views",
        "weight",
    )

    def __init__(
        self,
        size: int,
        operands: Sequence[Node] = (),
        *,
        place: Place = "device",
        reuses: bool = False,
        view: Node | None = None,
        weight: int = 0,
        kept: bool = False,
    ) -> None:
        self.size, self.operands, self.place = size, list(operands), place
        self.reuses, self.view, self.weight, self.kept = reuses, view, weight, kept
        self.children = self.views = self.taken = 0
        self.address: int | None = None


class Holes:
    """Free memory as ggml keeps it: holes by address, the last one without end; ``top`` is the most ever used."""

    def __init__(self, alignment: int = _ALIGNMENT) -> None:
        self.free: list[list[int]] = [[0, _ENDLESS]]
        self.top = 0
        self.alignment = alignment

    def take(self, size: int) -> int:
        """The address of ``size`` bytes in the smallest hole that holds them, the last of equal ones; the endless one
        only where no other does."""
        size = -(-size // self.alignment) * self.alignment
        fitting = [hole for hole in self.free[:-1] if hole[1] >= size]
        hole = min(reversed(fitting), key=lambda h: h[1]) if fitting else self.free[-1]
        address = hole[0]
        hole[0] += size
        hole[1] -= size
        if not hole[1]:
            self.free.remove(hole)
        self.top = max(self.top, address + size)
        return address

    def give(self, address: int, size: int) -> None:
        """Take back what ``take`` gave."""
        size = -(-size // self.alignment) * self.alignment
        for i, hole in enumerate(self.free):
            if hole[0] + hole[1] == address:
                hole[1] += size
                following = self.free[i + 1] if i + 1 < len(self.free) else None
                if following is not None and hole[0] + hole[1] == following[0]:
                    hole[1] += following[1]
                    del self.free[i + 1]
                return
            if address + size == hole[0]:
                hole[0] = address
                hole[1] += size
                return
        self.free.append([address, size])
        self.free.sort()


def buffer_bytes(graph: Sequence[Node]) -> int:
    """Bytes of the device's work buffer for ``graph``; the nodes can be used once."""
    ordered = _with_copies(graph)
    for node in ordered:
        if node.view is not None:
            node.view.views += 1
        for operand in node.operands:
            operand.children += 1
    holes = Holes()
    for node in ordered:
        for operand in node.operands:
            _allocate(operand, holes)
        _allocate(node, holes)
        for operand in node.operands:
            operand.children -= 1
            if operand.children or operand.views:
                continue
            if operand.view is None:
                _release(operand, holes)
                continue
            operand.view.views -= 1
            if not operand.view.views and not operand.view.children:
                _release(operand.view, holes)
    return holes.top


def _with_copies(graph: Sequence[Node]) -> list[Node]:
    """The nodes with copies of what the device wants from the host, at the start of the piece that wants it first."""
    out: list[Node] = []
    copies: dict[int, Node] = {}
    place: Place | None = None
    inputs = start = 0
    for node in graph:
        if node.view is None:
            if node.place != place or (node.weight and inputs):
                place, inputs, start = node.place, 0, len(out)
            if place == "device":
                wanted: list[Node] = []
                for i, operand in enumerate(node.operands):
                    if operand.place == "host":
                        if id(operand) not in copies:
                            copies[id(operand)] = Node(operand.size)
                            wanted.append(copies[id(operand)])
                        node.operands[i] = copies[id(operand)]
                if node.weight:
                    wanted.append(Node(node.weight))
                    node.operands.append(wanted[-1])
                out[start:start] = wanted
                start += len(wanted)
                inputs += len(wanted)
        out.append(node)
    return out


def _allocate(node: Node, holes: Holes) -> None:
    if node.place != "device" or node.view is not None or node.address is not None or not node.size:
        return
    if node.reuses:
        for operand in node.operands:
            if operand.children != 1 or operand.views or operand.size != node.size or operand.place != "device":
                continue
            owner = operand.view or operand
            if operand.view is not None and (owner.views != 1 or owner.children or owner.size != node.size):
                continue
            if owner.address is not None and not owner.kept:
                node.address, node.taken = owner.address, owner.taken
                owner.address = None
                return
    node.taken = node.size
    node.address = holes.take(node.size)


def _release(node: Node, holes: Holes) -> None:
    if node.address is not None and not node.kept:
        holes.give(node.address, node.taken)
    node.address = None
