"""Exact comparison of finite measures on whole traces, the law of a particle algorithm among them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from probinf.language.program import Program
from probinf.representations.population import Population
from probinf.transformations.algorithms import enumerate_program
from probinf.transformations.enumeration import FiniteMeasure


def atoms(measure: FiniteMeasure) -> tuple[np.ndarray, np.ndarray]:
    """Masses (A,) and values (A, D) of a measure; a population stands for its weighted particles, at any depth.

    World w with probability P(w), pushed scores F(w) and particles x_i of weight W_i contributes
    P(w) exp(F(w)) exp(collected) W_i / N to x_i.
    """
    log_masses, values = np.asarray(measure.log_weights), measure.values
    while isinstance(values, Population):
        inner = np.asarray(values.log_weights)
        collected = np.asarray(values.collected)
        log_masses = (log_masses + collected)[..., None] + inner - np.log(inner.shape[-1])
        values = values.particles
    depth = log_masses.ndim
    leaves = [np.asarray(x, float) for x in jax.tree.leaves(values)]
    columns = [x.reshape(log_masses.size, int(np.prod(x.shape[depth:]))) for x in leaves]
    table = np.concatenate(columns, axis=1) if columns else np.zeros((log_masses.size, 0))
    return np.exp(log_masses).reshape(-1), np.nan_to_num(np.round(table, 9), nan=-99.0)


def discrepancy(a: FiniteMeasure, b: FiniteMeasure) -> tuple[float, float]:
    """Largest difference in the mass of any whole trace, and the scale of rounding: max(Z, sum of path weights)."""
    (mass_a, value_a), (mass_b, value_b) = atoms(a), atoms(b)
    scale = float(max(mass_a.sum(), mass_b.sum()))
    if not len(mass_a) + len(mass_b):
        return 0.0, 0.0
    _, where = np.unique(np.concatenate([value_a, value_b]), axis=0, return_inverse=True)
    net = np.bincount(where.reshape(-1), weights=np.concatenate([mass_a, -mass_b]))
    return float(np.abs(net).max()), scale


def farthest(a: FiniteMeasure, b: FiniteMeasure) -> tuple[Any, float, float]:
    """The result whose masses differ the most, with its mass under each of the two measures."""
    masses, values = zip(atoms(a), atoms(b), strict=True)
    size = len(masses[0])
    rows, where = np.unique(np.concatenate(values), axis=0, return_inverse=True)
    first = np.bincount(where.reshape(-1)[:size], weights=masses[0], minlength=len(rows))
    second = np.bincount(where.reshape(-1)[size:], weights=masses[1], minlength=len(rows))
    worst = int(np.argmax(np.nan_to_num(np.abs(first - second), nan=np.inf)))
    return tuple(rows[worst].tolist()), float(first[worst]), float(second[worst])


def assert_same_measure(program: Program, reference: Program | FiniteMeasure) -> int:
    """Assert that two programs denote the same measure, entrywise; returns the number of worlds of the first.

    The tolerance is 1e-12 times the sum of absolute path weights; when that is zero every entry must be zero.
    """
    law = enumerate_program(program)
    known = reference if isinstance(reference, FiniteMeasure) else enumerate_program(reference)
    error, scale = discrepancy(law, known)
    assert np.isfinite(error), f"{program.name}: the law holds NaN or infinite masses"
    assert error <= 1e-12 * scale, f"{program.name}: the measures differ by {error:.3g} (total mass {scale:.6g})"
    return len(law.log_weights)
