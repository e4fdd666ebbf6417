"""Every kind of result becomes a posterior or an ArviZ tree with names, dimensions, weights and evidence."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
import smc

YS = jnp.array([0.3, -0.2, 0.8, 1.1])


class Walk(smc.StateSpaceModel):
    """A random walk seen with noise."""

    def initial(self):
        return dist.Normal(0.0, 1.0)

    def transition(self, x, t):
        return dist.Normal(x, 0.5)

    def observation(self, x, t):
        return dist.Normal(x, 0.7)


@pytest.fixture(scope="module")
def filtered():
    return smc.particle_filter(Walk(), YS, 1, num_particles=400)


def test_the_last_population_is_a_weighted_posterior(filtered):
    posterior = filtered.to_posterior("level")
    assert posterior["level"].shape == (1, 400)
    np.testing.assert_allclose(posterior.mean("level"), filtered.mean[-1], rtol=1e-10)
    np.testing.assert_allclose(posterior.sd("level") ** 2, filtered.variance[-1], rtol=1e-10)
    assert posterior.to_arviz().attrs["log_evidence"] == float(filtered.log_evidence)


def test_smoothed_paths_are_a_posterior_with_an_axis_of_time():
    smoothed = smc.smooth(Walk(), YS, 1, method=smc.BackwardSampling(num_paths=50), num_particles=100)
    posterior = smoothed.to_posterior()
    assert posterior["x"].shape == (1, 50, 4)
    np.testing.assert_allclose(posterior.mean("x"), smoothed.mean, rtol=1e-10)
    tree = posterior.to_arviz()
    assert tree["posterior"]["x"].sizes["draw"] == 50
    assert "log_weight" in tree["sample_stats"]


def test_smoothed_marginals_are_no_paths():
    marginal = smc.smooth(Walk(), YS, 1, method=smc.MarginalSmoothing(), num_particles=50)
    with pytest.raises(pi.ModelError, match="single times"):
        marginal.to_posterior()


def test_a_filters_run_is_a_tree_over_events():
    system = pi.System(
        prior=dist.Normal(jnp.zeros(2), 1.0).to_event(1),
        move=lambda x, dt: dist.Normal(x, jnp.sqrt(dt)).to_event(1),
        see={"gps": lambda x: dist.Normal(x, 0.5).to_event(1), "height": lambda x: dist.Normal(x[0], 0.1)},
    )
    log = pi.Log([(0.5, "gps", [0.1, 0.2]), (1.0, "height", 0.3), (2.0, "gps", [0.2, 0.1])])
    run = system.filter(smc.EKF()).run(log)
    tree = run.to_arviz()
    assert tree["filtered"]["mean"].dims == ("event", "state")
    np.testing.assert_array_equal(tree["filtered"]["mean"], run.means)
    np.testing.assert_allclose(tree["filtered"]["sd"] ** 2, jax.vmap(jnp.diagonal)(run.covs))
    assert list(tree["filtered"]["sensor"].values) == ["gps", "height", "gps"]
    assert list(tree["filtered"]["time"].values) == [0.5, 1.0, 2.0]
    np.testing.assert_array_equal(tree["sample_stats"]["nis"], run.info.nis)
    assert tree.attrs["log_evidence"] == float(run.log_evidence)
    assert tree.attrs["claim"] == run.claim
