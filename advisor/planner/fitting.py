"""Least squares with a prior, for few measurements and as many unknowns: costs are positive and not far from usual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

# Relative error that a single measurement is trusted to; it weighs the data against the prior.
_NOISE: Final = 0.02
# The least share of its usual value that a cost may have.
_FLOOR: Final = 0.02


class Sample(NamedTuple):
    """Seconds that an amount of each kind of work took. ``weight`` is relative to other samples."""

    amounts: Mapping[str, float]
    seconds: float
    weight: float = 1.0


class Prior(NamedTuple):
    """The usual cost of one unit of a kind of work, and by what share it may well differ."""

    cost: float
    spread: float


def solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """The solution of a system of linear equations with a positive definite matrix, by elimination.

    Raises:
        ZeroDivisionError: the matrix is singular.
    """
    n = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(n):
        best = max(range(i, n), key=lambda r: abs(rows[r][i]))
        rows[i], rows[best] = rows[best], rows[i]
        for r in range(i + 1, n):
            factor = rows[r][i] / rows[i][i]
            for col in range(i, n + 1):
                rows[r][col] -= factor * rows[i][col]
    out = [0.0] * n
    for i in reversed(range(n)):
        out[i] = (rows[i][n] - sum(rows[i][k] * out[k] for k in range(i + 1, n))) / rows[i][i]
    return out


def fit(samples: Sequence[Sample], priors: Mapping[str, Prior]) -> dict[str, float]:
    """The cost of a unit of each kind of work that explains the samples, relative errors counting.

    With fewer samples than kinds the prior decides what they leave open: costs stay near their usual values, moved
    together where the samples say so.

    Args:
        samples: at least one, all with positive seconds.
        priors: every kind of work that occurs, positive costs.
    """
    fixed: dict[str, float] = {}
    kinds = [k for k in priors if any(s.amounts.get(k) for s in samples)]
    free = list(kinds)
    while free:
        n = len(free)
        matrix = [[0.0] * n for _ in range(n)]
        right = [0.0] * n
        for s in samples:
            row = [s.amounts.get(k, 0.0) * priors[k].cost / s.seconds for k in free]
            target = 1.0 - sum(s.amounts.get(k, 0.0) * priors[k].cost * x / s.seconds for k, x in fixed.items())
            scale = s.weight / _NOISE**2
            for i, a in enumerate(row):
                if a:
                    right[i] += scale * a * target
                    for j, b in enumerate(row):
                        matrix[i][j] += scale * a * b
        for i, k in enumerate(free):
            stiffness = 1 / priors[k].spread ** 2
            matrix[i][i] += stiffness
            right[i] += stiffness
        found = dict(zip(free, solve(matrix, right), strict=True))
        low = [k for k, x in found.items() if x < _FLOOR]
        if not low:
            fixed |= found
            break
        fixed |= dict.fromkeys(low, _FLOOR)
        free = [k for k in free if k not in fixed]
    return {k: priors[k].cost * fixed.get(k, 1.0) for k in priors}


def seconds(costs: Mapping[str, float], amounts: Mapping[str, float]) -> float:
    """The time that the amounts of work take; kinds without a cost count nothing."""
    return sum(costs.get(k, 0.0) * n for k, n in amounts.items())


def left_out(samples: Sequence[Sample], priors: Mapping[str, Prior], most: int = 12) -> float | None:
    """The median relative error of each sample when it is predicted from the others; ``None`` for fewer than two."""
    if len(samples) < 2:
        return None
    step = max(1, -(-len(samples) // most))
    errors = []
    for i in range(0, len(samples), step):
        costs = fit([s for k, s in enumerate(samples) if k != i], priors)
        errors.append(abs(seconds(costs, samples[i].amounts) / samples[i].seconds - 1))
    return sorted(errors)[len(errors) // 2]
