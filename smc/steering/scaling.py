r"""Success against the number of tries: a fitted law, where it saturates, and the number that pays best.

Prompts that can be solved at all (a share c) are solved by one try with chance $p \sim \mathrm{Beta}(a, b)$, so

$$S(N) = c\,\bigl(1 - B(a, b + N) / B(a, b)\bigr).$$

The posterior is computed on a grid, so its error is that of the grid and nothing has to converge.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import special

from probinf.errors import ArgumentError

_GRID = 31


class Quantity(NamedTuple):
    """A posterior mean with its central 90 % interval."""

    mean: float
    low: float
    high: float


class Scaling(NamedTuple):
    """Posterior of the law of success against tries.

    Attributes:
        ceiling: (G,) values of c.
        a: (G,) first beta parameter.
        b: (G,) second beta parameter.
        weights: (G,) posterior weights, sum 1.
    """

    ceiling: np.ndarray
    a: np.ndarray
    b: np.ndarray
    weights: np.ndarray

    def curve(self, tries: Any) -> np.ndarray:
        """S(N) for each number of tries and each point of the grid, (tries, G)."""
        n = np.asarray(tries, float).reshape(-1, 1)
        return self.ceiling * -np.expm1(special.betaln(self.a, self.b + n) - special.betaln(self.a, self.b))

    def success(self, tries: int) -> Quantity:
        """Share of prompts solved with so many tries."""
        return self._quantity(self.curve([tries])[0])

    def saturation(self, share: float = 0.95, max_tries: int = 4096) -> Quantity:
        """Tries after which `share` of what can be solved within `max_tries` is solved."""
        grid = _powers(max_tries)
        curve = self.curve(grid)
        return self._quantity(grid[np.argmax(curve >= share * curve[-1], axis=0)].astype(float))

    def best_number(self, value: float, cost: float, max_tries: int = 4096) -> Quantity:
        """The N that maximises value * S(N) - cost * N, with the uncertainty of the law.

        Raises:
            ArgumentError: value or cost is not positive.
        """
        if not (value > 0 and cost > 0):
            raise ArgumentError(f"value, cost: expected positive numbers, found {value}, {cost}.")
        grid = _powers(max_tries)
        return self._quantity(grid[np.argmax(value * self.curve(grid) - cost * grid[:, None], axis=0)].astype(float))

    def _quantity(self, values: np.ndarray) -> Quantity:
        order = np.argsort(values)
        cumulative = np.cumsum(self.weights[order])
        low, high = (values[order][min(np.searchsorted(cumulative, q), len(order) - 1)] for q in (0.05, 0.95))
        return Quantity(float(self.weights @ values), float(low), float(high))


def fit_scaling(tries: Any, solved: Any, prompts: Any) -> Scaling:
    """Fit the law to counts of prompts solved with different numbers of tries.

    Rows must come from separate prompts or separate tries: the likelihood is a product of binomials. Priors: c uniform
    on (0, 1]; the mean of p uniform on the logit scale from 0.0005 to 0.98, a + b log-uniform from 0.2 to 100.

    ```python
    law = smc.fit_scaling([1, 4, 16, 64], [21, 45, 62, 70], [100, 100, 100, 100])
    law.success(256), law.saturation(), law.best_number(value=1.0, cost=0.002)
    ```

    Args:
        tries: (K,) numbers of tries N.
        solved: (K,) prompts solved.
        prompts: (K,) prompts tried.

    Raises:
        ArgumentError: lengths differ, counts are impossible, or there are fewer than 2 different numbers of tries.
    """
    n, k, m = (np.asarray(x, float) for x in (tries, solved, prompts))
    if not (n.ndim == 1 and n.shape == k.shape == m.shape):
        raise ArgumentError(f"tries, solved, prompts: expected equal lengths, found {n.shape}, {k.shape}, {m.shape}.")
    if not ((n >= 1).all() and (k >= 0).all() and (k <= m).all()):
        raise ArgumentError("solved: expected tries of at least 1 and 0 <= solved <= prompts.")
    if len(np.unique(n)) < 2:
        raise ArgumentError(f"tries: a law needs at least 2 different numbers of tries, found {np.unique(n).tolist()}.")
    ceiling = (np.arange(_GRID) + 1) / _GRID
    mean = special.expit(np.linspace(special.logit(0.0005), special.logit(0.98), _GRID))
    size = np.exp(np.linspace(np.log(0.2), np.log(100), _GRID))
    c, mu, s = (x.ravel() for x in np.meshgrid(ceiling, mean, size, indexing="ij"))
    flat = Scaling(c, mu * s, (1 - mu) * s, np.full(c.size, 1 / c.size))
    chance = np.clip(flat.curve(n), 1e-300, 1 - 1e-12)
    log_likelihood = k @ np.log(chance) + (m - k) @ np.log1p(-chance)
    weights = np.exp(log_likelihood - log_likelihood.max())
    return flat._replace(weights=weights / weights.sum())


def _powers(most: int) -> np.ndarray:
    """Whole numbers from 1 to `most`, all of the small ones, the large ones in steps of 5 %."""
    return np.unique(
        np.round(np.concatenate([np.arange(1, min(most, 32) + 1), np.geomspace(1, most, 170)])).astype(int)
    )
