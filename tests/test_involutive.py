"""Involutive kernels and reversible jump: exact matrices, exact checks at points, broken kernels that are caught."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
from probinf.claims import Claim
from probinf.errors import ArgumentTypeError, DataError, InferenceError, ModelError
from probinf.kernels.involution_checks import check_involution
from probinf.kernels.involutive import Involution, independence, involutive, kernel_of, metropolis_hastings
from probinf.kernels.kernel import Density, cycle, mix
from probinf.kernels.reversible_jump import reversible_jump
from probinf.kernels.running import with_key
from probinf.transformations.traces import Trace
from probinf.validity.jumps import GUIDE, LARGE, SMALL
from probinf.validity.jumps import TWO_MODELS as TOY
from probinf.validity.jumps import TWO_MODELS_STATES as TOY_STATES
from probinf.validity.jumps import jump as toy_jump
from probinf.validity.jumps import walk as toy_walk
from probinf.validity.matrices import Chain, transition_matrix


def take_step(kernel, target, state, key):
    """One step with a key."""

    def step(slots, log_weight):
        new, info = kernel.step(target, Trace(slots, log_weight))
        return new.slots, new.log_weight, info

    *new, info = with_key(step, key, state.slots, state.log_weight)
    return Trace(*new), info


BROKEN = 1e-3  # a kernel with a factor left out must show at least this much of max |pi K - pi|


def integers(*values):
    return np.asarray(values, np.int64)


# -- the finite toy: (m, a, b), where b is there only if m = 1 ---------------------------------------------------------


@pytest.mark.parametrize("kernel", [toy_jump(), mix(toy_jump(), toy_walk()), toy_walk()], ids=lambda k: k.name)
def test_the_toy_jump_is_reversible_exactly(kernel):
    chain = transition_matrix(kernel, TOY, TOY_STATES)
    assert kernel.claim is Claim.REVERSIBLE
    np.testing.assert_allclose(
        chain.target / chain.target.sum(), np.r_[SMALL, LARGE.ravel()] / (SMALL.sum() + LARGE.sum())
    )
    assert chain.row_error < 1e-13
    assert chain.invariance < 1e-13
    assert chain.asymmetry < 1e-13
    assert chain.kept < 1e-13
    assert chain.is_irreducible == kernel.name.startswith("mix")


def test_a_cycle_of_jumps_is_invariant_exactly_and_reaches_everything():
    kernel = cycle(toy_jump(), toy_walk())
    chain = transition_matrix(kernel, TOY, TOY_STATES)
    assert kernel.claim is Claim.INVARIANT
    assert chain.invariance < 1e-13
    assert chain.asymmetry > BROKEN  # the claim is not stronger than it must be
    assert chain.is_irreducible


@dataclasses.dataclass(frozen=True)
class Frozen(Density):
    """The toy with a held fixed."""

    def protect(self, old, new):
        return {**new, "a": old["a"]}


def test_places_that_a_target_protects_stay_and_the_rest_is_reversible():
    chain = transition_matrix(toy_walk(), Frozen(TOY.log_density), TOY_STATES)
    a = TOY_STATES["a"]
    assert (chain.transitions[a[:, None] != a] == 0).all()
    assert (chain.transitions[(a[:, None] == a) & (TOY_STATES["m"][:, None] & TOY_STATES["m"] == 1)] > 0).all()
    assert chain.asymmetry < 1e-13


@dataclasses.dataclass(frozen=True)
class WithoutProposalRatio(Involution):
    def log_proposal(self, position, values):
        return jnp.zeros((), jnp.float64)


@dataclasses.dataclass(frozen=True)
class WithoutSite(Involution):
    """Leaves one site out of the proposal density."""

    def log_proposal(self, position, values):
        site = next(s for s in self.staged(position).sites if s.name == "down/which")
        assert site.kind == "sample"
        k = position["k"]
        is_down = values["direction"] == 2
        return super().log_proposal(position, values) + jnp.where(is_down, jnp.log(k.astype(jnp.float64)), 0.0)


@dataclasses.dataclass(frozen=True)
class ReverseJacobian(Involution):
    def log_det(self, position, values):
        return -super().log_det(position, values)


@dataclasses.dataclass(frozen=True)
class WithoutJacobian(Involution):
    def log_det(self, position, values):
        return jnp.zeros((), jnp.float64)


def broken(kernel, fault):
    return kernel_of(fault(**{f.name: getattr(kernel.move, f.name) for f in dataclasses.fields(kernel.move)}), "broken")


@pytest.mark.parametrize("kernel", [toy_jump(), toy_walk()], ids=lambda k: k.name)
def test_without_the_proposal_ratio_the_toy_is_not_kept(kernel):
    chain = transition_matrix(broken(kernel, WithoutProposalRatio), TOY, TOY_STATES)
    assert chain.invariance > BROKEN


# -- births and deaths of unordered points: the choice of the point to kill counts -------------------------------------

MOST, KINDS = 3, 2
MASS = np.array([0.9, 1.7])  # of one point
COUPLING = 0.8  # points of one kind repel


def points_states():
    rows = [
        (k, *kinds, *[0] * (MOST - k)) for k in range(MOST + 1) for kinds in itertools.product(range(KINDS), repeat=k)
    ]
    table = np.array(rows, np.int64)
    return {"k": table[:, 0], "x": table[:, 1:]}


def points_log_density(s):
    alive = jnp.arange(MOST, dtype=jnp.int64) < s["k"]
    ones = jnp.sum(jnp.where(alive, s["x"], 0)).astype(jnp.float64)
    number = s["k"].astype(jnp.float64)
    single = jnp.sum(jnp.where(alive, jnp.log(jnp.asarray(MASS))[s["x"]], 0.0))
    return single - COUPLING * (ones**2 + (number - ones) ** 2) / 4


POINTS = Density(points_log_density, "points")


def points_jump():
    """Birth at a random place of the list (the point there moves to the end); death of a random point."""
    index = jnp.arange(MOST, dtype=jnp.int64)

    def birth(s, u):
        k, x = s["k"], s["x"]
        x = jnp.where(index == k, x[u["where"]], x)
        return {"k": k + 1, "x": jnp.where(index == u["where"], u["kind"], x)}, {"which": u["where"]}

    def death(s, v):
        last, x = s["k"] - 1, s["x"]
        kind = x[v["which"]]
        x = jnp.where(index == v["which"], x[last], x)
        return {"k": last, "x": jnp.where(index == last, 0, x)}, {"where": v["which"], "kind": kind}

    def evenly(n):
        return dist.CategoricalProbs((index < n).astype(jnp.float64) / n.astype(jnp.float64))

    def up(s):
        pi.sample("where", evenly(s["k"] + 1))
        pi.sample("kind", dist.CategoricalProbs(jnp.array([0.75, 0.25])))

    return reversible_jump(
        birth,
        death,
        up=up,
        down=lambda s: pi.sample("which", evenly(s["k"])),
        probabilities=lambda s: (jnp.where(s["k"] < MOST, 0.5, 0.0), jnp.where(s["k"] > 0, 0.5, 0.0)),
        name="points",
    )


def test_births_and_deaths_are_reversible_exactly():
    chain = transition_matrix(points_jump(), POINTS, points_states())
    assert len(chain.target) == 15
    assert chain.row_error < 1e-13
    assert chain.invariance < 1e-13
    assert chain.asymmetry < 1e-13
    assert chain.is_irreducible


@pytest.mark.parametrize("fault", [WithoutProposalRatio, WithoutSite])
def test_without_the_combinatorial_factor_the_points_are_not_kept(fault):
    chain = transition_matrix(broken(points_jump(), fault), POINTS, points_states())
    assert chain.invariance > BROKEN


# -- a Jacobian on a finite set: the orbit of a scaling ----------------------------------------------------------------

ORBIT = {"x": 1.5 * 2.0 ** np.arange(6)}


def scaling():
    """Double or halve x: every orbit is a geometric grid, on which a density in x has masses pi(x) |x|."""

    def auxiliary(x):
        pi.sample("up", dist.BernoulliProbs(jnp.asarray(0.5)))

    def move(x, v):
        return {"x": jnp.where(v["up"] == 1, 2.0 * x["x"], 0.5 * x["x"])}, {"up": 1 - v["up"]}

    return involutive(auxiliary, move, name="scaling")


def on_orbit(kernel):
    def log_density(s):
        inside = (s["x"] > 1.0) & (s["x"] < 64.0)
        return jnp.where(inside, -0.3 * s["x"] + 0.4 * jnp.log(s["x"]), -jnp.inf)

    states = {"x": np.r_[ORBIT["x"], 0.75, 96.0]}  # the two ends are reached and have density zero
    chain = transition_matrix(kernel, Density(log_density), states)
    return Chain(chain.target * states["x"], chain.transitions, chain.kept)


def test_the_automatic_jacobian_is_exact_on_an_orbit():
    chain = on_orbit(scaling())
    assert chain.invariance < 1e-13
    assert chain.asymmetry < 1e-13
    assert chain.is_irreducible


@pytest.mark.parametrize("fault", [WithoutJacobian, ReverseJacobian])
def test_a_wrong_jacobian_is_seen_on_an_orbit(fault):
    assert on_orbit(broken(scaling(), fault)).invariance > BROKEN


# -- proposals and guides ----------------------------------------------------------------------------------------------


def test_a_proposal_program_and_a_guide_are_reversible_exactly():
    def near(x):
        pi.sample("b", dist.CategoricalProbs(jnp.asarray(GUIDE)[x["a"]]))

    @pi.model
    def guide(p):
        a = pi.sample("a", dist.CategoricalProbs(p))
        pi.sample("b", dist.CategoricalProbs(jnp.asarray(GUIDE)[a]))

    target = Density(lambda x: jnp.log(jnp.asarray(LARGE))[x["a"], x["b"]])
    states = {n: TOY_STATES[n][3:] for n in ("a", "b")}
    for kernel in (metropolis_hastings(near), independence(guide(jnp.array([0.2, 0.3, 0.5])))):
        chain = transition_matrix(kernel, target, states)
        assert chain.invariance < 1e-13
        assert chain.asymmetry < 1e-13
        assert transition_matrix(broken(kernel, WithoutProposalRatio), target, states).invariance > BROKEN
    expected = jnp.array([0.2, 0.3, 0.5])[:, None] * jnp.asarray(GUIDE)
    weights = LARGE / np.asarray(expected)
    accepted = np.minimum(1.0, weights.ravel()[None, :] / weights.ravel()[:, None])
    by_hand = np.asarray(expected).ravel()[None, :] * accepted
    off = ~np.eye(9, dtype=bool)
    np.testing.assert_allclose(chain.transitions[off], by_hand[off], atol=1e-14)


# -- a Gaussian in one or two dimensions -------------------------------------------------------------------------------

P_LARGE = 0.35
CHOL = np.array([[1.2, 0.0], [-0.7, 0.5]])


def gauss_log_density(x):
    """m = 0: x1 ~ N(1, 0.8). m = 1: (x1, x2) ~ N((0.5, -1), L L')."""
    z = jax.scipy.linalg.solve_triangular(jnp.asarray(CHOL), x["x"] - jnp.array([0.5, -1.0]), lower=True)
    large = jnp.log(P_LARGE) - 0.5 * jnp.sum(z**2) - jnp.log(2 * jnp.pi) - np.log(1.2 * 0.5)
    small = jnp.log1p(-P_LARGE) - 0.5 * ((x["x"][0] - 1) / 0.8) ** 2 - 0.5 * jnp.log(2 * jnp.pi) - np.log(0.8)
    return jnp.where(x["m"] == 1, large, jnp.where(x["x"][1] == 0, small, -jnp.inf))


GAUSS = Density(gauss_log_density, "Gaussian of one or two dimensions")


def gauss_jump(log_jacobian=None, extra=False):
    """x1' = x1 + exp(x1 / 4) u, x2' = 2 x1 - u: a map whose Jacobian depends on the point."""

    def forward(x, u):
        x1, u = x["x"][0], u["u"]
        new = {"m": jnp.ones_like(x["m"]), "x": jnp.stack([jnp.sinh(x1), u * jnp.exp(x1 / 4) - x1])}
        return new, {"v": jnp.zeros(())} if extra else {}

    def inverse(x, v):
        x1 = jnp.arcsinh(x["x"][0])
        u = (x["x"][1] + x1) * jnp.exp(-x1 / 4)
        return {"m": jnp.zeros_like(x["m"]), "x": jnp.stack([x1, jnp.zeros_like(x1)])}, {"u": u}

    return reversible_jump(
        forward,
        inverse,
        up=lambda x: pi.sample("u", dist.Normal(0.2 * x["x"][0], 1.5)),
        down=(lambda x: pi.sample("v", dist.Normal(0.0, 1.0))) if extra else None,
        probabilities=lambda x: (jnp.where(x["m"] == 0, 0.9, 0.0), jnp.where(x["m"] == 1, 0.6, 0.0)),
        log_jacobian=log_jacobian,
        dimension=lambda x: 1 + x["m"],
        name="Gaussian jump",
    )


def right_jacobian(x, u):
    return jnp.log(jnp.cosh(x["x"][0])) + x["x"][0] / 4


def gauss_walk():
    def auxiliary(x):
        pi.sample("x", dist.Normal(x["x"], jnp.array([1.0, 0.7])).to_event(1))

    def swap(x, v):
        return {**x, "x": jnp.where(jnp.stack([True, x["m"] == 1]), v["x"], x["x"])}, {
            "x": jnp.where(jnp.stack([True, x["m"] == 1]), x["x"], v["x"])
        }

    return involutive(auxiliary, swap, dimension=lambda x: 1 + x["m"], name="Gaussian walk")


def gauss_draws(num, seed):
    rng = np.random.default_rng(seed)
    m = (rng.random(num) < P_LARGE).astype(np.int64)
    large = np.array([0.5, -1.0]) + rng.normal(size=(num, 2)) @ CHOL.T
    small = np.stack([1 + 0.8 * rng.normal(size=num), np.zeros(num)], axis=1)
    return {"m": m, "x": np.where(m[:, None] == 1, large, small)}


def test_everything_a_jump_must_satisfy_holds_at_points():
    reports = check_involution(cycle(gauss_jump(right_jacobian), gauss_walk()), GAUSS, gauss_draws(50, 1), seed=2)
    assert [r.name for r in reports] == ["Gaussian jump", "Gaussian walk"]
    for report in reports:
        assert report.num_moves == 400
        assert report.num_impossible == report.num_undefined == report.num_mismatched == 0
        assert report.involution_error < 1e-12
        assert report.antisymmetry_error < 1e-11
        assert report.difference_error < 1e-7
    assert reports[0].given_error < 1e-12
    assert "0 without reverse" in str(reports[0])


def test_a_wrong_jacobian_is_refused_with_its_error():
    with pytest.raises(ModelError, match=r"'Gaussian jump': the log_jacobian given.*found 0\.5 nats, expected at most"):
        check_involution(gauss_jump(lambda x, u: right_jacobian(x, u) + 0.5), GAUSS, gauss_draws(20, 1))


def test_a_map_that_is_not_its_own_inverse_is_refused():
    shift = involutive(
        lambda x: pi.sample("u", dist.Normal(0.0, 1.0)), lambda x, v: ({"x": x["x"] + v["u"]}, v), name="shift"
    )
    with pytest.raises(ModelError, match=r"'shift': Phi\(Phi\(x\)\) is not x"):
        check_involution(shift, Density(lambda x: -0.5 * x["x"] ** 2), {"x": np.linspace(-1.0, 1.0, 5)})


def test_unequal_dimensions_are_refused():
    """A second normal draw on the way down, which the way up never gives back."""
    with pytest.raises(ModelError, match=r"Phi|dimensions on both sides differ"):
        check_involution(gauss_jump(extra=True), GAUSS, gauss_draws(20, 1))
    move = gauss_jump().move
    wrong = kernel_of(dataclasses.replace(move, dimension=lambda x: 1 + 2 * x["m"]), "miscounted")
    with pytest.raises(ModelError, match="'miscounted': the dimensions on both sides differ"):
        check_involution(wrong, GAUSS, gauss_draws(20, 1))


def one_way():
    """From a = 0 it proposes 1 or 2; from 2 it never proposes to go back."""
    table = jnp.array([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    return metropolis_hastings(lambda x: pi.sample("a", dist.CategoricalProbs(table[x["a"]])), name="one way")


def test_moves_without_reverse_are_rejected_and_counted():
    masses = jnp.array([0.5, 0.2, 0.3])
    target, states = Density(lambda x: jnp.log(masses)[x["a"]]), {"a": integers(0, 1, 2)}
    chain = transition_matrix(one_way(), target, states)
    assert chain.asymmetry < 1e-13
    np.testing.assert_allclose(chain.transitions[[0, 2], [2, 1]], 0.0)
    (report,) = check_involution(one_way(), target, states, num_draws=64)
    # From 2 every proposal is without reverse; from 0 one in two: 64 + Binomial(64, 1/2), within 64 surely not 0.
    assert 64 < report.num_impossible < 128
    state = Trace({"a": jnp.int64(2)}, jnp.log(masses)[2])
    _, info = jax.jit(lambda key: take_step(one_way(), target, state, key))(jax.random.key(0))
    assert info["impossible"] == 1.0
    assert info["accepted"] == 0.0


def test_the_split_of_moments_has_the_jacobian_of_richardson_and_green():
    """g |mu1 - mu2| v1 v2 / (u2 (1 - u2^2) u3 (1 - u3) v), equation (11) of Richardson & Green (1997)."""

    def move(x, aux):
        def split(x, a):
            (g, m, v), (u1, u2, u3) = x["one"], a["u"]
            g1, g2 = g * u1, g * (1 - u1)
            m1, m2 = m - u2 * jnp.sqrt(v * g2 / g1), m + u2 * jnp.sqrt(v * g1 / g2)
            v1, v2 = u3 * (1 - u2**2) * v * g / g1, (1 - u3) * (1 - u2**2) * v * g / g2
            return {"one": jnp.stack([g1, m1, v1])}, {"u": jnp.stack([g2, m2, v2])}

        return split(x, aux)

    one, u = {"one": jnp.array([0.7, -1.3, 2.1])}, {"u": jnp.array([0.3, 0.6, 0.8])}
    log_det = Involution(lambda x: None, move).log_det(one, u)
    new, aux = move(one, u)
    (g, _, v), (_, u2, u3) = one["one"], u["u"]
    (_, m1, v1), (_, m2, v2) = new["one"], aux["u"]
    expected = jnp.log(g * jnp.abs(m1 - m2) * v1 * v2 / (u2 * (1 - u2**2) * u3 * (1 - u3) * v))
    np.testing.assert_allclose(log_det, expected, rtol=1e-12)


NUM_CHAINS, NUM_STEPS = 20_000, 6


def after_steps(kernel, key):
    """Chains that start from exact draws, after a few steps."""
    start = jax.tree.map(jnp.asarray, gauss_draws(NUM_CHAINS, 7))

    @jax.jit
    def run(keys, states):
        def once(states, key):
            return jax.vmap(lambda k, s: take_step(kernel, GAUSS, s, k))(jax.random.split(key, NUM_CHAINS), states)

        weights = jax.vmap(lambda x: GAUSS.replay(x).log_weight)(states)
        return jax.lax.scan(once, Trace(states, weights), keys)

    end, info = run(jax.random.split(key, NUM_STEPS), start)
    return jax.tree.map(np.asarray, end.slots), float(info["accepted"].mean())


def z_scores(end):
    """Standard scores of independent statistics whose expectations and variances are known exactly."""
    m, x = end["m"] == 1, end["x"]
    z = np.linalg.solve(CHOL, (x[m] - np.array([0.5, -1.0])).T)
    y = (x[~m, 0] - 1) / 0.8
    root = np.sqrt
    return {
        "p(m)": (m.mean() - P_LARGE) / root(P_LARGE * (1 - P_LARGE) / len(m)),
        "mean, small": y.mean() * root(len(y)),
        "square, small": ((y**2).mean() - 1) * root(len(y) / 2),
        "means, large": z.sum() / root(z.size),
        "squares, large": ((z**2).sum() - z.size) / root(2 * z.size),
        "product, large": (z[0] * z[1]).sum() / root(z.shape[1]),
    }


@pytest.mark.parametrize("log_jacobian", [None, right_jacobian], ids=["automatic", "given"])
def test_the_jump_between_gaussians_keeps_model_probabilities_and_moments(key, log_jacobian):
    """Six standard scores below 5.5 in absolute value: a false alarm in 2.3e-7 of all seeds."""
    end, accepted = after_steps(cycle(gauss_jump(log_jacobian), gauss_walk()), key)
    assert accepted > 0.1
    found = z_scores(end)
    assert max(map(abs, found.values())) < 5.5, found


@pytest.mark.parametrize("fault", [WithoutProposalRatio, WithoutJacobian, ReverseJacobian])
def test_a_broken_jump_between_gaussians_is_seen(key, fault):
    end, _ = after_steps(broken(gauss_jump(), fault), key)
    found = z_scores(end)
    assert max(map(abs, found.values())) > 10, found


# -- mistakes ----------------------------------------------------------------------------------------------------------


def run_once(kernel):
    state = {"x": jnp.zeros(2)}
    target = Density(lambda s: -jnp.sum(s["x"] ** 2))
    return take_step(kernel, target, Trace(state, jnp.zeros(())), jax.random.key(0))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: involutive(lambda x: None, lambda x, v: ({"x": x["x"][:1]}, v)),
            ModelError,
            r"\['x'\] has shape \(1,\)",
        ),
        (lambda: involutive(lambda x: None, lambda x, v: x), ModelError, "involution: expected .position, values."),
        (
            lambda: involutive(lambda x: pi.sample("u", dist.Normal(0.0, 1.0), obs=0.3), lambda x, v: (x, v)),
            ModelError,
            "Site 'u'.* an auxiliary program only draws",
        ),
        (
            lambda: metropolis_hastings(lambda x: pi.sample("y", dist.Normal(0.0, 1.0))),
            ModelError,
            "site 'y', which is no entry",
        ),
        (
            lambda: metropolis_hastings(lambda x: pi.sample("x", dist.Normal(0.0, 1.0))),
            (ModelError, DataError),
            r"shape",
        ),
        (
            lambda: reversible_jump(
                lambda x, u: (x, {"w": 0.0}),
                lambda x, v: (x, {}),
                up=lambda x: None,
                probabilities=lambda x: (0.5, 0.5),
            ),
            ModelError,
            r"forward returns values \['w'\], expected those that `down` draws: \[\]",
        ),
        (
            lambda: reversible_jump(lambda x, u: (x, u), lambda x, v: (x, v), up=None, probabilities=lambda x: (1, 0)),
            ArgumentTypeError,
            "up: expected a function, found NoneType",
        ),
    ],
    ids=["shape", "structure", "score", "unknown", "shape of a site", "values", "function"],
)
def test_mistakes_are_named(make, error, message):
    with pytest.raises(error, match=message):
        run_once(make())


def test_the_check_refuses_what_it_cannot_look_at():
    from probinf.kernels.trace_moves import trace_mh

    with pytest.raises(ArgumentTypeError, match=r"expected an involutive kernel.*trace_mh"):
        check_involution(trace_mh(), TOY, TOY_STATES)
    with pytest.raises(InferenceError, match="state 0 has log density -inf"):
        check_involution(gauss_jump(), GAUSS, {"m": integers(0), "x": np.array([[0.0, 1.0]])})
