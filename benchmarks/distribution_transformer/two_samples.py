"""How different two samples are: accuracy of a classifier (C2ST) and mean marginal total variation (MMTV).

The classifier is scikit-learn's (see benchmarks/requirements-peers.txt).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.fft
import scipy.optimize
from jaxtyping import Float

_MESH = 2**13


def c2st(
    x: Float[np.ndarray, "n dim"], y: Float[np.ndarray, "n dim"], classifier: Literal["mlp", "forest"] = "mlp"
) -> float:
    """Accuracy of a classifier that tells x from y, over five folds: 0.5 where they are alike, 1 where they are apart.

    Args:
        x, y: samples of equal size; both are scaled by the mean and standard deviation of x.
        classifier: "mlp", two layers of 10 D units as in the SBI benchmark, or "forest", a random forest.

    References:
        Lueckmann et al. (2021), Benchmarking simulation-based inference, section 3.2; Lopez-Paz & Oquab (2017).
    """
    from sklearn.ensemble import RandomForestClassifier  # pyright: ignore[reportMissingImports]
    from sklearn.model_selection import KFold, cross_val_score  # pyright: ignore[reportMissingImports]
    from sklearn.neural_network import MLPClassifier  # pyright: ignore[reportMissingImports]

    centre, scale = x.mean(axis=0), x.std(axis=0)
    points = (np.concatenate([x, y]) - centre) / np.where(scale < 1e-14, 1, scale)
    labels = np.repeat([0, 1], [len(x), len(y)])
    width = 10 * x.shape[1]
    judge = (
        MLPClassifier((width, width), max_iter=10_000, solver="adam", random_state=1)
        if classifier == "mlp"
        else RandomForestClassifier(random_state=1)
    )
    folds = KFold(5, shuffle=True, random_state=1)
    return float(np.mean(cross_val_score(judge, points, labels, cv=folds, scoring="accuracy")))


def mmtv(x: Float[np.ndarray, "n dim"], y: Float[np.ndarray, "n dim"]) -> float:
    r"""Mean over dimensions of $\tfrac12 \int |p - q|$ between kernel estimates of the marginals: 0 alike, 1 apart.

    Two samples of 1000 from one law give about 0.05.
    """
    each = []
    for a, b in zip(x.T, y.T, strict=True):
        (p, mesh_p), (q, mesh_q) = density(a), density(b)
        mesh = np.linspace(min(mesh_p[0], mesh_q[0]), max(mesh_p[-1], mesh_q[-1]), 2 * _MESH)
        gap = np.interp(mesh, mesh_p, p, 0, 0) - np.interp(mesh, mesh_q, q, 0, 0)
        each.append(0.5 * np.trapezoid(np.abs(gap), mesh))
    return float(np.mean(each))


def density(x: Float[np.ndarray, " n"]) -> tuple[Float[np.ndarray, " mesh"], Float[np.ndarray, " mesh"]]:
    """Kernel estimate of a density and its mesh, a tenth of the range wider than the data on both sides.

    References:
        Botev, Grotowski & Kroese (2010), Kernel density estimation via diffusion, Annals of Statistics 38(5), alg. 1.
    """
    low, high = x.min(), x.max()
    low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
    step = (high - low) / (_MESH - 1)
    counts = np.bincount(np.floor((x - low) / step + 0.5).astype(int), minlength=_MESH)
    cosines = np.asarray(scipy.fft.dct(counts / counts.sum(), type=2))
    number = np.arange(_MESH, dtype=float)
    time = _diffusion_time(number[1:] ** 2, (cosines[1:] / 2) ** 2, len(np.unique(x)))
    smooth = cosines * np.exp(-(number**2) * np.pi**2 * time / 2)
    values = np.maximum(np.asarray(scipy.fft.idct(smooth, type=2)), 0)
    mesh = np.linspace(low, high, _MESH)
    return values / np.trapezoid(values, mesh), mesh


def _diffusion_time(squares: np.ndarray, power: np.ndarray, n: int) -> float:
    """Squared bandwidth in units of the mesh's length: the fixed point of the paper's equation (30)."""

    def roughness(s: int, time: float) -> float:
        return 2 * np.pi ** (2 * s) * float(np.sum(squares**s * power * np.exp(-squares * np.pi**2 * time)))

    def excess(time: float) -> float:
        norm = roughness(7, time)
        for s in range(6, 1, -1):
            odd = np.prod(np.arange(1, 2 * s, 2, dtype=float)) / np.sqrt(2 * np.pi)
            constant = (1 + 0.5 ** (s + 0.5)) / 3
            norm = roughness(s, (2 * constant * odd / (n * norm)) ** (2 / (3 + 2 * s)))
        return time - (2 * n * np.sqrt(np.pi) * norm) ** (-0.4)

    upper = 1e-4
    while upper < 1:
        if excess(upper) > 0:
            return float(np.asarray(scipy.optimize.brentq(excess, 1e-12, upper))) if excess(1e-12) < 0 else 1e-12
        upper *= 2
    return (0.9 / 6 * n**-0.2) ** 2  # no fixed point: a sixth of the range as standard deviation, Silverman's rule
