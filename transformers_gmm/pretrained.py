"""The networks that ship with the package."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from probinf.errors import ArgumentError
from transformers_gmm.batches import answer_all
from transformers_gmm.components import Components
from transformers_gmm.filtering import MixtureFilter
from transformers_gmm.network import ResidualTransformer
from transformers_gmm.published import DistributionTransformer
from transformers_gmm.recurrent import AbstractRecurrentTask
from transformers_gmm.task import AbstractTask
from transformers_gmm.tasks.registry import make_task
from transformers_gmm.weights import load_network

_FOLDER = Path(__file__).parent / "trained"
KINDS = {"ResidualTransformer": ResidualTransformer, "DistributionTransformer": DistributionTransformer}


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network with what it was trained for.

    Attributes:
        task: the task.
        network: problems in, mixtures out.
        header: of its file: settings, record of training, checksum.
    """

    task: AbstractTask
    network: Any
    header: dict[str, Any]

    def filter_method(self) -> MixtureFilter:
        """The network as a filtering method: `task.system(prior).filter(method)`.

        Raises:
            ArgumentError: the task is no state-space model.
        """
        if not isinstance(self.task, AbstractRecurrentTask):
            raise ArgumentError(f"task: {self.task.name!r} is a single update, not a state-space model to filter with.")
        return MixtureFilter(self.task, self.network)

    def posteriors(self, prior: Any, data: Any) -> Components:
        """Answers to n problems in one call.

        Args:
            prior: with leading axis n, as the task takes it (`task.draw(key, n)` makes such priors and data).
            data: the same.

        Raises:
            ArgumentError: the task is a state-space model.
        """
        if isinstance(self.task, AbstractRecurrentTask):
            raise ArgumentError(f"task: {self.task.name!r} is a state-space model; filter_method() makes it a filter.")
        return answer_all(self.network, self.task, prior, data)

    def __repr__(self) -> str:
        record = self.header["record"]
        return f"Trained({self.task.name!r}, {record['seconds']:.0f} s on {record['device']})"


def trained() -> list[str]:
    """Names of the networks that ship with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def load(name: str, path: str | Path | None = None) -> Trained:
    """A trained network.

    Args:
        name: of its task.
        path: of the file of weights; the shipped one if left out.

    Raises:
        UnknownNameError: there is no such task.
        ArgumentError: no trained network ships for it.
        CheckpointError: the file is damaged or for another task.
    """
    task = make_task(name)
    file = _FOLDER / f"{name}.safetensors" if path is None else Path(path)
    if path is None and not file.is_file():
        raise ArgumentError(f"name: no trained network ships for {name!r}; there are {', '.join(trained())}.")
    network, header = load_network(file, KINDS, task=name)
    return Trained(task, network, header)
