"""Gaussian blobs in the plane: five binary tasks for methods that cannot take images."""

from __future__ import annotations

import numpy as np

from continual.datasets import Examples
from continual.streams import Task, TaskStream
from probinf.arguments import positive_integer

# Centre and standard deviations of each task's label 0, then of its label 1.
_BLOBS = (
    (((0.00, 0.20), (0.08, 0.22)), ((0.45, 0.00), (0.08, 0.16))),
    (((0.60, 0.90), (0.24, 0.08)), ((0.70, 0.45), (0.16, 0.08))),
    (((1.30, 0.40), (0.04, 0.20)), ((1.00, 0.10), (0.06, 0.16))),
    (((1.60, -0.10), (0.16, 0.05)), ((1.70, -0.40), (0.24, 0.05))),
    (((2.00, 0.30), (0.05, 0.16)), ((2.30, 0.10), (0.05, 0.22))),
)


def toy_gaussians(num_per_blob: int = 80, *, seed: int = 0) -> TaskStream:
    """Five tasks of two axis-aligned blobs, domain-incremental; test data are a second draw of the same size.

    Args:
        num_per_blob: examples of each label in each task.
        seed: of both draws.

    References:
        Pan et al. (2020), Continual deep learning by functional regularisation of memorable past;
        Kessler et al. (2023), On sequential Bayesian inference for continual learning, section 3.
    """
    size = positive_integer("num_per_blob", num_per_blob)
    tasks = []
    for k, blobs in enumerate(_BLOBS):
        parts = []
        for draw in range(2):
            rng = np.random.default_rng([seed, k, draw])
            inputs = np.concatenate([rng.normal(centre, spread, (size, 2)) for centre, spread in blobs])
            order = rng.permutation(2 * size)
            parts.append(Examples(inputs[order], np.repeat([0, 1], size)[order]))
        nothing = Examples(np.zeros((0, 2)), np.zeros(0, int))
        tasks.append(Task(f"blobs {k}", parts[0], nothing, parts[1], (0, 1)))
    return TaskStream("toy-gaussians", "domain", tuple(tasks), 2)
