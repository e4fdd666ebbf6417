"""The result of inference: named draws, with or without weights, and what is known about how far to trust them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentError, DataError, UnknownNameError

if TYPE_CHECKING:
    import jax

    from probinf.inference.summary import Summary
    from probinf.representations.mixture import GaussianMixture

_FORMAT = "probinf-posterior-1"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Posterior:
    """Draws from a posterior, on the host.

    Attributes:
        draws: site -> array of shape (chains, draws, *site shape); latent sites and deterministic values.
        log_weights: shape (chains, draws), unnormalised, in nats; None where all draws weigh the same.
        log_evidence: estimate of the log of the normalising constant, in nats, or None.
        log_evidence_sd: its standard error, in nats, or None.
        sample_stats: statistics of the sampler under ArviZ's names, arrays of shape (chains, draws).
        dims: site -> names of its trailing axes; None where an axis has no name.
        coords: axis name -> its coordinates.
        method: what was run, readable.
        claim: what the method keeps: "exact", "unbiased", "invariant", "consistent" or "approximate".
        warnings: reasons for caution found during the run.
        seconds: wall time of the run, compilation included.
        is_partial: the run was interrupted and holds the draws made until then.
        checkpoint: arrays from which the run can be continued, or None.
        model: name of the model.
    """

    draws: Mapping[str, np.ndarray]
    log_weights: np.ndarray | None = None
    log_evidence: float | None = None
    log_evidence_sd: float | None = None
    sample_stats: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    dims: Mapping[str, tuple[str | None, ...]] = dataclasses.field(default_factory=dict)
    coords: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    method: str = ""
    claim: str = "approximate"
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    is_partial: bool = False
    checkpoint: Mapping[str, np.ndarray] | None = None
    model: str = "model"

    def __post_init__(self) -> None:
        draws = {name: np.asarray(value) for name, value in self.draws.items()}
        if not draws:
            raise ArgumentError("draws: expected at least one site, found none.")
        first = next(iter(draws))
        shape = draws[first].shape[:2]
        for name, value in draws.items():
            if value.ndim < 2 or value.shape[:2] != shape or math.prod(shape) == 0:
                raise ArgumentError(
                    f"draws: {name!r} has shape {value.shape}, expected (chains, draws, ...) with chains and draws "
                    f"positive and as in {first!r}, {shape}."
                )
        object.__setattr__(self, "draws", draws)
        if self.log_weights is not None:
            weights = np.asarray(self.log_weights, np.float64)
            if weights.shape != shape:
                raise ArgumentError(f"log_weights: expected shape {shape} as the draws, found {weights.shape}.")
            if np.isnan(weights).any() or np.isposinf(weights).any() or np.isneginf(weights).all():
                raise DataError("log_weights: expected finite values or -inf, at least one finite.")
            object.__setattr__(self, "log_weights", weights)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of all sites with draws."""
        return tuple(self.draws)

    @property
    def num_chains(self) -> int:
        """Number of chains, or of independent runs."""
        return next(iter(self.draws.values())).shape[0]

    @property
    def num_draws(self) -> int:
        """Draws, or particles, in each chain."""
        return next(iter(self.draws.values())).shape[1]

    @property
    def weights(self) -> np.ndarray:
        """Normalised weights over all chains, shape (chains, draws), summing to one."""
        if self.log_weights is None:
            return np.full((self.num_chains, self.num_draws), 1.0 / (self.num_chains * self.num_draws))
        weights = np.exp(self.log_weights - np.max(self.log_weights))
        return weights / weights.sum()

    def __getitem__(self, site: str) -> np.ndarray:
        """Draws of a site, shape (chains, draws, *site shape).

        Raises:
            UnknownNameError: no such site; the nearest name is suggested.
        """
        if site not in self.draws:
            raise UnknownNameError(site, self.draws, "site", f"the posterior of model {self.model!r}")
        return self.draws[site]

    def __contains__(self, site: object) -> bool:
        return site in self.draws

    def mean(self, site: str) -> np.ndarray | np.float64:
        """Posterior mean of a site, of the site's shape."""
        return np.einsum("cd,cd...->...", self.weights, self[site].astype(np.float64))

    def sd(self, site: str) -> np.ndarray | np.float64:
        """Posterior standard deviation of a site; without weights with divisor n - 1."""
        values = self[site].astype(np.float64)
        if self.log_weights is None:
            flat = values.reshape(-1, *values.shape[2:])
            return flat.std(axis=0, ddof=1) if flat.shape[0] > 1 else np.full(flat.shape[1:], np.nan)
        centred = values - self.mean(site)
        return np.sqrt(np.einsum("cd,cd...->...", self.weights, centred**2))

    def quantile(self, site: str, q: float | Sequence[float]) -> np.ndarray | np.float64:
        """Posterior quantiles, shape (*shape of q, *site shape); with weights the inverse of the weighted cdf."""
        levels = np.asarray(q, np.float64)
        if not np.all((levels >= 0.0) & (levels <= 1.0)):
            raise ArgumentError(f"q: expected levels between 0 and 1, found {q}.")
        from probinf.inference.diagnostics import weighted_quantiles

        values = self[site]
        flat = values.reshape(-1, *values.shape[2:]).astype(np.float64)
        if self.log_weights is None:
            return np.quantile(flat, levels, axis=0)
        columns = weighted_quantiles(flat.reshape(flat.shape[0], -1), self.weights.reshape(-1), levels.reshape(-1))
        return columns.reshape(*levels.shape, *values.shape[2:])

    def sample(self, key: int | jax.Array, n: int) -> dict[str, np.ndarray]:
        """Resample `n` joint draws with replacement, by weight: site -> array of shape (n, *site shape)."""
        import jax

        from probinf.inference.method import check_count
        from probinf.random import as_key

        n = check_count("n", n)
        total = np.cumsum(self.weights.reshape(-1))
        uniforms = np.asarray(jax.random.uniform(as_key(key, argument="key"), (n,)), np.float64)
        index = np.minimum(np.searchsorted(total, uniforms * total[-1], side="right"), total.size - 1)
        return {name: value.reshape(-1, *value.shape[2:])[index] for name, value in self.draws.items()}

    def matrix(self, sites: Sequence[str] | None = None) -> tuple[np.ndarray, list[str]]:
        """All scalars of some sites side by side: array (chains * draws, dim), and their names such as `theta[2]`."""
        columns, names = [], []
        for site in self.sites if sites is None else _as_names(sites):
            values = self[site]
            columns.append(values.reshape(values.shape[0] * values.shape[1], -1).astype(np.float64))
            names.extend(scalar_names(self, site))
        return np.concatenate(columns, axis=1), names

    def as_mixture(
        self, k: int = 1, sites: Sequence[str] | None = None, *, key: int | jax.Array = 0
    ) -> GaussianMixture:
        """A Gaussian mixture fitted to the weighted draws, over the scalars of `sites` in the order of `matrix`.

        Args:
            k: number of components.
            sites: which sites; all of them by default.
            key: seed or key of the fit's start.
        """
        from probinf.representations.mixture import GaussianMixture

        points, _ = self.matrix(sites)
        log_weights = None if self.log_weights is None else self.log_weights.reshape(-1)
        return GaussianMixture.from_samples(points, log_weights, k, key)

    def summary(self, sites: Sequence[str] | None = None, *, max_rows: int = 20) -> Summary:
        """A table of estimates and diagnostics with a verdict; printing it is reading it.

        Args:
            sites: which sites; all of them by default.
            max_rows: rows shown; the diagnostics cover every scalar whatever is shown.
        """
        from probinf.inference.summary import summarise

        return summarise(self, None if sites is None else _as_names(sites), max_rows)

    def to_arviz(self) -> Any:
        """An ArviZ `DataTree` with names, dims, coordinates, sample stats and weights; evidence in its attributes."""
        from probinf.inference.export import to_arviz

        return to_arviz(self)

    def plot(self, sites: Sequence[str] | None = None, *, max_rows: int = 8) -> Any:
        """Marginals beside traces, one row for each scalar; returns the Matplotlib figure."""
        from probinf.plots.overview import plot_overview

        return plot_overview(self, sites, max_rows=max_rows)

    def __repr__(self) -> str:
        return str(self.summary(max_rows=8))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an `.npz` file: arrays and a JSON header, nothing pickled. The old file stays whole until the end."""
        arrays: dict[str, np.ndarray] = {}
        for group, mapping in (("draws", self.draws), ("stats", self.sample_stats), ("checkpoint", self.checkpoint)):
            arrays |= {f"{group}/{name}": np.asarray(value) for name, value in (mapping or {}).items()}
        if self.log_weights is not None:
            arrays["log_weights"] = self.log_weights
        header = {
            "format": _FORMAT,
            "has_checkpoint": self.checkpoint is not None,
            "dims": {name: list(dims) for name, dims in self.dims.items()},
            "coords": {name: np.asarray(values).tolist() for name, values in self.coords.items()},
            "warnings": list(self.warnings),
            **{name: getattr(self, name) for name in _SCALARS},
        }
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        path = os.fspath(path)
        temporary = f"{path}.{os.getpid()}.part"
        try:
            with open(temporary, "wb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)

    @classmethod
    def load(cls, path: str | os.PathLike[str] | io.BufferedIOBase) -> Posterior:
        """Read a file written by `save`, given by its path or opened for reading bytes.

        Raises:
            DataError: not such a file, cut short, or of another format.
        """
        try:
            with contextlib.ExitStack() as stack:
                # np.load alone leaks a broken file.
                raw = path if isinstance(path, io.BufferedIOBase) else stack.enter_context(open(path, "rb"))
                file = stack.enter_context(np.load(raw, allow_pickle=False))
                arrays = {name: file[name] for name in file.files}
            header = json.loads(arrays.pop("header").tobytes().decode())
            if header["format"] != _FORMAT:
                raise DataError(f"{path}: expected format {_FORMAT!r}, found {header['format']!r}.")
        except FileNotFoundError:
            raise
        except DataError:
            raise
        except Exception as error:
            # NumPy takes whatever it does not know for a pickle, and would suggest to load it.
            why = "no NumPy archive" if "pickle" in str(error) else str(error)
            raise DataError(f"{path}: not a posterior written by Posterior.save, or cut short ({why}).") from error
        groups: dict[str, dict[str, np.ndarray]] = {"draws": {}, "stats": {}, "checkpoint": {}}
        for name, value in arrays.items():
            group, _, rest = name.partition("/")
            if rest:
                groups[group][rest] = value
        return cls(
            draws=groups["draws"],
            log_weights=arrays.get("log_weights"),
            sample_stats=groups["stats"],
            checkpoint=groups["checkpoint"] if header["has_checkpoint"] else None,
            dims={name: tuple(dims) for name, dims in header["dims"].items()},
            coords=header["coords"],
            warnings=tuple(header["warnings"]),
            **{name: header[name] for name in _SCALARS},
        )


_SCALARS = ("log_evidence", "log_evidence_sd", "method", "claim", "seconds", "is_partial", "model")


def _as_names(sites: Sequence[str] | str) -> list[str]:
    return [sites] if isinstance(sites, str) else list(sites)


def scalar_names(posterior: Posterior, site: str) -> list[str]:
    """Names of a site's scalars, `theta[school, 2]` style: coordinates where the axis has them, else indices."""
    shape = posterior[site].shape[2:]
    if not shape:
        return [site]
    dims = tuple(posterior.dims.get(site, ()))
    dims = (None,) * (len(shape) - len(dims)) + dims
    labels = []
    for size, dim in zip(shape, dims, strict=True):
        coords = posterior.coords.get(dim) if dim is not None else None
        labels.append([str(c) for c in coords] if coords is not None and len(coords) == size else range(size))
    return [
        f"{site}[{', '.join(str(axis[i]) for axis, i in zip(labels, index, strict=True))}]"
        for index in np.ndindex(*shape)
    ]
