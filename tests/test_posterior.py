"""The result type: estimates against hand-computed values, diagnostics against arviz-stats, the verdict, files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats.base import array_stats
from hypothesis import given, settings
from hypothesis import strategies as st

from probinf.errors import ArgumentError, ArgumentTypeError, DataError, UnknownNameError
from probinf.inference.diagnostics import (
    diagnose,
    distinct_values,
    kish_ess,
    merged_ess,
    rank_r_hat,
    weighted_quantiles,
)
from probinf.inference.posterior import Posterior

# Four particles with weights 0.1, 0.2, 0.3, 0.4.
WEIGHTED = Posterior(
    {"x": np.array([[1.0, 2.0, 4.0, 8.0]]), "v": np.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]])},
    log_weights=np.log([[0.1, 0.2, 0.3, 0.4]]) + 800.0,  # unnormalised, beyond exp without shifting
    log_evidence=-12.5,
    log_evidence_sd=0.2,
    method="SMC",
    claim="consistent",
    model="toy",
)


def independent(chains=4, draws=1000, seed=0, **more):
    """Independent normal draws: what a perfect sampler would give."""
    rng = np.random.default_rng(seed)
    values = {"mu": rng.normal(size=(chains, draws)), "theta": rng.normal(size=(chains, draws, 3))}
    return Posterior(values, model="schools", method="NUTS", **more)


def test_weighted_estimates_by_hand():
    mean = 0.1 * 1 + 0.2 * 2 + 0.3 * 4 + 0.4 * 8
    second = 0.1 * 1 + 0.2 * 4 + 0.3 * 16 + 0.4 * 64
    np.testing.assert_allclose(WEIGHTED.weights, [[0.1, 0.2, 0.3, 0.4]], rtol=1e-12)
    np.testing.assert_allclose(WEIGHTED.mean("x"), mean)
    np.testing.assert_allclose(WEIGHTED.sd("x"), np.sqrt(second - mean**2))
    np.testing.assert_allclose(WEIGHTED.mean("v"), [0.4, 0.5])
    # Inverse of the cdf 0.1, 0.3, 0.6, 1.0.
    np.testing.assert_array_equal(WEIGHTED.quantile("x", [0.0, 0.1, 0.11, 0.5, 0.6, 0.61, 1.0]), [1, 1, 2, 4, 4, 8, 8])
    assert WEIGHTED.quantile("v", [0.25, 0.75]).shape == (2, 2)
    assert WEIGHTED.quantile("v", 0.25).shape == (2,)


def test_unweighted_estimates_are_numpys():
    posterior = independent()
    flat = posterior["theta"].reshape(-1, 3)
    np.testing.assert_allclose(posterior.mean("theta"), flat.mean(axis=0), atol=1e-14)
    np.testing.assert_allclose(posterior.sd("theta"), flat.std(axis=0, ddof=1))
    np.testing.assert_allclose(posterior.quantile("theta", [0.1, 0.9]), np.quantile(flat, [0.1, 0.9], axis=0))


def test_shifting_log_weights_changes_nothing():
    shifted = Posterior(WEIGHTED.draws, log_weights=WEIGHTED.log_weights - 1234.5)
    np.testing.assert_allclose(shifted.weights, WEIGHTED.weights, rtol=1e-12)


def test_resampling_follows_the_weights():
    """Counts of 20,000 draws against the weights; |z| < 5 for four cells fails by chance once in 400,000."""
    posterior = Posterior({"x": np.array([[0, 1, 2, 3]])}, log_weights=np.array([[0.0, -np.inf, np.log(2), np.log(5)]]))
    counts = np.bincount(posterior.sample(1, 20_000)["x"], minlength=4)
    expected = np.array([1, 0, 2, 5]) / 8 * 20_000
    assert counts[1] == 0
    assert np.all(np.abs(counts - expected) <= 5.0 * np.sqrt(expected))


def test_resampled_sites_stay_together():
    drawn = WEIGHTED.sample(jax.random.key(0), 50)
    table = dict(zip(WEIGHTED["x"][0], map(tuple, WEIGHTED["v"][0]), strict=True))
    assert [table[x] for x in drawn["x"]] == [tuple(v) for v in drawn["v"]]
    assert drawn["v"].shape == (50, 2)


def test_as_mixture_keeps_the_weighted_moments():
    rng = np.random.default_rng(0)
    log_weights = rng.normal(size=(2, 300))
    posterior = Posterior({"a": rng.normal(size=(2, 300)), "b": rng.normal(size=(2, 300, 2))}, log_weights=log_weights)
    mixture = posterior.as_mixture(1, sites=["a", "b"])
    points, names = posterior.matrix(["a", "b"])
    weights = posterior.weights.reshape(-1)
    assert names == ["a", "b[0]", "b[1]"]
    mean = weights @ points
    np.testing.assert_allclose(mixture.mean, mean, atol=1e-12)
    centred = points - mean
    np.testing.assert_allclose(mixture.cov, (weights[:, None] * centred).T @ centred, atol=1e-10)


@pytest.mark.parametrize(("chains", "draws"), [(4, 1000), (2, 101), (3, 50), (1, 50), (2, 9)])
def test_diagnostics_are_those_of_arviz_stats(chains, draws):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(chains, draws, 12))
    for t in range(1, draws):  # from anti-correlated to slow
        x[:, t] += np.linspace(-0.95, 0.99, 12) * x[:, t - 1]
    x[:, :, 3] = np.round(x[:, :, 3])  # ties
    x[:, :, 4] = np.exp(3 * x[:, :, 4])  # heavy tail
    x[0, :, 5] += 3.0  # a chain elsewhere
    found, by_scalar = diagnose(x), np.moveaxis(x, 2, 0)
    expected = {
        "r_hat": array_stats.rhat(by_scalar),
        "ess_bulk": array_stats.ess(by_scalar, method="bulk"),
        "ess_tail": array_stats.ess(by_scalar, method="tail", prob=(0.05, 0.95)),
        "mcse_mean": array_stats.mcse(by_scalar),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-9, err_msg=name)
    assert np.isnan(found.r_hat).all() == (chains == 1)
    np.testing.assert_array_equal(rank_r_hat(x), found.r_hat)


def test_a_constant_or_broken_scalar_is_never_a_number():
    x = np.random.default_rng(0).normal(size=(4, 100, 3))
    x[:, :, 0] = 2.5
    x[2, 7, 1] = np.nan
    found = diagnose(x)
    np.testing.assert_array_equal(rank_r_hat(x), found.r_hat)
    for values in (found.r_hat, found.ess_bulk, found.ess_tail, found.mcse_mean):
        assert np.isnan(values[:2]).all()
        assert np.isfinite(values[2])
    assert found.is_constant.tolist() == [True, False, False]


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(-5, 5), st.floats(0.0, 3.0)), min_size=1, max_size=8), st.floats(0.0, 1.0))
def test_weighted_quantiles_invert_the_cdf(points, level):
    x = np.array([float(p) for p, _ in points])
    weights = np.array([w for _, w in points]) + 1e-3
    weights /= weights.sum()
    q = weighted_quantiles(x[:, None], weights, np.array([level]))[0, 0]
    assert weights[x <= q].sum() >= level - 1e-9
    assert weights[x < q].sum() <= level + 1e-9


def test_copies_count_once_in_the_error():
    x = np.array([[0.5, 0.1], [0.5, 0.2], [0.25, 0.3], [0.75, 0.4]])
    found = merged_ess(x, np.full(4, 0.25))
    assert found == pytest.approx([1 / (0.5**2 + 2 * 0.25**2), 4.0])


def test_kish_and_distinct_values():
    assert kish_ess(np.log([1.0, 1.0, 1.0, 1.0]) - 3.0) == pytest.approx(4.0)
    assert kish_ess(np.log([1.0, 3.0])) == pytest.approx(16 / 10)
    x = np.array([[1.0, 5.0], [1.0, 6.0], [2.0, 7.0], [3.0, 8.0]])
    assert distinct_values(x, np.array([0.3, 0.3, 0.4, 0.0])).tolist() == [2, 3]


def test_summary_of_a_good_run():
    posterior = independent(dims={"theta": ("school",)}, coords={"school": ["A", "B", "C"]})
    summary = posterior.summary()
    text = str(summary)
    assert summary.names == ("mu", "theta[A]", "theta[B]", "theta[C]")
    assert summary.is_trustworthy
    assert "No problem found. R-hat at most 1.0" in text
    np.testing.assert_allclose(summary["mean"][1:], posterior.mean("theta"))
    np.testing.assert_allclose(summary["sd"][1:], posterior.sd("theta"))
    np.testing.assert_allclose(summary["95%"][1:], posterior.quantile("theta", 0.95))
    assert text == repr(summary)
    assert text.splitlines()[0].startswith("schools: NUTS")
    row = next(line for line in text.splitlines() if line.startswith("theta[B]"))
    assert f"{posterior.mean('theta')[1]:.4g}" in row.split()


@pytest.mark.parametrize(("offset", "low", "high"), [(0.6, 1.02, 1.06), (1.5, 1.1, 1.5)])
def test_summary_of_chains_that_disagree(offset, low, high):
    posterior = independent()
    moved = {**posterior.draws, "mu": posterior["mu"] + np.array([0.0, 0.0, 0.0, offset])[:, None]}
    summary = Posterior(moved).summary()
    assert low < summary["R-hat"][0] < high
    assert not summary.is_trustworthy
    assert any("(mu; 1 above 1.01): do not trust yet; run longer" in line for line in summary.verdict)


def test_summary_of_a_slow_chain():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 1000))
    for t in range(1, 1000):
        x[:, t] += 0.995 * x[:, t - 1]
    summary = Posterior({"x": x}).summary()
    assert any("Bulk ESS" in line and "below 400" in line for line in summary.verdict)
    assert not summary.is_trustworthy


@pytest.mark.parametrize(
    ("draws", "expected"),
    [
        (np.random.default_rng(0).normal(size=(1, 1000)), "One chain: R-hat is not computable"),
        (np.full((4, 100), 1.5), "Constant: x never moved"),
        (
            np.concatenate([np.random.default_rng(0).normal(size=(3, 100)), np.zeros((1, 100))]),
            "1 chain(s) never moved",
        ),
        (np.random.default_rng(0).normal(size=(4, 3)), "3 draw(s) in a chain"),
        (np.array([[1.0, np.nan] * 50] * 4), "200 value(s) are not finite"),
    ],
)
def test_what_cannot_be_computed_is_never_a_pass(draws, expected):
    summary = Posterior({"x": draws}).summary()
    assert expected in str(summary)
    assert not summary.is_trustworthy
    assert "No problem" not in str(summary)


def test_low_energy_fraction_is_reported():
    """Energy that moves by a hundredth of its spread between draws."""
    energy = np.cumsum(np.random.default_rng(0).normal(size=(4, 1000)), axis=1)
    posterior = independent(sample_stats={"energy": energy})
    assert any("E-BFMI" in line for line in posterior.summary().verdict)


def test_warnings_of_the_run_are_part_of_the_verdict():
    summary = independent(warnings=("3 divergent transition(s)",)).summary()
    assert "! 3 divergent transition(s)" in str(summary)
    assert not summary.is_trustworthy


def test_summary_of_weighted_draws():
    text = str(WEIGHTED.summary())
    assert "R-hat" not in text
    assert "ESS Kish" in text
    assert "distinct" in text
    assert "Effective draws 3.3 of 4: a few draws carry all the weight" in text
    assert "Log evidence -12.500 +- 0.2 nats" in text


def test_a_collapsed_population_says_how_many_values_are_left():
    x = np.repeat([[1.0, 2.0, 3.0]], 400, axis=1)
    summary = Posterior({"x": x, "c": np.ones((1, 1200))}, log_weights=np.zeros((1, 1200))).summary()
    assert "x has 3 distinct values left" in str(summary)
    assert "Constant: c has one value left" in str(summary)
    assert np.isfinite(summary["MCSE"][0])
    assert np.isnan(summary["MCSE"][1])


def test_evidence_lines():
    base = {"draws": WEIGHTED.draws, "log_weights": WEIGHTED.log_weights, "log_evidence": -3.0}
    assert "error unknown" in str(Posterior(**base).summary())
    rough = Posterior(**base, log_evidence_sd=2.5).summary()
    assert "The error of the log evidence is 2.5" in str(rough)
    assert not rough.is_trustworthy


def test_huge_sites_are_shown_in_part_and_small_ones_in_full():
    rng = np.random.default_rng(0)
    posterior = Posterior(
        {"state": rng.normal(size=(2, 50, 300)), "a": rng.normal(size=(2, 50)), "b": rng.normal(size=(2, 50))}
    )
    lines = str(posterior.summary(max_rows=6)).splitlines()
    assert sum(line.startswith("state[") for line in lines) == 4
    assert any(line.startswith("a ") for line in lines)
    assert any(line.startswith("b ") for line in lines)
    assert any("296 more of 'state'" in line for line in lines)
    assert posterior.summary(max_rows=6)["mean"].shape == (302,)  # the numbers are all there
    assert len(posterior.summary(sites=["a"]).names) == 1


def test_many_sites_are_counted():
    rng = np.random.default_rng(0)
    posterior = Posterior({f"s{i:02d}": rng.normal(size=(2, 50)) for i in range(30)})
    assert "... and 25 more site(s)" in str(posterior.summary(max_rows=5))


def test_to_arviz_keeps_everything():
    posterior = independent(
        dims={"theta": ("school",)},
        coords={"school": ["A", "B", "C"]},
        sample_stats={"lp": np.zeros((4, 1000)), "diverging": np.zeros((4, 1000), bool)},
        log_weights=np.zeros((4, 1000)),
        log_evidence=-2.0,
        log_evidence_sd=0.1,
        warnings=("careful",),
    )
    tree = posterior.to_arviz()
    assert tree["posterior"]["theta"].dims == ("chain", "draw", "school")
    assert tree["posterior"]["school"].values.tolist() == ["A", "B", "C"]
    np.testing.assert_array_equal(tree["posterior"]["theta"].sel(school="B"), posterior["theta"][..., 1])
    assert set(tree["sample_stats"].data_vars) == {"lp", "diverging", "log_weight"}
    assert tree.attrs["log_evidence"] == -2.0
    assert tree.attrs["log_evidence_sd"] == 0.1
    assert tree.attrs["warnings"] == ["careful"]
    assert tree.attrs["model"] == "schools"


def test_to_arviz_names_leading_axes_that_have_none():
    posterior = Posterior({"z": np.zeros((1, 4, 2, 3))}, dims={"z": ("time",)}, coords={"time": [10, 20, 30]})
    tree = posterior.to_arviz()
    assert tree["posterior"]["z"].dims == ("chain", "draw", "z_dim_0", "time")
    assert tree["posterior"]["time"].values.tolist() == [10, 20, 30]


def test_files_keep_every_field(tmp_path):
    posterior = independent(
        sample_stats={"lp": np.arange(4000.0).reshape(4, 1000)},
        dims={"theta": (None,), "scope/x": ("i",)},
        coords={"i": [1, 2]},
        log_weights=np.linspace(-1, 0, 4000).reshape(4, 1000),
        log_evidence=-1.5,
        warnings=("careful", "ünïcode"),
        claim="invariant",
        seconds=3.25,
        is_partial=True,
        checkpoint={"z": np.arange(3)},
    )
    path = tmp_path / "posterior.npz"
    posterior.save(path)
    loaded = Posterior.load(path)
    for name in ("log_evidence", "log_evidence_sd", "method", "claim", "warnings", "seconds", "is_partial", "model"):
        assert getattr(loaded, name) == getattr(posterior, name), name
    for group in ("draws", "sample_stats", "checkpoint"):
        before, after = getattr(posterior, group), getattr(loaded, group)
        assert set(before) == set(after)
        for name in before:
            np.testing.assert_array_equal(before[name], after[name])
    np.testing.assert_array_equal(loaded.log_weights, posterior.log_weights)
    assert loaded.dims == posterior.dims
    assert loaded.coords == posterior.coords
    assert [file.name for file in tmp_path.iterdir()] == ["posterior.npz"]  # no temporary file is left


def test_broken_files_are_named_and_nothing_is_unpickled(tmp_path):
    path = tmp_path / "posterior.npz"
    WEIGHTED.save(path)
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"not a file at all"):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"posterior\.npz"):
            Posterior.load(path)
    np.savez(path, x=np.array([{"pickled": 1}], dtype=object))
    with pytest.raises(DataError, match=r"posterior\.npz"):
        Posterior.load(path)
    with pytest.raises(FileNotFoundError):
        Posterior.load(tmp_path / "absent.npz")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "posterior.npz"
    WEIGHTED.save(path)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="no space"):
        independent().save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["posterior.npz"]


@pytest.mark.bad_input
def test_bad_arguments_are_named():
    with pytest.raises(
        UnknownNameError, match=r"'tehta' is not a site of the posterior of model 'schools'\. Did you mean 'theta'"
    ):
        independent()["tehta"]
    with pytest.raises(UnknownNameError, match="Did you mean 'R-hat'"):
        independent().summary()["r-hat"]
    with pytest.raises(ArgumentError, match="q: expected levels between 0 and 1"):
        WEIGHTED.quantile("x", 1.5)
    with pytest.raises(ArgumentError, match="n: expected an integer >= 1"):
        WEIGHTED.sample(0, 0)
    with pytest.raises(ArgumentTypeError, match="max_rows"):
        WEIGHTED.summary(max_rows=2.5)
    with pytest.raises(ArgumentError, match=r"draws: 'b' has shape \(4, 9\)"):
        Posterior({"a": np.zeros((4, 10)), "b": np.zeros((4, 9))})
    with pytest.raises(ArgumentError, match="at least one site"):
        Posterior({})
    with pytest.raises(ArgumentError, match=r"log_weights: expected shape \(4, 10\)"):
        Posterior({"a": np.zeros((4, 10))}, log_weights=np.zeros(40))
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(DataError, match="log_weights"):
            Posterior({"a": np.zeros((1, 2))}, log_weights=np.full((1, 2), bad))


def test_the_mixture_of_a_posterior_is_a_belief():
    rng = np.random.default_rng(0)
    posterior = Posterior({"x": np.concatenate([rng.normal(-4, 1, 500), rng.normal(4, 1, 500)])[None, :, None]})
    mixture = posterior.as_mixture(2, key=1)
    assert mixture.sample(jax.random.key(0), 3).shape == (3, 1)
    assert mixture.log_prob(jnp.array([4.0])) > mixture.log_prob(jnp.array([0.0]))
    np.testing.assert_allclose(np.sort(mixture.means[:, 0]), [-4, 4], atol=0.3)  # 6 standard errors
