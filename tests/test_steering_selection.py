"""The solvable model of best-of-k and softmax selection: reference values, limits, and the library's own picks."""

import numpy as np
import pytest

from examples import steering_best_of_k as sampler
from examples import steering_selection_model as model


def test_best_of_k_has_its_reference_values():
    perfect = [model.best_of_k(0.3, 0.3, 1.0, k) for k in (1, 2, 4, 16, 64)]
    np.testing.assert_allclose(perfect, [1.09, 0.396929, 0.131981, 0.011427, 0.000802], atol=5.1e-7)
    scaled = [k**2 * model.best_of_k(0.3, 0.3, 1.0, k) for k in (10, 100, 1000)]
    np.testing.assert_allclose(scaled, [2.703, 3.339, 3.427], atol=5.1e-4)
    np.testing.assert_allclose(model.best_of_k_limit(0.3, 1.0), 3.4374, atol=5.1e-5)
    off = [model.best_of_k(0.3, -0.5, 1.0, k) for k in (1, 2, 4, 16, 64)]
    np.testing.assert_allclose(off, [1.09, 0.770396, 0.676441, 0.642740, 0.640189], atol=5.1e-7)
    finite = [model.best_of_k(-0.5, -1.45, 1.0, k) for k in (1, 2, 3, 4, 5)]
    np.testing.assert_allclose(finite, [1.25, 0.631, 0.549, 0.559, 0.589], atol=5.1e-4)
    assert np.argmin(finite) == 2


def test_softmax_selection_has_its_reference_values_and_limits():
    exact = [model.softmax_of_k(0.3, 0.3, 1.0, k, 20.0) for k in (2, 5, 20)]
    np.testing.assert_allclose(exact, [1.0315, 1.0017, 0.9879], atol=5.1e-5)
    second = [model.weak_selection(0.3, 0.3, 1.0, k, 20.0) for k in (2, 5, 20)]
    np.testing.assert_allclose(second, [1.0310, 1.0017, 0.9888], atol=5.1e-5)
    useless = model.weak_selection(0.3, 0.3, 1.0, 5, 2.0), model.softmax_of_k(0.3, 0.3, 1.0, 5, 2.0)
    np.testing.assert_allclose(useless, [0.756, 0.571], atol=5.1e-4)
    np.testing.assert_allclose(model.softmax_of_k(0.3, 0.7, 1.3, 1, 2.0), model.one_answer(0.3, 1.3), rtol=1e-6)
    np.testing.assert_allclose(
        model.softmax_of_k(0.3, 0.7, 1.0, 4000, 2.0), model.many_answers(0.3, 0.7, 1.0, 2.0), rtol=1e-3
    )
    np.testing.assert_allclose(model.softmax_of_k(1.0, 1.0, 1.0, 8, 0.01), model.best_of_k(1.0, 1.0, 1.0, 8), rtol=0.05)


def test_the_expansion_is_of_second_order():
    """Its error falls by 8 where the temperature doubles."""
    errors = [
        model.softmax_of_k(0.3, 0.5, 1.0, 5, t) - model.weak_selection(0.3, 0.5, 1.0, 5, t) for t in (200.0, 400.0)
    ]
    assert 7.0 < errors[0] / errors[1] < 9.0


def test_the_best_judge_overcorrects():
    best = model.best_judge_offset(0.3, 1.0, 2.0)
    errors = [model.many_answers(0.3, 0.3 - (best + d), 1.0, 2.0) for d in (-0.05, 0.0, 0.05)]
    assert min(errors) == errors[1]
    assert best < 0


@pytest.mark.slow
def test_more_answers_hurt_over_prompts_with_a_misled_judge():
    curve = [sampler.averaged(0.95, k) for k in (3, 4, 5)]
    assert np.argmin(curve) == 1
    np.testing.assert_allclose(curve[1], 0.6148, atol=1e-4)


@pytest.mark.parametrize("temperature", [None, 0.75])
def test_the_library_picks_as_the_formulas_say(temperature):
    """4,000 runs of smc.best_of_n at k = 8, |z| < 4.5: a false alarm in 150,000."""
    found = sampler.sampled(1.0, 2.0, 1.0, 8, temperature, 4000, 1)
    exact = model.best_of_k(1.0, 2.0, 1.0, 8) if temperature is None else model.softmax_of_k(1.0, 2.0, 1.0, 8, 0.75)
    assert abs(found.mean - exact) < 4.5 * found.error


def test_the_deterministic_equivalent_holds_for_many_data():
    law = model.deterministic_equivalent(10_000, 10, S=1.0, sigma=1e-4, gamma=1e-3, squared_norm=1.0)
    np.testing.assert_allclose(law, (0.999990, 1.0010e-8), rtol=1e-4)
    data = model.trained(np.random.default_rng(0), 10_000, 10, S=1.0, sigma=1e-4, gamma=1e-3, points=500)
    np.testing.assert_allclose(data["variance"].mean(), law.variance, rtol=1e-3)
    slope = data["mean"] @ data["truth"] / (data["truth"] @ data["truth"])
    np.testing.assert_allclose(slope, law.shrink, atol=1e-4)
