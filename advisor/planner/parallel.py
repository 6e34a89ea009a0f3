"""How a runtime of checkpoints may spread a model over several devices: by heads and columns, or by layers."""

from __future__ import annotations

from typing import Final

from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec

# Devices that one machine holds, where nobody has counted them: servers are built with eight.
NODE: Final = 8
# Matrices whose rows tensor parallelism cuts; the others are cut between rows.
_CUT_ROWS: Final = ("attn_output", "ffn_down", "ffn_down_exps")


def rank_group_divides(size: int | None, parallel: int, tensors: tuple[TensorSpec, ...]) -> bool | None:
    """Whether groups of ``size`` weights stay whole where rows are cut: the rows of ``attn_output`` and ``ffn_down``
    are shared out among ``parallel`` devices. ``None`` without tensors, true without groups."""
    if size is None or parallel == 1:
        return True
    cut = {t.width for t in tensors if t.packed and t.role in _CUT_ROWS}
    return all(w % (parallel * size) == 0 for w in cut) if cut else None


def columns_divide(parallel: int, tensors: tuple[TensorSpec, ...]) -> bool | None:
    """Whether each of ``parallel`` devices gets the same number of columns of every matrix whose rows are cut."""
    cut = {t.width for t in tensors if t.packed and t.role in _CUT_ROWS}
    return all(w % parallel == 0 for w in cut) if cut else None


def heads_divide(model: ModelFacts, parallel: int) -> bool:
    """Whether each of ``parallel`` devices gets whole attention heads, and whole KV heads or copies of one."""
    kv = max(1, model.kv_heads)
    return model.heads % parallel == 0 and (model.kv_heads % parallel == 0 or parallel % kv == 0)


def machines_needed(machine: Machine, count: int) -> int:
    """Machines that ``count`` devices stand in: one where they were found there, else one for each eight."""
    return 1 if machine.named is None else -(-count // NODE)


def stages(model: ModelFacts, tensors: tuple[TensorSpec, ...], count: int, machines: int = 1) -> int:
    """Groups into which ``count`` devices in ``machines`` are split: 1 where all of them can share each layer, else as
    few as leave groups that can; the layers are then shared out among the groups.

    Source: vLLM, parallelism documentation: tensor parallel within a machine, pipeline parallel between machines, and
    where the number of GPUs does not divide the model evenly.
    """

    def whole(parallel: int) -> bool:
        if parallel * machines > count or not heads_divide(model, parallel):
            return False
        return columns_divide(parallel, tensors) is not False

    return next(n for n in range(1, count + 1) if n == count or (count % n == 0 and whole(count // n)))
