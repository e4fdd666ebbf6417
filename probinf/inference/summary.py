"""The table that a posterior prints, and its verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from probinf.inference.diagnostics import (
    Diagnostics,
    diagnose,
    distinct_values,
    e_bfmi,
    kish_ess,
    merged_ess,
    weighted_quantiles,
)
from probinf.inference.method import check_count

if TYPE_CHECKING:
    from probinf.inference.posterior import Posterior

#: Vehtari et al. (2021): R-hat at most 1.01, and 100 effective draws for each chain.
R_HAT_LIMIT, ESS_PER_CHAIN = 1.01, 100
#: The rule is for a handful of chains. In an ensemble R-hat alone asks for some 50 effective draws in each chain; means
#: over all chains are good long before every chain has 100.
_CHAINS_COUNTED = 8
_E_BFMI_LIMIT, _EVIDENCE_SD_LIMIT = 0.3, 1.0


@dataclasses.dataclass(frozen=True, repr=False)
class Summary:
    """Estimates and diagnostics of scalars, in the order of `names`; it prints as a table with a verdict.

    Attributes:
        names: scalars, such as `theta[3]`.
        sites: the site of each.
        columns: heading -> one value for each scalar; NaN where it cannot be computed.
        constant: whether all draws of the scalar are equal.
        verdict: lines in plain words; the first says whether anything is wrong.
        is_trustworthy: no reason for caution was found.
    """

    title: str
    names: tuple[str, ...]
    sites: tuple[str, ...]
    columns: dict[str, np.ndarray]
    constant: np.ndarray
    verdict: tuple[str, ...]
    is_trustworthy: bool
    max_rows: int

    def __getitem__(self, heading: str) -> np.ndarray:
        from probinf.errors import UnknownNameError

        if heading not in self.columns:
            raise UnknownNameError(heading, self.columns, "column", "the summary")
        return self.columns[heading]

    def __str__(self) -> str:
        rows = _rows_shown(self.sites, self.max_rows)
        shown = {site: sum(1 for i in rows if self.sites[i] == site) for site in self.sites}
        width = max([len(self.names[i]) for i in rows] + [4])
        lines = [self.title, " " * width + "".join(f"{heading:>10}" for heading in self.columns)]
        for n, i in enumerate(rows):
            cells = [_cell(heading, self.columns[heading][i], bool(self.constant[i])) for heading in self.columns]
            lines.append(f"{self.names[i]:<{width}}" + "".join(f"{cell:>10}" for cell in cells))
            site = self.sites[i]
            if n + 1 == len(rows) or self.sites[rows[n + 1]] != site:
                left = self.sites.count(site) - shown[site]
                if left:
                    lines.append(f"  ... {left} more of {site!r}: summary(sites=[{site!r}], max_rows=...)")
        hidden = sorted(set(self.sites) - {self.sites[i] for i in rows})
        if hidden:
            lines.append(f"  ... and {len(hidden)} more site(s), such as {hidden[0]!r}")
        return "\n".join([*lines, *self.verdict])

    __repr__ = __str__


def _cell(heading: str, value: float, constant: bool) -> str:
    if heading in ("R-hat", "ESS bulk", "ESS tail", "MCSE") and np.isnan(value):
        return "constant" if constant else "-"
    if heading == "R-hat":
        return f"{value:.3f}"
    if heading in ("ESS bulk", "ESS tail", "distinct"):
        return f"{value:.0f}"
    return f"{value:.2g}" if heading == "MCSE" else f"{value:.4g}"


def _rows_shown(sites: Sequence[str], max_rows: int) -> list[int]:
    """Which rows to print: small sites in full first, large ones share what is left; order kept."""
    places: dict[str, list[int]] = {}
    for i, site in enumerate(sites):
        places.setdefault(site, []).append(i)
    left, chosen = max_rows, []
    by_size = sorted(places.values(), key=len)
    for n, rows in enumerate(by_size):
        share = min(len(rows), max(left // (len(by_size) - n), 1 if left else 0))
        chosen.extend(rows[:share])
        left -= share
    return sorted(chosen)


def summarise(posterior: Posterior, sites: Sequence[str] | None, max_rows: int) -> Summary:
    """Build the summary of a posterior; the diagnostics cover every scalar of `sites`."""
    from probinf.inference.posterior import scalar_names

    check_count("max_rows", max_rows)
    chosen = posterior.sites if sites is None else tuple(sites)
    matrix, _ = posterior.matrix(chosen)
    labels = [(site, name) for site in chosen for name in scalar_names(posterior, site)]
    names = tuple(name for _, name in labels)
    by_chain = matrix.reshape(posterior.num_chains, posterior.num_draws, -1)
    build = _equal_weights if posterior.log_weights is None else _weighted
    columns, constant, faults = build(posterior, matrix, by_chain, names)
    bad = ~np.isfinite(matrix)
    if bad.any():
        first = names[int(np.argmax(bad.any(axis=0)))]
        faults.insert(0, f"{int(bad.sum())} value(s) are not finite, first in {first}: not usable.")
    faults.extend(posterior.warnings)
    verdict = [f"! {fault}" for fault in faults] or ["No problem found." + _reassurance(columns)]
    evidence = _evidence(posterior)
    size = f"{posterior.num_chains} x {posterior.num_draws} draws"
    partial = ", interrupted" if posterior.is_partial else ""
    title = f"{posterior.model}: {posterior.method} ({posterior.claim}), {size}{partial}, {posterior.seconds:.1f} s"
    return Summary(
        title,
        names,
        tuple(site for site, _ in labels),
        columns,
        constant,
        tuple(verdict + evidence),
        not faults and not any(line.startswith("!") for line in evidence),
        max_rows,
    )


def _equal_weights(
    posterior: Posterior, matrix: np.ndarray, by_chain: np.ndarray, names: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    found = diagnose(by_chain)
    sd = matrix.std(axis=0, ddof=1) if matrix.shape[0] > 1 else np.full(matrix.shape[1], np.nan)
    low, high = np.quantile(matrix, [0.05, 0.95], axis=0)
    columns = {
        "mean": matrix.mean(axis=0),
        "sd": sd,
        "5%": low,
        "95%": high,
        "MCSE": found.mcse_mean,
        "ESS bulk": found.ess_bulk,
        "ESS tail": found.ess_tail,
        "R-hat": found.r_hat,
    }
    return columns, found.is_constant, _chain_faults(posterior, found, names)


def _chain_faults(posterior: Posterior, found: Diagnostics, names: tuple[str, ...]) -> list[str]:
    faults = []
    if posterior.num_draws < 8:
        faults.append(f"{posterior.num_draws} draw(s) in a chain: ESS is not computable from fewer than 8; run longer.")
    if posterior.num_chains == 1:
        faults.append("One chain: R-hat is not computable, so nothing shows whether it has converged; run at least 4.")
    constant = np.flatnonzero(found.is_constant)
    if constant.size:
        more = f" and {constant.size - 1} more" if constant.size > 1 else ""
        faults.append(f"Constant: {names[constant[0]]}{more} never moved; not a sign of convergence.")
    stuck = np.flatnonzero((found.stuck_chains > 0) & ~found.is_constant)
    if stuck.size:
        faults.append(
            f"{int(found.stuck_chains[stuck].max())} chain(s) never moved (seen in {names[stuck[0]]}): not usable."
        )
    over = np.flatnonzero(found.r_hat > R_HAT_LIMIT)
    if over.size:
        worst = int(np.nanargmax(found.r_hat))
        faults.append(
            f"R-hat {found.r_hat[worst]:.2f} ({names[worst]}; {over.size} above {R_HAT_LIMIT}): do not trust yet; "
            "run longer."
        )
    for kind, ess in (("Bulk", found.ess_bulk), ("Tail", found.ess_tail)):
        needed = ESS_PER_CHAIN * min(posterior.num_chains, _CHAINS_COUNTED)
        if np.any(ess < needed):
            worst = int(np.nanargmin(ess))
            faults.append(
                f"{kind} ESS {ess[worst]:.0f} ({names[worst]}), below {needed}: estimates are rough; run longer."
            )
    energy = posterior.sample_stats.get("energy")
    if energy is not None and energy.shape[1] >= 4:
        fraction = e_bfmi(np.asarray(energy, np.float64))
        if np.any(fraction < _E_BFMI_LIMIT):
            faults.append(
                f"E-BFMI {np.nanmin(fraction):.2f}, below {_E_BFMI_LIMIT}: heavy tails or a funnel are explored "
                "slowly; reparameterise."
            )
    return faults


def _weighted(
    posterior: Posterior, matrix: np.ndarray, by_chain: np.ndarray, names: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    weights = posterior.weights.reshape(-1)
    mean = weights @ matrix
    sd = np.sqrt(weights @ (matrix - mean[None, :]) ** 2)
    low, high = weighted_quantiles(matrix, weights, np.array([0.05, 0.95]))
    ess = kish_ess(np.asarray(posterior.log_weights))
    distinct = distinct_values(matrix, weights)
    # Integers repeat by nature; equal real numbers are copies that resampling made.
    effective = np.array(
        [ess if np.all(c == np.round(c)) else m for c, m in zip(matrix.T, merged_ess(matrix, weights), strict=True)]
    )
    columns = {
        "mean": mean,
        "sd": sd,
        "5%": low,
        "95%": high,
        "MCSE": np.where(distinct > 1, sd / np.sqrt(effective), np.nan),
        "ESS Kish": np.full(len(names), ess),
        "distinct": distinct.astype(np.float64),
    }
    faults = []
    if ess < ESS_PER_CHAIN:
        faults.append(
            f"Effective draws {ess:.1f} of {weights.size}: a few draws carry all the weight; use more particles."
        )
    constant = distinct == 1
    if constant.any():
        faults.append(f"Constant: {names[int(np.argmax(constant))]} has one value left; not a sign of convergence.")
    few = np.flatnonzero((distinct < min(ESS_PER_CHAIN, weights.size)) & ~constant)
    if few.size:
        worst = int(few[np.argmin(distinct[few])])
        faults.append(f"{names[worst]} has {int(distinct[worst])} distinct values left: it needs moves (rejuvenation).")
    return columns, constant, faults


def _reassurance(columns: dict[str, np.ndarray]) -> str:
    if "R-hat" in columns:
        ess = min(np.nanmin(columns["ESS bulk"]), np.nanmin(columns["ESS tail"]))
        return f" R-hat at most {np.nanmax(columns['R-hat']):.3f}, ESS at least {ess:.0f}."
    return f" Effective draws {columns['ESS Kish'][0]:.0f}, distinct values at least {columns['distinct'].min():.0f}."


def _evidence(posterior: Posterior) -> list[str]:
    if posterior.log_evidence is None:
        return []
    if posterior.log_evidence_sd is None:
        return [f"Log evidence {posterior.log_evidence:.3f} nats, error unknown (one run)."]
    sd = posterior.log_evidence_sd
    lines = [f"Log evidence {posterior.log_evidence:.3f} +- {sd:.2g} nats (standard error)."]
    if not sd <= _EVIDENCE_SD_LIMIT:
        lines.append(f"! The error of the log evidence is {sd:.2g}, above {_EVIDENCE_SD_LIMIT:g}: use more particles.")
    return lines
