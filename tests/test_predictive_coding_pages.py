"""The page and the examples on predictive coding run as written."""

import numpy as np
import pytest

import probinf as pi
from examples import hgf_exchange_rate, hgf_learning, hgf_people, hgf_structure
from tests.test_documentation import blocks

pytestmark = pytest.mark.relaxed_promotion("pages and examples are written for JAX's ordinary settings")


def test_the_page_runs():
    scope: dict = {}
    for code in blocks("docs/predictive-coding.md"):
        exec(code, scope)
    assert np.isfinite(scope["mode"].log_evidence)
    assert scope["info"].num_missing == 0
    assert pi.predictive_coding.Network is type(scope["network"])
    assert scope["corrected"].overlap.shape == (120,)
    assert np.isnan(np.asarray(scope["run"]["x3"].mean)[:60]).all()
    assert np.isfinite(scope["comparison"].log_evidence).all()


@pytest.mark.slow
def test_the_exchange_rate_example_beats_a_random_walk(tmp_path):
    result = hgf_exchange_rate.main(["--out", str(tmp_path)])
    assert result.score > result.baseline + 0.2
    assert (tmp_path / "hgf_exchange_rate.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_learning_example_finds_its_parameters(tmp_path):
    result = hgf_learning.main(["--quick", "--out", str(tmp_path)])
    for name, truth in hgf_learning.TRUTH.items():
        assert abs(float(result.posterior.mean(name)) - truth) < 3.0 * float(result.posterior.sd(name))
    means = {rule: found["x2"].mean() for rule, found in result.divergences.items()}
    assert means["moment matched"] < means["enhanced"] < 0.3
    assert all((tmp_path / f"hgf_{name}.png").stat().st_size > 5000 for name in ("beliefs", "graph", "parameters"))


@pytest.mark.slow
def test_the_example_on_people_tells_who_learns(tmp_path):
    result = hgf_people.main(["--quick", "--out", str(tmp_path)])
    assert np.diag(result.models.confusion()).mean() > 0.6
    assert result.mixed.random_effects().frequencies.argmax() == 1
    assert (tmp_path / "hgf_people.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_example_on_structure_finds_the_volatility_parent(tmp_path):
    result = hgf_structure.main(["--quick", "--out", str(tmp_path)])
    assert "x2" in result.table.best
    share, error = result.draws.inclusion()["x2"]
    assert abs(share - result.table.inclusion()["x2"]) < max(6 * error, 0.1)
    assert result.after["x2"].mean() < result.before["x2"].mean()
    assert (tmp_path / "hgf_structure.png").stat().st_size > 5000
