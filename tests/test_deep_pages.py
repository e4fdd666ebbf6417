"""The page and the example on deep predictive coding run as written."""

import matplotlib
import numpy as np
import pytest

import probinf as pi
from examples import deep_predictive_coding
from probinf.predictive_coding import deep
from tests.test_documentation import blocks

pytestmark = pytest.mark.relaxed_promotion("pages and examples are written for JAX's ordinary settings")


def test_the_page_runs():
    scope: dict = {}
    for code in blocks("docs/deep-predictive-coding.md"):
        quick = code.replace("num_epochs=20", "num_epochs=2").replace("num_epochs=50", "num_epochs=2")
        exec(quick, scope)
    assert scope["found"].energies.shape == (5, 4)
    assert scope["network_of_mine"].shapes == ((4,), (8,), (8,), (2,))
    assert bool(scope["found"].info.is_converged.all())


def test_pictures_show_what_they_were_given():
    ax = deep.plot_energies(np.array([4.0, 2.0, 1.0, 1.0]), window=2)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [3.0, 1.5, 1.0])
    assert ax.get_yscale() == "log"
    assert len(deep.plot_energies(np.array([[1.0, -1.0], [0.5, -2.0]])).lines) == 2
    figure = deep.plot_images({"digit": np.ones((3, 2, 2)), "seen": np.full((3, 2, 2), np.nan)})
    assert len(figure.axes) == 6
    assert np.ma.getmaskarray(figure.axes[3].images[0].get_array()).all()
    with pytest.raises(pi.ArgumentError, match="as many images in each"):
        deep.plot_images({"a": np.ones((3, 2, 2)), "b": np.ones((2, 2, 2))})


@pytest.mark.slow
def test_the_example_classifies_and_recalls(tmp_path):
    backend = matplotlib.get_backend()
    result = deep_predictive_coding.main(["--out", str(tmp_path)])
    matplotlib.use(backend)
    assert result.accuracy > 0.93  # nearest neighbours reach 0.95 to 0.98 on these digits
    assert result.errors["recalled"] < result.errors["mean image"]
    assert np.isfinite(result.memory.energies).all()
    assert all((tmp_path / f"deep_{name}.png").stat().st_size > 5000 for name in ("energies", "memory"))
