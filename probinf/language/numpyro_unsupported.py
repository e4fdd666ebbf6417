"""What NumPyro offers and programs do not, with what to write instead."""

from __future__ import annotations

from typing import Any

from probinf.errors import ModelError
from probinf.language.places import caller

#: Feature -> the reason and what to write instead.
UNSUPPORTED = {
    "numpyro.param": "a parameter to optimise has no prior; use numpyro.sample, or handlers.lift to give it one.",
    "numpyro.module": "network parameters have no prior; draw them with numpyro.sample, or pass them as arguments.",
    "numpyro.primitives.mutable": "a program has no state beside its draws; carry the value through scan.",
    "numpyro.prng_key": "programs hold no keys; draw with numpyro.sample.",
    "plate(subsample_size=...)": "a program denotes the full data; leave subsample_size out.",
    "handlers.scale on a latent site": "a scaled prior cannot be drawn from; scale observed sites or factors only.",
    "handlers.mask on a latent site": (
        "a masked draw has no proper prior; leave the mask off (unused entries keep their prior), mask observed sites."
    ),
    "handlers.block on a latent site": "a hidden draw cannot be inferred; remove the block, or pass the value in.",
    "handlers.replay around scan": "use numpyro.handlers.condition or substitute with stacked values.",
    "data for a part of a scan": "give every iteration a value, or scan twice: once over the data, once onwards.",
    "scan or cond inside a plate": "open the plate inside of the function that scan or cond calls.",
    "funsor (handlers.collapse, enum)": "use pi.enumerate on the program, or an SMC method, for discrete latent sites.",
}


def unsupported(feature: str, where: str) -> ModelError:
    """The error for a NumPyro feature that programs do not have."""
    return ModelError(f"{where}: {feature} is not supported: {UNSUPPORTED[feature]}")


def label_of(msg: Any) -> str:
    """A statement's site for a message: its name and where it stands."""
    return f"Site {msg['name']!r} ({caller()})"
