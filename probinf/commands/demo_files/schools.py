"""Eight schools: how much does coaching raise a test's score, given an estimate and its standard error for each?"""

from typing import Any

import numpyro.distributions as dist

import probinf as pi


@pi.model
def schools(error: Any, effect: Any) -> None:
    """A hierarchy: schools differ by `spread` around `mean`, and `effect` is what was measured."""
    mean = pi.sample("mean", dist.Normal(0.0, 10.0))
    spread = pi.sample("spread", dist.HalfCauchy(5.0))
    with pi.plate("school", len(effect)):
        offset = pi.sample("offset", dist.Normal(0.0, 1.0))
        true_effect = pi.deterministic("true_effect", mean + spread * offset)
        pi.sample("effect", dist.Normal(true_effect, error), obs=effect)
