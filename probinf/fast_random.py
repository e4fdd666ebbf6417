"""Keys of a fast generator; JAX's own default (threefry) stays the library's."""

from __future__ import annotations

import jax
import numpy as np

from probinf.errors import ArgumentError

NAME = "philox4x32"


def fast_key(seed: int) -> jax.Array:
    """A key of Philox4x32, JAX's counter-based generator built on multiplications (Salmon et al. 2011).

    (JAX's Philox2x32 is a little faster, but has keys of 32 bits: among 10^5 keys some are equal.)

    Everything that takes a key takes it, in `jax.random` (Poisson numbers excepted) and in the whole library. On a CPU
    it draws normal numbers about twice as fast as the default, and drawing is half the cost of a particle filter;
    filters of a whole series draw faster still, by other rounds from its words (`smc.paired_threefry`).
    `benchmarks/random_quality.py` tests what both draw.

    Args:
        seed: non-negative integer.

    Raises:
        ArgumentError: another seed, or a JAX before 0.10.2, which lacks the generator.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ArgumentError(f"seed: expected a non-negative integer, found {seed!r}.")
    try:
        return jax.random.key(int(seed), impl=NAME)
    except ValueError:
        raise ArgumentError(
            f"fast_key: JAX {jax.__version__} has no generator {NAME!r}; it came with JAX 0.10.2. Update JAX, or use "
            "jax.random.key(seed)."
        ) from None
