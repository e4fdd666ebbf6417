"""Strict settings for every test: see "Tests" in CONTRIBUTING.md.

The order matters: the environment before JAX, the type hook before the packages.
"""

import contextlib
import importlib.metadata
import os
import pkgutil
import sys
import zlib
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the suite's bits are the CPU's; name another platform to override
os.environ["PROBINF_PROGRESS"] = "0"
# Compiling takes longer than running here, and code that is less optimised compiles in half the time. `make nightly`
# empties the variable, and so runs every test as a user would.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"  # JAX 0.11 and later stop at the second flag, which they do not know
    + ("" if importlib.metadata.version("jaxlib") >= "0.11" else " --xla_cpu_use_fusion_emitters=false"),
)
os.environ["MPLBACKEND"] = "Agg"  # no window; the programs that tests start inherit it

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

# The interpreters of programs call small functions on equations, not on arrays, half a million times in a minute:
# checking their types at run time doubles the time of the suite and finds what basedpyright has found.
UNCHECKED = ("_jax", "language", "transformations")
CHECKED = [
    f"probinf.{module.name}"
    for module in pkgutil.iter_modules([str(Path(__file__).parent.parent / "probinf")])
    if module.name not in UNCHECKED or os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
]
install_import_hook([*CHECKED, "smc", "transformers_gmm", "continual"], "beartype.beartype")

from tests.strictness import relax_numpyro_distributions, relaxed_promotion, types_not_enforced  # noqa: E402

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_legacy_prng_key", "error")

# Compiling takes longer than running, so both workers and the next run share what was compiled.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

relax_numpyro_distributions()

# The same examples on every run of `make test`; `make nightly` looks for new ones.
hypothesis.settings.register_profile("default", deadline=None, derandomize=True)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def key(request: pytest.FixtureRequest) -> jax.Array:
    """A typed key that belongs to this test: it follows from the test's name and parameters."""
    return jax.random.key(zlib.crc32(request.node.name.encode()))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function):
    """Give the marks `relaxed_promotion` and `bad_input` their meaning, for the body of the test only."""
    with contextlib.ExitStack() as stack:
        if marker := pyfuncitem.get_closest_marker("relaxed_promotion"):
            stack.enter_context(relaxed_promotion(*marker.args, **marker.kwargs))
        if pyfuncitem.get_closest_marker("bad_input"):
            stack.enter_context(types_not_enforced())
        return (yield)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


_run_since, _file = 0, None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """What hundreds of tests have compiled is let go now and then: gigabytes otherwise, in each worker.

    Before the first test of a file and its fixtures: within a file a second call shall find what a first one compiled.
    """
    global _run_since, _file
    if _run_since >= 150 and item.path != _file:
        jax.clear_caches()
        _run_since = 0
    _run_since, _file = _run_since + 1, item.path
