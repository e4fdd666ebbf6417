"""Errors are caught by ordinary handlers and name what was meant."""

import pytest

from probinf import errors


@pytest.mark.parametrize(
    ("error", "ordinary"),
    [
        (errors.ModelError, ValueError),
        (errors.DataError, ValueError),
        (errors.ArgumentError, ValueError),
        (errors.ArgumentTypeError, TypeError),
        (errors.InferenceError, RuntimeError),
        (errors.UnknownNameError, KeyError),
    ],
)
def test_every_error_is_caught_by_an_ordinary_handler(error, ordinary):
    assert issubclass(error, errors.ProbinfError)
    assert issubclass(error, ordinary)


def test_every_error_class_derives_from_the_base():
    classes = [c for c in vars(errors).values() if isinstance(c, type) and c.__module__ == errors.__name__]
    strangers = {c for c in classes if not issubclass(c, errors.ProbinfError)}
    assert len(classes) >= 8
    assert strangers == {errors.ProbinfWarning}
    assert issubclass(errors.ProbinfWarning, UserWarning)


def test_an_unknown_name_gets_the_nearest_one_and_the_list():
    error = errors.UnknownNameError("sigm", ["mu", "sigma"], "site", "model 'line'")
    assert str(error) == "'sigm' is not a site of model 'line'. Did you mean 'sigma'? Known sites: 'mu', 'sigma'."


def test_the_nearest_name_may_differ_only_in_case():
    assert "Did you mean 'X'?" in str(errors.UnknownNameError("x", ["X", "other"], "site", "model 'm'"))


def test_nothing_is_guessed_where_nothing_is_near():
    message = str(errors.UnknownNameError("tau", ["range", "bearing"], "sensor", "system 's'"))
    assert message == "'tau' is not a sensor of system 's'. Known sensors: 'bearing', 'range'."


def test_an_empty_list_of_names_is_said_to_be_empty():
    assert str(errors.UnknownNameError("x", [], "site", "model 'm'")).endswith("Known sites: none.")


def test_an_error_can_carry_what_was_finished():
    error = errors.InferenceError("all particles are dead")
    assert error.partial is None
    error.partial = [1, 2]
    assert errors.InferenceError("another").partial is None
