"""Draw from a guide, weigh by the program: importance sampling as a transformation of programs."""

from __future__ import annotations

import dataclasses
from typing import Any

from probinf.errors import ModelError, UnknownNameError
from probinf.language.distributions import log_density
from probinf.language.evaluate import Handler, Records
from probinf.language.handlers import Condition
from probinf.language.primitives import Site, bind_factor, bind_sample
from probinf.language.program import Program
from probinf.language.staging import Arguments, Staged


class Drawn(Handler):
    """Emit the guide's draws and remember their log densities."""

    def sample(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, Records]:
        (value,) = bind_sample(site, distribution)
        return value, state, {site.name: value, f"log q({site.name})": log_density(distribution, value)}


class _Weigh(Condition):
    """At every guided site score p / q; all else as in the program."""

    def sample(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, Records]:
        if value is None:
            return super().sample(site, distribution, value, state)
        value, log_q = value["value"], value["log_q"]
        bind_factor(Site(""), log_density(distribution, value) - log_q)
        return value, state, {}


@dataclasses.dataclass(frozen=True)
class _Guided:
    program: Staged
    guide: Staged
    names: tuple[str, ...]

    def __call__(self, operands: Any) -> Any:
        own, guides = operands
        records = self.guide.run(guides, Drawn(), (), {})[2]
        drawn = {n: {"value": records[n], "log_q": records[f"log q({n})"]} for n in self.names}
        return self.program.run(own, _Weigh(), (), drawn)[0]


def importance(program: Program, guide: Program) -> Program:
    """The same measure with sites drawn from a guide instead of their prior. Claim: exact where the guide covers them.

    The guide is a program without observations whose sites have the names and shapes of the program's; sites that it
    leaves out are drawn from their prior. Every guided site then scores p / q where the program has it, so a population
    may resample there.

    Raises:
        UnknownNameError: the guide draws a site that the program does not have.
        ModelError: the guide scores, or its site has another shape or stands in a branch.
    """
    theirs = {s.name: s for s in program.staged.latent()}
    names = []
    for site in guide.staged.sites:
        if site.kind in ("observe", "factor"):
            raise ModelError(
                f"importance: the guide {guide.name!r} scores at site {site.label}. A guide is a distribution: it "
                "draws and does not observe."
            )
        if site.kind != "sample":
            continue
        if site.name not in theirs:
            raise UnknownNameError(
                site.name, theirs, "latent site", f"program {program.name!r}, which the guide is for"
            )
        if site.shape != theirs[site.name].shape or site.loops != theirs[site.name].loops:
            raise ModelError(
                f"importance: site {site.label} has shape {site.shape} in the guide and {theirs[site.name].shape} in "
                "the program, loops included; they must agree."
            )
        if site.branches:
            raise ModelError(
                f"importance: site {site.label} of the guide stands in a branch, so it is not always drawn."
            )
        names.append(site.name)
    function = _Guided(program.staged, guide.staged, tuple(names))
    operands = Arguments.split(((program.operands, guide.operands),), {})
    return Program(f"importance({program.name}, {guide.name})", function, operands)
