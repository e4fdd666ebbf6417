"""The steering examples run at small sizes, and the page's blocks as they stand."""

import re
from pathlib import Path

import numpy as np
import pytest

from examples import steering_best_of_k, steering_client, steering_diffusion, steering_energy, steering_letters

PAGE = Path(__file__).parent.parent / "docs" / "black-box.md"
pytestmark = pytest.mark.relaxed_promotion("examples are written for JAX's ordinary settings")


def test_the_page_runs_and_its_number_is_right():
    first, second = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    scope: dict = {}
    exec(first, scope)
    exact = -0.5 * np.log(6) - 9 / 12
    assert f"{exact:.3f}" in PAGE.read_text()
    assert abs(float(scope["run"].log_evidence) - exact) < 0.4  # 256 particles, five standard deviations
    with steering_client.running() as server:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            scope["client"] = steering_client.Client(server.url)
            exec(second.replace("run.npz", f"{folder}/run.npz"), scope)
    assert len(scope["run"].states) == 8


def test_the_client_example_loses_one_text_and_resumes_to_the_same(capsys):
    told = steering_client.main(["--num-particles", "6", "--max-steps", "5", "--delay", "0"])
    assert told.whole.failures
    assert {f.reason for f in told.whole.failures} == {"RuntimeError: content filter"}
    assert {f.attempts for f in told.whole.failures} == {2}
    assert told.partial.is_partial
    assert told.partial.num_steps == 2
    assert told.resumed.states == told.whole.states
    np.testing.assert_array_equal(told.resumed.log_weights, told.whole.log_weights)
    # One batch for each kind of call and step, and one more where a slot was asked for again.
    assert len(told.requests) == 2 * told.whole.num_steps + 1
    assert "the same? True" in capsys.readouterr().out


def test_the_exact_diffusion_answers_are_the_reference_ones():
    found = steering_diffusion.exact()
    np.testing.assert_allclose(found, (-1.904914, 1.646027, 0.620183), atol=1e-6)


@pytest.mark.slow
def test_the_diffusion_example_is_unbiased_and_guided(tmp_path):
    """|z| < 4 for the evidence; at N = 4 guidance halves the error of importance sampling and more."""
    rows = steering_diffusion.main(["--runs", "2000", "--num-particles", "4", "--out", str(tmp_path)])
    for name in ("difference, ESS-triggered", "final only"):
        assert abs(rows[name].ratio - 1) < 4 * rows[name].ratio_error
    assert rows["difference, ESS-triggered"].rmse < 0.5 * rows["final only"].rmse
    assert (tmp_path / "diffusion.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_energy_example_agrees_with_quadrature(tmp_path):
    (found,) = steering_energy.main(["--questions", "1", "--num", "1000", "--out", str(tmp_path)]).values()
    exact, tempered, chains = found.right_well
    assert abs(tempered - exact) < 0.06  # 2,000 particles: five standard errors
    assert abs(chains - exact) < 0.1
    assert abs(found.log_evidence[1] - found.log_evidence[0]) < 0.15
    assert abs(found.descent - 1.0) < 0.1


@pytest.mark.slow
def test_the_letter_example_draws_its_table(tmp_path):
    cells = steering_letters.main(["--runs", "50", "--sizes", "4", "--out", str(tmp_path)])
    assert len(cells) == 4 * len(steering_letters.METHODS)
    assert (tmp_path / "letters.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_best_of_k_example_agrees_with_its_formulas(tmp_path):
    """41 points, |z| < 5: a false alarm in 40,000."""
    found = steering_best_of_k.main(["--runs", "2000", "--ks", "1", "4", "16", "--out", str(tmp_path)])
    assert max(abs(p.found.mean - p.exact) / p.found.error for p in found) < 5
    assert (tmp_path / "best_of_k.png").stat().st_size > 5000
