"""The one verb: a program and a method in, a posterior out."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from probinf.errors import ArgumentTypeError
from probinf.inference.auto import Auto
from probinf.inference.method import AbstractMethod
from probinf.inference.posterior import Posterior
from probinf.language.door import check_reachable, warn_none_arguments, without_rows
from probinf.language.numpyro_models import as_program
from probinf.random import as_key
from probinf.runs import Checkpoint
from probinf.runs.checkpoint import as_checkpoint


def infer(
    program: Any,
    method: AbstractMethod | None = None,
    *args: Any,
    seed: Any = 0,
    progress: bool = True,
    checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    allow_empty: bool = False,
    **kwargs: Any,
) -> Posterior:
    """Draw from the posterior of a program.

    Args:
        program: a program (`model(...)`, usually with data given), or a NumPyro model whose arguments follow.
        method: how: `pi.NUTS()`, `smc.SMC(num_particles=1000)`, ... By default `pi.Auto()`, which takes ChEES or NUTS
            and says which and why.
        args: arguments of a NumPyro model.
        seed: an integer or a key; the same seed gives the same draws.
        progress: show a bar where the output is a terminal.
        checkpoint: a folder to keep the run's state in. The same call after an interrupt, a crash or a power cut goes
            on from there to the same numbers; `pi.look(folder)` shows what there is so far.
        allow_empty: accept data without rows, an error otherwise; the posterior's warnings say that it is the prior.
        kwargs: keyword arguments of a NumPyro model.

    Returns:
        Named draws with summary, plots and ArviZ export.

    Raises:
        ArgumentTypeError: `method` is not a method.
        DataError: data that the model cannot have produced, or without rows.
        ModelError: the program cannot be run by this method; the message names the site and what can.
        InferenceError: no legal start, or the run broke down; what was finished is on `.partial`.
        CheckpointError: the folder cannot be written to, is damaged, or belongs to another run.
    """
    if method is None:
        method = Auto()
    if isinstance(method, type) and issubclass(method, AbstractMethod):
        raise ArgumentTypeError(f"method: write {method.__name__}(), an object with settings, not the class.")
    if not isinstance(method, AbstractMethod):
        raise ArgumentTypeError(
            f"method: expected an inference method such as pi.NUTS() or smc.SMC(), found {type(method).__name__}."
        )
    bound = as_program(program, *args, **kwargs)
    if allow_empty:
        bound = dataclasses.replace(bound, allow_empty=True)
    key = as_key(seed)
    warn_none_arguments(bound)
    check_reachable(bound)
    kept = {} if checkpoint is None else {"checkpoint": as_checkpoint(checkpoint)}
    posterior = method.run(bound, key, progress=progress, **kept)
    note = without_rows(bound.staged)
    return dataclasses.replace(posterior, warnings=(note, *posterior.warnings)) if note else posterior
