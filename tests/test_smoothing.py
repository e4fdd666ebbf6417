"""Particle smoothing: backward laws entry by entry, joint measures by enumeration, moments against exact smoothers."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinf as pi
import smc
from probinf.errors import ArgumentError, ArgumentTypeError, InferenceError, ModelError, UnknownNameError
from smc.filtering import FilterRun, History, particle_filter
from smc.smoothing import backward_weights as bw
from smc.smoothing import rejection
from smc.smoothing.metropolis import accepts
from smc.smoothing.pairs import TransitionDensities, log_peaks
from smc.smoothing.search import InverseCdf, block_size, search
from smc.state_space_model import StateSpaceModel
from tests.compile_count import compiled


class Walk(StateSpaceModel):
    persistence: float = 0.9

    def initial(self):
        return dist.Normal(0.5, 1.5)

    def transition(self, t, x):
        return dist.Normal(self.persistence * x, 0.7)

    def observation(self, t, x):
        return dist.Normal(x, 0.8)


class Weather(StateSpaceModel):
    """Two states, two observations: everything can be enumerated."""

    def initial(self):
        return dist.CategoricalProbs(jnp.array([0.3, 0.7]))

    def transition(self, t, x):
        return dist.CategoricalProbs(jnp.array([[0.8, 0.2], [0.35, 0.65]])[x])

    def observation(self, t, x):
        return dist.CategoricalProbs(jnp.array([[0.9, 0.1], [0.25, 0.75]])[x])


class LawsOfTwo(StateSpaceModel):
    """Transitions of a state of two entries, one kind after the other."""

    kind: str

    def initial(self):
        return dist.Normal(jnp.zeros(2), 1.0).to_event(1)

    def transition(self, t, x):
        loc = jnp.stack([0.8 * x[0] + jnp.sin(x[1]), 0.1 * t + x[1]])
        if self.kind == "independent":
            return dist.Normal(loc, jnp.exp(0.1 * x)).to_event(1)
        if self.kind == "one scale":
            return dist.Normal(loc, 0.4).to_event(1)
        if self.kind == "dense":
            return dist.MultivariateNormal(loc, jnp.array([[1.0, 0.6], [0.6, 0.9]]))
        if self.kind == "dense, of its own":
            return dist.MultivariateNormal(loc, scale_tril=jnp.array([[1.0, 0.0], [0.6, 0.9]]) * jnp.exp(x[0]))
        if self.kind == "student":
            return dist.StudentT(4.0, loc, 0.5).to_event(1)
        if self.kind == "positive":
            return dist.Gamma(jnp.exp(x), 1.5).to_event(1)
        return dist.Normal(jnp.zeros(2), 1.0).to_event(1)  # forgets the past

    def observation(self, t, x):
        return dist.Normal(x[0], 1.0)


class Overridden(Walk):
    def log_transition(self, t, x_before, x):
        return -jnp.abs(x - x_before) * (1.0 + jnp.asarray(t).astype(x.dtype))


KINDS = ["independent", "one scale", "dense", "dense, of its own", "student", "positive", "forgets"]


@pytest.mark.parametrize("kind", KINDS)
def test_prepared_densities_are_the_models_own(kind, key):
    model, t = LawsOfTwo(kind), jnp.asarray(3)
    k1, k2, k3 = jax.random.split(key, 3)
    before, after = jax.random.normal(k1, (7, 2)), jax.random.normal(k2, (5, 2))
    index = jax.random.randint(k3, (5,), 0, 7)

    @jax.jit
    def found(t, before, after, index):
        made = TransitionDensities.of(model, t, before)
        return made.all_pairs(after), made.matched(index, after)

    pairs, matched = found(t, before, after, index)
    over_particles = jax.vmap(model.log_transition, in_axes=(None, 0, None))
    expected = np.asarray(jax.jit(jax.vmap(over_particles, in_axes=(None, None, 0)))(t, before, after))
    np.testing.assert_allclose(pairs, expected, rtol=1e-12)
    np.testing.assert_allclose(matched, expected[np.arange(5), np.asarray(index)], rtol=1e-12)


def test_a_model_that_overrides_its_transition_density_is_asked_for_it():
    model, t = Overridden(), jnp.asarray(2)
    made = TransitionDensities.of(model, t, jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(made.all_pairs(jnp.array([3.0])), [[-9.0, -6.0]])
    assert log_peaks(model, t, jnp.zeros(2)) is None


def test_parameters_that_all_particles_share_are_kept_once():
    leaves = jax.eval_shape(
        lambda x: TransitionDensities.of(LawsOfTwo("dense"), jnp.asarray(1), x).leaves, jnp.zeros((9, 2))
    )
    assert [leaf.shape for leaf in leaves] == [(), (9,), (9,), (), (), ()]


@jax.jit
def draws_of_rows(log_weights, uniforms):
    return jax.vmap(lambda w, u: InverseCdf.of(w)(u))(log_weights, uniforms)


@pytest.mark.parametrize("num", [1, 2, 3, 33, 1000])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_two_level_search_is_the_inverse_cdf(num, dtype):
    """Whole-number weights add up without rounding, so every index must agree, boundaries included."""
    rng = np.random.default_rng(num)
    weights = rng.integers(0, 4, (200, num)) * (rng.random((200, num)) < 0.6)
    total = np.full(200, 4096)  # a power of two: uniforms k / 4096 hit the boundaries exactly
    weights[np.arange(200), rng.integers(0, num, 200)] += total - weights.sum(axis=1)
    steps = rng.integers(0, total)
    for shift in (0.0, 0.5):
        uniforms = (steps + shift) / total
        target = np.asarray(uniforms.astype(dtype) * total.astype(dtype))
        expected = [np.searchsorted(np.cumsum(w), x, side="right") for w, x in zip(weights, target, strict=True)]
        found = jax.jit(search)(jnp.asarray(weights, dtype), jnp.asarray(uniforms, dtype))
        np.testing.assert_array_equal(found, expected)
    with np.errstate(divide="ignore"):  # `uniforms` now lie between the boundaries, which log and exp may move
        log_weights = jnp.asarray(np.log(weights), dtype)
    np.testing.assert_array_equal(draws_of_rows(log_weights, jnp.asarray(uniforms, dtype)), expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("num", [1, 2, 5, 1000])
def test_no_draw_has_weight_zero_whatever_the_uniform(dtype, num):
    rng = np.random.default_rng(num)
    weights = np.exp(rng.normal(0.0, 20.0, (300, num))) * (rng.random((300, num)) < 0.3)
    weights = weights / np.maximum(weights.max(axis=1, keepdims=True), 1e-300)
    weights[np.arange(300), rng.integers(0, num, 300)] = 1.0
    weights = np.where(weights < 1e-30, 0.0, weights).astype(dtype)  # subnormal numbers count as zero in XLA
    one_below = 1.0 - np.finfo(dtype).epsneg
    find = jax.jit(search)
    for u in (0.0, one_below, 0.5):
        uniforms = jnp.full(300, u, dtype)
        with np.errstate(divide="ignore"):
            log_weights = jnp.asarray(np.log(weights))
        for found in (find(jnp.asarray(weights), uniforms), draws_of_rows(log_weights, uniforms)):
            assert (weights[np.arange(300), np.asarray(found)] > 0).all()
    first = np.argmax(weights > 0, axis=1)
    last = num - 1 - np.argmax((weights > 0)[:, ::-1], axis=1)
    np.testing.assert_array_equal(find(jnp.asarray(weights), jnp.zeros(300, dtype)), first)
    heavy_last = np.where(np.arange(num) == last[:, None], 1e3, weights).astype(dtype)
    np.testing.assert_array_equal(find(jnp.asarray(heavy_last), jnp.full(300, one_below, dtype)), last)


def test_blocks_are_about_as_many_as_they_are_long():
    assert [block_size(n) for n in (1, 2, 1000, 10**6)] == [1, 2, 32, 1024]


@pytest.mark.parametrize("at_once", [1, 7, 64, 10**6])
def test_blocks_of_successors_change_nothing(at_once, monkeypatch, key):
    monkeypatch.setattr(bw, "_PAIRS_AT_ONCE", {jax.default_backend(): at_once})
    model, t = Walk(), jnp.asarray(1)
    k1, k2, k3 = jax.random.split(key, 3)
    before, after = jax.random.normal(k1, (11,)), jax.random.normal(k2, (6,))
    log_weights = jnp.where(jnp.arange(11) == 4, -jnp.inf, jnp.linspace(-500.0, -400.0, 11))
    uniforms = jax.random.uniform(k3, (6,))
    index, sound = jax.jit(bw.backward_indices)(model, t, before, log_weights, after, uniforms)
    logits = np.asarray(jax.jit(bw.backward_log_weights)(model, t, before, log_weights, after))
    law = np.exp(logits - logits.max(axis=1, keepdims=True))
    law /= law.sum(axis=1, keepdims=True)
    expected = (np.cumsum(law, axis=1) <= np.asarray(uniforms)[:, None]).sum(axis=1)
    np.testing.assert_array_equal(index, expected)
    assert bool(sound)


# --- The joint measure, entry by entry -------------------------------------------------------------------------------

SEEN = jnp.array([0, 1, 1])


def joint_of_weather():
    """p(x_0, x_1, x_2, y) for all paths."""
    model = Weather()
    first = np.asarray(model.initial().probs)
    moves = np.array([model.transition(1, x).probs for x in (0, 1)])
    sees = np.array([model.observation(1, x).probs for x in (0, 1)])
    table = {}
    for path in itertools.product((0, 1), repeat=3):
        mass = first[path[0]] * np.prod([moves[a, b] for a, b in itertools.pairwise(path)])
        table[path] = mass * np.prod([sees[x, y] for x, y in zip(path, np.asarray(SEEN), strict=True)])
    return table


SETTINGS = {
    "resample when needed": {"threshold": 0.8},
    "always, multinomial": {"resample": "multinomial", "threshold": 1.0},
    "never": {"threshold": 0.0},
    "guided": {
        "threshold": 1.0,
        "proposal": smc.Guided(
            lambda model, t, x, y: dist.CategoricalProbs(jnp.array([[0.6, 0.4], [0.25, 0.75]])[y]),
            log_lookahead=lambda model, t, x, y: jnp.where(x == y, 0.3, -0.4),
        ),
    },
}


@functools.lru_cache(maxsize=8)
def executions(settings):
    """Every execution of the filter with two particles: probability times evidence estimate, and history."""
    program = smc.filter_program(Weather(), SEEN, num_particles=2, history=True, **SETTINGS[settings])
    measure = pi.enumerate_program(program)
    run = measure.values
    return np.exp(measure.log_weights + np.asarray(run.log_evidence)), run.history


@jax.jit
def backward_laws(history):
    """Law of each predecessor, (executions, T - 1, successor, predecessor), from the library's backward weights."""

    def step(t, before, log_weights, after):
        return jax.nn.softmax(bw.backward_log_weights(Weather(), t, before, log_weights, after), axis=1)

    times = jnp.arange(1, 3)
    one = jax.vmap(step)
    return jax.vmap(lambda x, w: one(times, x[:-1], w[:-1], x[1:]))(history.particles, history.log_weights)


@jax.jit
def metropolis_laws(history):
    """The same after one move from the ancestor, by the library's densities."""

    def step(t, before, log_weights, after, ancestors):
        densities = jnp.exp(TransitionDensities.of(Weather(), t, before).all_pairs(after))
        weights = jax.nn.softmax(log_weights)
        old = jnp.take_along_axis(densities, ancestors[:, None], axis=1)
        move = weights[None, :] * jnp.minimum(1.0, densities / old)
        stay = jax.nn.one_hot(ancestors, 2, dtype=move.dtype)
        move = jnp.where(stay == 1, 0.0, move)
        return move + stay * (1.0 - jnp.sum(move, axis=1, keepdims=True))

    times = jnp.arange(1, 3)
    one = jax.vmap(step)
    return jax.vmap(lambda x, w, a: one(times, x[:-1], w[:-1], x[1:], a[1:]))(
        history.particles, history.log_weights, history.ancestors
    )


def measure_of_paths(masses, history, laws):
    """Sum over executions of mass times the law of the path."""
    x = np.asarray(history.particles)
    last = normalised(np.asarray(history.log_weights)[:, -1])
    found = dict.fromkeys(itertools.product((0, 1), repeat=3), 0.0)
    for w, mass in enumerate(masses):
        for j0, j1, j2 in itertools.product((0, 1), repeat=3):
            path = (int(x[w, 0, j0]), int(x[w, 1, j1]), int(x[w, 2, j2]))
            found[path] += mass * last[w, j2] * laws[w, 1, j2, j1] * laws[w, 0, j1, j0]
    return found


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("laws", [backward_laws, metropolis_laws], ids=["exact", "one Metropolis move"])
def test_evidence_times_backward_path_is_the_joint_measure(settings, laws):
    """Averaged over all randomness of the filter, entry by entry (Chopin & Papaspiliopoulos 2020, chapter 12)."""
    masses, history = executions(settings)
    found = measure_of_paths(masses, history, np.asarray(laws(history)))
    for path, mass in joint_of_weather().items():
        np.testing.assert_allclose(found[path], mass, rtol=1e-10)


def test_filtering_weights_alone_have_another_measure():
    """The test above would notice backward weights without the transition density."""
    masses, history = executions("resample when needed")
    weights = normalised(np.asarray(history.log_weights))[:, :-1, None, :]
    found = measure_of_paths(masses, history, np.broadcast_to(weights, (len(masses), 2, 2, 2)))
    assert max(abs(found[path] - mass) for path, mass in joint_of_weather().items()) > 1e-3


def test_a_metropolis_move_accepts_by_the_ratio_of_densities():
    """At the two exponentials around the threshold; a path of density zero is always left, never entered."""
    new, old = jnp.array([-1.0, -1.0, -3.0, -jnp.inf, -jnp.inf]), jnp.array([-0.5, -0.5, -jnp.inf, -2.0, -jnp.inf])
    exponentials = jnp.array([0.5001, 0.4999, 100.0, 1e300, 0.0])  # P(exponential > 1/2) = exp(-1/2)
    np.testing.assert_array_equal(accepts(new, old, exponentials), [True, False, True, False, False])


# --- The law of paths given the history ------------------------------------------------------------------------------


def history_of(model, ys, num, key) -> FilterRun:
    return particle_filter(model, ys, key, num_particles=num, resample="multinomial", threshold=1.0, history=True)


def normalised(x, axis=-1):
    x = np.exp(np.asarray(x, float) - np.max(np.asarray(x), axis=axis, keepdims=True))
    return x / x.sum(axis=axis, keepdims=True)


def densities(model, t, before, after):
    """p(after[j] | before[i]) at [j, i], by the model's own log_transition."""
    over_particles = jax.vmap(model.log_transition, in_axes=(None, 0, None))
    return np.exp(np.asarray(jax.vmap(over_particles, in_axes=(None, None, 0))(t, before, after)))


def law_of_paths(model, run, kernel):
    """Exact law of (j_0, ..., j_{T-1}) for a rule given as (t, j) -> law of the predecessor."""
    steps, num = run.history.log_weights.shape
    last = normalised(run.history.log_weights[-1])
    law = {}
    for path in itertools.product(range(num), repeat=steps):
        mass = last[path[-1]]
        for t in range(steps - 1):
            mass *= kernel(t, path[t + 1])[path[t]]
        law[path] = mass
    return law


def backward_kernel(model, run):
    h = run.history
    tables = [densities(model, t + 1, h.particles[t], h.particles[t + 1]) for t in range(h.log_weights.shape[0] - 1)]

    def kernel(t, j):
        w = normalised(h.log_weights[t]) * tables[t][j]
        return w / w.sum()

    return kernel


def metropolis_kernel(model, run, moves):
    h = run.history
    tables = [densities(model, t + 1, h.particles[t], h.particles[t + 1]) for t in range(h.log_weights.shape[0] - 1)]

    def kernel(t, j):
        f = tables[t][j]
        w = normalised(h.log_weights[t])
        move = w[None, :] * np.minimum(1.0, f[None, :] / f[:, None])
        np.fill_diagonal(move, 0.0)
        move += np.diag(1.0 - move.sum(axis=1))
        return np.linalg.matrix_power(move, moves)[int(h.ancestors[t + 1][j])]

    return kernel


RULES = {
    "exact": (smc.BackwardSampling(40_000), backward_kernel),
    "rejection": (smc.BackwardSampling(40_000, "rejection"), backward_kernel),
    "rejection, two tries": (smc.BackwardSampling(40_000, "rejection", max_tries=2, bound=1.0), backward_kernel),
    "one move": (smc.BackwardSampling(40_000, "mcmc", moves=1), lambda m, r: metropolis_kernel(m, r, 1)),
    "three moves": (smc.BackwardSampling(40_000, "mcmc", moves=3), lambda m, r: metropolis_kernel(m, r, 3)),
}


@pytest.mark.parametrize("rule", RULES)
def test_paths_have_the_law_of_the_rule_given_the_history(rule, monkeypatch, key):
    """Chi-square over all 64 paths of 3 steps and 4 particles; false alarm 1e-6 a rule."""
    monkeypatch.setattr(rejection, "_TRY_IN_PAIRS", 0)  # so few particles would be weighed without a try
    model, ys = Walk(), jnp.array([0.3, 1.5, -0.2])
    run = history_of(model, ys, 4, jax.random.key(5))
    method, kernel = RULES[rule]
    law = law_of_paths(model, run, kernel(model, run))
    found = smc.smooth(model, ys, key, method=method, run=run)
    assert found.indices is not None
    counts: dict = dict.fromkeys(law, 0)
    for path in np.asarray(found.indices).T:
        counts[tuple(path.tolist())] += 1
    expected = np.array(list(law.values())) * 40_000
    observed = np.array(list(counts.values()))
    assert observed[expected == 0].sum() == 0
    common = expected > 5
    observed = np.append(observed[common], observed[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    statistic = ((observed - expected) ** 2 / np.maximum(expected, 1e-3)).sum()
    assert stats.chi2.sf(statistic, len(expected) - 1) > 1e-6


def test_marginal_weights_are_the_sums_over_all_backward_paths():
    model, ys = Walk(), jnp.array([0.3, 1.5, -0.2, 0.9])
    run = history_of(model, ys, 5, jax.random.key(7))
    law = law_of_paths(model, run, backward_kernel(model, run))
    expected = np.zeros((4, 5))
    for path, mass in law.items():
        expected[np.arange(4), path] += mass
    found = smc.smooth(model, ys, method=smc.MarginalSmoothing(), run=run)
    np.testing.assert_allclose(normalised(found.log_weights), expected, rtol=1e-9)
    np.testing.assert_allclose(found.mean, (expected * np.asarray(run.history.particles)).sum(axis=1), rtol=1e-9)


@pytest.mark.parametrize("at_once", [1, 13])
def test_marginal_weights_do_not_depend_on_the_blocks(at_once, monkeypatch):
    model, ys = Walk(), jnp.array([0.3, 1.5, -0.2, 0.9])
    run = history_of(model, ys, 7, jax.random.key(7))
    plain = smc.smooth(model, ys, method=smc.MarginalSmoothing(), run=run)
    monkeypatch.setattr(bw, "_PAIRS_AT_ONCE", {jax.default_backend(): at_once})
    jax.clear_caches()
    cut = smc.smooth(model, ys, method=smc.MarginalSmoothing(), run=run)
    jax.clear_caches()
    np.testing.assert_allclose(cut.log_weights, plain.log_weights, rtol=1e-9)


def traced(ancestors, at, to):
    index = np.arange(ancestors.shape[1])
    for t in range(at, to, -1):
        index = ancestors[t][index]
    return index


@pytest.mark.parametrize("lag", [1, 3, 40])
def test_genealogy_and_fixed_lag_follow_the_ancestors(lag):
    _, ys = Walk().simulate(3, 9)
    run = particle_filter(Walk(), ys, 2, num_particles=20, history=True)
    history = run.history
    assert history is not None
    x, a, lw = (np.asarray(v) for v in (history.particles, history.ancestors, history.log_weights))
    tree = smc.smooth(Walk(), ys, method=smc.Genealogy(), run=run)
    lagged = smc.smooth(Walk(), ys, method=smc.FixedLag(lag), run=run)
    for t in range(9):
        for found, at in ((tree, 8), (lagged, min(t + lag, 8))):
            index, weights = traced(a, at, t), normalised(lw[at])
            np.testing.assert_array_equal(found.indices[t], index)
            np.testing.assert_allclose(found.mean[t], weights @ x[t][index], rtol=1e-9)
            mean = weights @ x[t][index]
            np.testing.assert_allclose(found.variance[t], weights @ (x[t][index] - mean) ** 2, rtol=1e-9)
            assert int(found.distinct[t]) == len(np.unique(index))
    assert tree.paths.shape == (20, 9)
    with pytest.raises(ModelError, match="paths"):
        _ = lagged.paths


# --- Against the exact smoother --------------------------------------------------------------------------------------


def kalman_smoother(ys, persistence=0.9, mean=0.5, variance=1.5**2, drift=0.7, noise=0.8):
    """Log evidence, smoothed means and variances of `Walk`."""
    total, filtered = 0.0, []
    for t, y in enumerate(np.asarray(ys, float)):
        if t:
            mean, variance = persistence * mean, persistence**2 * variance + drift**2
        spread = variance + noise**2
        total += -0.5 * (np.log(2 * np.pi * spread) + (y - mean) ** 2 / spread)
        mean, variance = mean + variance / spread * (y - mean), variance * noise**2 / spread
        filtered.append((mean, variance))
    smoothed = [filtered[-1]]
    for mean, variance in filtered[-2::-1]:
        ahead = persistence**2 * variance + drift**2
        gain = persistence * variance / ahead
        later = smoothed[-1]
        smoothed.append((mean + gain * (later[0] - persistence * mean), variance + gain**2 * (later[1] - ahead)))
    means, variances = np.array(smoothed[::-1]).T
    return total, means, variances


UNBIASED = {
    "exact": smc.BackwardSampling(20),
    "rejection": smc.BackwardSampling(20, "rejection"),
    "mcmc": smc.BackwardSampling(20, "mcmc"),
    "genealogy": smc.Genealogy(),
    "marginal": smc.MarginalSmoothing(),
}


def test_evidence_times_smoothed_mean_is_unbiased(monkeypatch, key):
    """E[Z_hat mean] = Z E[x_t | y] for any number of particles: z-scores of 500 runs at 8 times for five methods.

    |z| > 5.5 has probability 4e-8 each, 2e-6 for all. The runs are one vmap, which shows that methods may be vmapped.
    """
    monkeypatch.setattr(rejection, "_TRY_IN_PAIRS", 0)
    _, ys = Walk().simulate(11, 8)
    log_evidence, means, variances = kalman_smoother(ys)

    def one(key):
        k_filter, k_smooth = jax.random.split(key)
        run = particle_filter(Walk(), ys, k_filter, num_particles=60, history=True)
        ratio = jnp.exp(run.log_evidence - log_evidence)
        found = [smc.smooth(Walk(), ys, k_smooth, method=method, run=run).mean for method in UNBIASED.values()]
        return ratio, ratio * (jnp.stack(found) - means[None])

    ratio, gaps = (np.asarray(v) for v in jax.jit(jax.vmap(one))(jax.random.split(key, 500)))
    error = gaps.std(axis=0) / np.sqrt(500)
    z = gaps.mean(axis=0) / error
    assert np.abs(z).max() < 5.5, dict(zip(UNBIASED, np.abs(z).max(axis=1).tolist(), strict=True))
    assert abs(ratio.mean() - 1.0) < 5.5 * ratio.std() / np.sqrt(500)
    assert (5.5 * error < 0.25 * np.sqrt(variances)).all()  # a bias of a quarter of a posterior sd would be seen


def test_smoothed_moments_of_many_particles():
    """N = 1500: the mean's error is some 1/sqrt(N) posterior sd; 8 times that has probability below 1e-9."""
    _, ys = Walk().simulate(4, 25)
    log_evidence, means, variances = kalman_smoother(ys)
    run = particle_filter(Walk(), ys, 1, num_particles=1500, history=True)
    for method in (smc.BackwardSampling(), smc.BackwardSampling(rule="mcmc", moves=2)):
        found = smc.smooth(Walk(), ys, 1, method=method, run=run)
        error = (np.asarray(found.mean) - means) / np.sqrt(variances)
        assert np.abs(error).max() < 8 / np.sqrt(1500)
        np.testing.assert_allclose(found.variance, variances, rtol=8 * np.sqrt(2 / 1500))
        assert abs(float(found.log_evidence) - log_evidence) < 0.5
        np.testing.assert_allclose(found.expectation(lambda x: x), found.mean, rtol=1e-9)


class Plane(StateSpaceModel):
    """Two coordinates that push each other; the second is seen, not at time 2."""

    missing = "nan"

    def initial(self):
        return dist.Normal(jnp.zeros(2), 1.0).to_event(1)

    def transition(self, t, x):
        return dist.MultivariateNormal(PUSH @ x, SPREAD)

    def observation(self, t, x):
        return dist.Normal(x[1], 0.5)


PUSH = np.array([[0.9, 0.2], [-0.3, 0.8]])
SPREAD = np.array([[0.5, 0.1], [0.1, 0.3]])


def plane_smoother(ys):
    """Smoothed means and variances of `Plane` from the joint Gaussian of all states and observations."""
    steps = len(ys)
    cov = np.zeros((2 * steps, 2 * steps))
    cov[:2, :2] = np.eye(2)
    for t in range(1, steps):
        now, past = slice(2 * t, 2 * t + 2), slice(0, 2 * t)
        cov[now, past] = PUSH @ cov[2 * t - 2 : 2 * t, past]
        cov[past, now] = cov[now, past].T
        cov[now, now] = PUSH @ cov[2 * t - 2 : 2 * t, 2 * t - 2 : 2 * t] @ PUSH.T + SPREAD
    rows = np.flatnonzero(~np.isnan(ys))
    gain = np.linalg.solve(cov[np.ix_(2 * rows + 1, 2 * rows + 1)] + 0.25 * np.eye(len(rows)), cov[2 * rows + 1]).T
    return (gain @ ys[rows]).reshape(steps, 2), np.diag(cov - gain @ cov[2 * rows + 1]).reshape(steps, 2)


@pytest.mark.parametrize("method", [smc.TwoFilter(), smc.BackwardSampling(), smc.MarginalSmoothing()])
def test_smoothed_moments_in_two_dimensions(method):
    """N = 2000: errors of means are about 1/sqrt(N) posterior sd; 8 times that has probability below 1e-9."""
    _, ys = Plane().simulate(9, 12)
    ys = ys.at[2].set(jnp.nan)
    means, variances = plane_smoother(np.asarray(ys))
    found = smc.smooth(Plane(), ys, 3, method=method, num_particles=2000)
    assert (np.abs(np.asarray(found.mean) - means) / np.sqrt(variances)).max() < 8 / np.sqrt(2000)
    np.testing.assert_allclose(found.variance, variances, rtol=8 * np.sqrt(2 / 2000))


def test_two_filter_takes_a_prior_and_a_proposal():
    """Chains that need no Gaussian: two states, every smoothed probability within 6 standard errors (1e-9 each)."""
    method = smc.TwoFilter(
        lambda model, t: dist.CategoricalProbs(jnp.array([0.4, 0.6])),
        proposal=lambda model, t, x: dist.CategoricalProbs(jnp.array([0.5, 0.5])),
    )
    joint = joint_of_weather()
    expected = np.array([sum(m for path, m in joint.items() if path[t] == 1) for t in range(3)]) / sum(joint.values())
    found = smc.smooth(Weather(), SEEN, 5, method=method, num_particles=4000)
    # The effective sample sizes do not count what the filters themselves have lost: half of them, to be safe.
    error = np.sqrt(expected * (1 - expected) / (0.5 * np.asarray(found.ess)))
    assert (np.abs(np.asarray(found.mean) - expected) < 6 * error).all()


def test_a_second_call_compiles_nothing():
    _, ys = Walk().simulate(4, 12)
    smc.smooth(Walk(0.8), ys, 0, num_particles=64)
    others = ys + 0.1
    with compiled() as names:
        smc.smooth(Walk(0.9), others, 1, num_particles=64)
    assert names == []


def test_one_observation_is_a_smoothing_problem_too():
    _, means, variances = kalman_smoother([0.4])
    for method in (smc.BackwardSampling(20), smc.FixedLag(3), smc.MarginalSmoothing()):
        found = smc.smooth(Walk(), jnp.array([0.4]), method=method, num_particles=2000)
        assert abs(float(found.mean[0]) - means[0]) < 6 * np.sqrt(variances[0] / (20 if found.joined else 2000))


# --- Weights of zero, and what is wrong is named ---------------------------------------------------------------------


def test_dead_particles_are_never_in_a_path(key):
    particles = jax.random.normal(key, (3, 6))
    dead = jnp.arange(6) % 2 == 0
    log_weights = jnp.broadcast_to(jnp.where(dead, -jnp.inf, -800.0), (3, 6)).astype(jnp.float32)
    history = History(
        particles.astype(jnp.float32), log_weights, jnp.broadcast_to(jnp.array([1, 1, 3, 3, 5, 5]), (3, 6))
    )
    run = FilterRun(jnp.zeros(()), jnp.zeros(3), jnp.ones(3), None, None, particles[-1], log_weights[-1], history)
    model = Walk(jnp.float32(0.9))
    for rule in ("exact", "rejection", "mcmc"):
        found = smc.smooth(model, jnp.zeros(3, jnp.float32), method=smc.BackwardSampling(500, rule), run=run)
        assert found.indices is not None
        assert (np.asarray(found.indices) % 2 == 1).all()
        assert np.isfinite(np.asarray(found.mean)).all()


class Impossible(Walk):
    def log_transition(self, t, x_before, x):
        return jnp.where(t == 2, -jnp.inf, 0.0)


def test_a_state_without_predecessor_is_reported():
    for method in (smc.BackwardSampling(), smc.MarginalSmoothing()):
        with pytest.raises(InferenceError, match="t = 2 has no predecessor"):
            smc.smooth(Impossible(), jnp.zeros(4), method=method, num_particles=20)


def test_a_bound_that_is_none_is_reported():
    with pytest.raises(InferenceError, match="bound"):
        smc.smooth(Walk(), jnp.zeros(4), method=smc.BackwardSampling(rule="rejection", bound=-3.0), num_particles=400)


class Bounded(Overridden):
    def log_transition_bound(self, t):
        return 0.0


def test_where_the_bound_comes_from():
    ys, rule = jnp.zeros(4), smc.BackwardSampling(rule="rejection")
    with pytest.raises(ArgumentError, match="bound: rejection needs"):
        smc.smooth(Overridden(), ys, method=rule, num_particles=20)
    smc.smooth(Bounded(), ys, method=rule, num_particles=20)
    given = smc.BackwardSampling(rule="rejection", bound=lambda model, t: 0.0)
    smc.smooth(Overridden(), ys, method=given, num_particles=20)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: smc.TwoFilter(prior=3.0), ArgumentTypeError, "prior"),
        (lambda: smc.smooth(Weather(), SEEN, method=smc.TwoFilter()), ModelError, "prior and proposal"),
        (lambda: smc.BackwardSampling(rule="gumbel"), UnknownNameError, "rule"),
        (lambda: smc.BackwardSampling(0), ArgumentError, "num_paths"),
        (lambda: smc.BackwardSampling(2.5), ArgumentTypeError, "num_paths"),
        (lambda: smc.BackwardSampling(moves=3), ArgumentError, "moves: belongs to rule='mcmc'"),
        (lambda: smc.BackwardSampling(rule="mcmc", bound=1.0), ArgumentError, "bound: belongs"),
        (lambda: smc.BackwardSampling(rule="rejection", bound=float("nan")), ArgumentError, "bound"),
        (lambda: smc.BackwardSampling(rule="rejection", bound="high"), ArgumentTypeError, "bound"),
        (lambda: smc.FixedLag(0), ArgumentError, "lag"),
        (lambda: smc.smooth(1.0, jnp.zeros(3)), ArgumentTypeError, "model"),
        (lambda: smc.smooth(Walk(), jnp.zeros(3), method="ffbs"), ArgumentTypeError, "method"),
        (lambda: smc.smooth(Walk(), jnp.zeros((3, 2))), ArgumentError, "ys"),
        (lambda: smc.smooth(Walk(), jnp.zeros(3), run=4), ArgumentTypeError, "run"),
        (lambda: smc.smooth(Walk(), jnp.zeros(3), run=particle_filter(Walk(), jnp.zeros(3))), ArgumentError, "history"),
        (
            lambda: smc.smooth(Walk(), jnp.zeros(3), run=particle_filter(Walk(), jnp.zeros(4), history=True)),
            ArgumentError,
            "4 time steps, but ys has 3",
        ),
    ],
)
def test_what_is_wrong_is_named(make, error, words):
    with pytest.raises(error, match=words):
        make()
