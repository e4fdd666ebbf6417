"""What a tempered run refuses before it starts, and the names it uses in messages."""

from __future__ import annotations

from typing import Any

import numpy as np

from probinf.errors import InferenceError, ModelError
from probinf.kernels.flat import FlatLayout
from smc.tempering import TemperedState, TemperingPrograms


def check_continuous(target: Any) -> None:
    """Refuse latent sites that have no gradient or no fixed place, by name.

    Raises:
        ModelError: what `smc.SMC` can do instead is in the message.
    """
    if not target.staged.latent():
        raise ModelError(f"Model {target.name!r} has no latent site: nothing to infer. Are all of them observed?")
    for sites, what in ((target.discrete_sites, "discrete"), (target.conditional_sites, "conditional")):
        if sites:
            raise ModelError(
                f"TemperedSMC moves continuous latent sites that always exist; {list(sites)} of model "
                f"{target.name!r} are "
                f"{what}. Use smc.SMC(), which takes any site"
                + (", or sum them out with pi.enumerate." if what == "discrete" else ".")
            )


def check_start(target: Any, programs: TemperingPrograms, operands: Any, state: TemperedState) -> None:
    """Refuse a likelihood that is NaN at a draw from the prior, or zero at all of them.

    Raises:
        InferenceError: naming the site.
    """
    likelihood = np.asarray(state.log_likelihood).reshape(-1)
    wrong = np.isnan(likelihood) | np.isposinf(likelihood)
    dead = np.isneginf(likelihood.reshape(state.log_likelihood.shape)).all(axis=1)
    if not wrong.any() and not dead.any():
        return
    worst = int(np.argmax(wrong)) if wrong.any() else int(np.argmax(dead)) * state.log_likelihood.shape[1]
    x = state.position.reshape(-1, state.position.shape[-1])[worst]
    scores = {n: float(v) for n, v in target.site_logdensities(operands, programs.layout.unravel(x)).items()}
    guilty = next((n for n, v in scores.items() if not np.isfinite(v)), None)
    where = f" (at site {guilty!r})" if guilty is not None else ""
    if wrong.any():
        message = (
            f"TemperedSMC: the log likelihood of model {target.name!r} is NaN or +inf at "
            f"{int(wrong.sum())} of {wrong.size} "
            f"draws from the prior, step 0{where}. Likely causes: log or sqrt of a negative number, 0/0, an overflow; "
            "-inf is the legal zero."
        )
    else:
        message = (
            f"TemperedSMC: every one of {wrong.size} draws from the prior of model {target.name!r} "
            "has likelihood zero, "
            f"step 0{where}. Likely causes: data outside what the prior allows, a hard constraint of small prior "
            "probability (raise num_particles, or build it into the prior), a light-tailed density."
        )
    error = InferenceError(message)
    error.partial = {"position": np.asarray(state.position), "log_likelihood": np.asarray(state.log_likelihood)}
    raise error


def coordinate_name(layout: FlatLayout, index: int) -> str:
    """The scalar of a flat position, such as `theta[3]`."""
    for name, shape in layout.shapes.items():
        size = int(np.prod(shape, dtype=int))
        if index < size:
            where = ", ".join(str(int(i)) for i in np.unravel_index(index, shape))
            return f"{name}[{where}]" if shape else name
        index -= size
    raise AssertionError("index beyond the position")
