"""NUTS on posteriors whose moments are known from long runs of other software."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.posteriordb_models import CASES, compare, read
from probinf.inference.infer import infer
from probinf.inference.nuts import NUTS

DATA = Path(__file__).parent / "data" / "reference"
NAMES = [name for name in CASES if (DATA / f"{name}.json").exists()]


def test_the_reference_files_are_there():
    assert len(NAMES) == 5


@pytest.mark.parametrize("name", NAMES)
def test_nuts_finds_the_known_posterior(name):
    """Means within 4 joint standard errors, sds within 4 of theirs: 37 scalars in all, false alarm below 0.5 %."""
    reference = read(DATA / f"{name}.json")
    settings = {"num_draws": 1000, **CASES[name].settings}
    posterior = infer(CASES[name].program(reference["data"]), NUTS(**settings), seed=1)
    found = compare(posterior, reference)
    known = reference["reference"]["summary"]
    assert found.names == tuple(known)
    assert found.means_apart.max() < 4.0, found.worst_mean
    assert (np.abs(found.sd_ratio - 1.0) < 4.0 * found.sd_errors).all(), found.worst_sd
    assert found.sd_errors.max() < 0.05
