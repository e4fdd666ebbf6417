"""Kalman smoothing in parallel rounds against the step-by-step form, and that against the joint Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import probinf as pi
import smc

DIM, OUT, STEPS = 3, 2, 7


def matrices(seed=0, varying=True):
    rng = np.random.default_rng(seed)

    def cov(*shape):
        a = rng.normal(size=(*shape, shape[-1]))
        return a @ np.swapaxes(a, -1, -2) + 0.1 * np.eye(shape[-1])

    lead = (STEPS - 1,) if varying else ()
    sight = (STEPS,) if varying else ()
    initial = smc.Gaussian(rng.normal(size=DIM), cov(DIM))
    transition = smc.LinearGaussian(
        0.6 * rng.normal(size=(*lead, DIM, DIM)), cov(*lead, DIM), rng.normal(size=(*lead, DIM))
    )
    observation = smc.LinearGaussian(
        rng.normal(size=(*sight, OUT, DIM)), cov(*sight, OUT), rng.normal(size=(*sight, OUT))
    )
    return initial, transition, observation, rng.normal(size=(STEPS, OUT))


def joint_gaussian(initial, transition, observation, ys):
    """Smoothed moments and evidence by conditioning the stacked normal vector on what was observed."""
    mean, cov = np.zeros((STEPS, DIM)), np.zeros((STEPS, DIM, STEPS, DIM))
    mean[0], cov[0, :, 0, :] = initial.mean, initial.cov
    for t in range(1, STEPS):
        F, Q, b = (x[t - 1] if np.ndim(x) == n + 1 else x for x, n in zip(transition, (2, 2, 1), strict=True))
        mean[t] = F @ mean[t - 1] + b
        for s in range(t):
            cov[t, :, s, :] = F @ cov[t - 1, :, s, :]
            cov[s, :, t, :] = cov[t, :, s, :].T
        cov[t, :, t, :] = F @ cov[t - 1, :, t - 1, :] @ F.T + Q
    H = np.zeros((STEPS, OUT, STEPS, DIM))
    R, c = np.zeros((STEPS, OUT, STEPS, OUT)), np.zeros((STEPS, OUT))
    for t in range(STEPS):
        h, r, o = (x[t] if np.ndim(x) == n + 1 else x for x, n in zip(observation, (2, 2, 1), strict=True))
        H[t, :, t, :], R[t, :, t, :], c[t] = h, r, o
    n, p = STEPS * DIM, STEPS * OUT
    m, P, H, R, c, y = mean.ravel(), cov.reshape(n, n), H.reshape(p, n), R.reshape(p, p), c.ravel(), ys.ravel()
    seen = ~np.isnan(y)
    H, R, c, y = H[seen], R[np.ix_(seen, seen)], c[seen], y[seen]
    S = H @ P @ H.T + R
    gap = y - H @ m - c
    gain = np.linalg.solve(S, H @ P).T
    post = P - gain @ H @ P
    evidence = -0.5 * (gap @ np.linalg.solve(S, gap) + np.linalg.slogdet(2 * np.pi * S)[1])
    blocks = post.reshape(STEPS, DIM, STEPS, DIM)
    return (m + gain @ gap).reshape(STEPS, DIM), np.stack([blocks[t, :, t] for t in range(STEPS)]), evidence


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("varying", [False, True])
def test_both_forms_are_conditioning_of_the_joint_gaussian(parallel, varying):
    initial, transition, observation, ys = matrices(1, varying)
    ys[2, 0], ys[4] = np.nan, np.nan
    found = smc.kalman_smoother(initial, transition, observation, ys, parallel=parallel, missing="nan")
    mean, cov, evidence = joint_gaussian(initial, transition, observation, ys)
    np.testing.assert_allclose(found.mean, mean, atol=1e-10)
    np.testing.assert_allclose(found.cov, cov, atol=1e-10)
    assert float(found.log_evidence) == pytest.approx(evidence, abs=1e-10)
    np.testing.assert_allclose(found.filtered_mean[-1], mean[-1], atol=1e-10)


def test_the_two_forms_agree_on_a_long_series_and_in_their_derivatives():
    rng = np.random.default_rng(0)
    ys = rng.normal(size=(500, 1))

    def evidence(drift, parallel):
        return smc.kalman_smoother(
            smc.Gaussian(jnp.zeros(2), jnp.eye(2)),
            smc.LinearGaussian(jnp.array([[1.0, 1.0], [0.0, 1.0]]), drift * jnp.eye(2)),
            smc.LinearGaussian(jnp.array([[1.0, 0.0]]), jnp.eye(1)),
            ys,
            parallel=parallel,
        ).log_evidence

    by_step, rounds = (jax.value_and_grad(evidence)(0.1, parallel) for parallel in (False, True))
    np.testing.assert_allclose(rounds, by_step, rtol=1e-9)


def test_small_matrices_are_factorised_without_lapack_calls_that_could_wait_for_each_other():
    initial, transition, observation, ys = matrices(2, varying=False)
    text = str(jax.make_jaxpr(lambda y: smc.kalman_smoother(initial, transition, observation, y, parallel=True))(ys))
    assert "cholesky" not in text
    assert "triangular_solve" in text  # that of (I + C J)^-1, which waits for nothing else


def test_one_observation():
    initial, transition, observation, ys = matrices(2, varying=False)
    found = [smc.kalman_smoother(initial, transition, observation, ys[:1], parallel=p) for p in (False, True)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), *found)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ys": np.zeros(3)}, r"ys: expected observations of shape \(T, p\)"),
        (
            {"ys": np.array([[0.0, 1.0], [np.nan, 1.0]])},
            r"ys: 1 values are not finite, the first \(nan\) at step 1",
        ),
        ({"ys": np.array([[0.0, np.inf]]), "missing": "nan"}, r"the first \(inf\) at step 0, coordinate 1\."),
        ({"missing": "skip"}, "missing: expected 'error' or 'nan'"),
        (
            {"transition": smc.LinearGaussian(np.eye(2), np.eye(3))},
            r"transition: matrix of shape \(3, 3\) or \(6",
        ),
        ({"observation": smc.LinearGaussian(np.ones((2, 3)), np.eye(3))}, r"observation: noise of shape \(2, 2\)"),
    ],
)
def test_bad_input(change, message):
    initial, transition, observation, ys = matrices(0, varying=False)
    call = {"transition": transition, "observation": observation, "ys": ys, **change}
    with pytest.raises(pi.ProbinfError, match=message):
        smc.kalman_smoother(initial, call.pop("transition"), call.pop("observation"), call.pop("ys"), **call)
