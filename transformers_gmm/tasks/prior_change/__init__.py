"""The public prior-change suite: six simulators, three families of test-time priors."""

from transformers_gmm.tasks.prior_change.causal_inference import CausalInference
from transformers_gmm.tasks.prior_change.gaussian_linear import GaussianLinear
from transformers_gmm.tasks.prior_change.oup import OUP
from transformers_gmm.tasks.prior_change.priors import FAMILIES, Family, Prior, PriorSettings, published_priors
from transformers_gmm.tasks.prior_change.task import AbstractPriorChange, AbstractTractable, FromStored
from transformers_gmm.tasks.prior_change.turin import Turin
from transformers_gmm.tasks.prior_change.two_moons import TwoMoons

#: Tasks whose network is trained; the base of `GaussianLinear` is exact without.
TRAINED: tuple[AbstractPriorChange, ...] = (TwoMoons(), OUP(), Turin(), CausalInference())
SUITE: tuple[AbstractPriorChange, ...] = (*TRAINED, GaussianLinear(10), GaussianLinear(20))

__all__ = [
    "FAMILIES",
    "OUP",
    "SUITE",
    "TRAINED",
    "AbstractPriorChange",
    "AbstractTractable",
    "CausalInference",
    "Family",
    "FromStored",
    "GaussianLinear",
    "Prior",
    "PriorSettings",
    "Turin",
    "TwoMoons",
    "published_priors",
]
