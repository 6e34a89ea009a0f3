"""Ridge regression with robust weights, and weighted quantiles, in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

SPREAD: Final = 0.12  # of measurements on one device, in logarithms: the knee of the loss and the unit of the penalties


def solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a symmetric positive definite system by elimination."""
    n = len(right)
    rows = [[*row, b] for row, b in zip(matrix, right, strict=True)]
    for i in range(n):
        pivot = rows[i]
        for j in range(i + 1, n):
            if factor := rows[j][i] / pivot[i]:
                row = rows[j]
                for k in range(i, n + 1):
                    row[k] -= factor * pivot[k]
    out = [0.0] * n
    for i in reversed(range(n)):
        out[i] = (rows[i][n] - sum(rows[i][k] * out[k] for k in range(i + 1, n))) / rows[i][i]
    return out


def regress(
    names: Sequence[str],
    pull: Callable[[str], float],
    start: dict[str, float],
    terms: Callable[[dict[str, float]], Iterable[tuple[float, float, list[tuple[str, float]]]]],
    rounds: int,
    zero: dict[str, float],
) -> dict[str, float]:
    """Gauss-Newton with a penalty: ``terms`` yields weight, residual and slopes by name at a point.

    Args:
        names: of the parameters.
        pull: penalty on the square of a parameter's distance from ``zero``.
        start: where to begin.
        terms: the rows, at the parameters that it is given.
        rounds: at most so many steps; a step is cut where it is long.
        zero: where parameters are drawn to, 0 where not named.
    """
    place = {name: i for i, name in enumerate(names)}
    theta = {name: start.get(name, 0.0) for name in names}
    n = len(names)
    for _ in range(rounds):
        matrix = [[0.0] * n for _ in range(n)]
        right = [0.0] * n
        for name, i in place.items():
            matrix[i][i] = pull(name)
            right[i] = -pull(name) * (theta[name] - zero.get(name, 0.0))
        for weight, residual, slopes in terms(theta):
            weight *= min(1.0, SPREAD / max(abs(residual), 1e-9)) / SPREAD**2
            at = [(place[name], slope) for name, slope in slopes if name in place]
            for i, slope in at:
                right[i] += weight * slope * residual
                for j, other in at:
                    matrix[i][j] += weight * slope * other
        step = solve(matrix, right)
        longest = max(map(abs, step), default=0.0)
        scale = min(1.0, 0.7 / longest) if longest else 1.0
        for name, i in place.items():
            theta[name] += scale * step[i]
        if longest < 1e-4:
            break
    return theta


def quantile(pairs: Iterable[tuple[float, float]], q: float) -> float:
    """Quantile of (value, weight) pairs."""
    ordered = sorted(pairs)
    goal, run = q * sum(w for _, w in ordered), 0.0
    for value, weight in ordered:
        run += weight
        if run >= goal - 1e-12:
            return value
    return ordered[-1][0]
