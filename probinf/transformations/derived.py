"""Programs made of programs: run one inline, then go on with its result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from probinf.language.handlers import Condition
from probinf.language.program import Program
from probinf.language.staging import Arguments, Staged


@dataclasses.dataclass(frozen=True)
class _Then:
    staged: Staged
    function: Callable[[Any], Any]

    def __call__(self, operands: Any) -> Any:
        return self.function(self.staged.run(operands, Condition(), (), {})[0])


def derived(name: str, program: Program, function: Callable[[Any], Any]) -> Program:
    """The program that runs `program` inline and hands its result to a function with statements."""
    return Program(f"{name}({program.name})", _Then(program.staged, function), own_operands(program))


def own_operands(program: Program) -> Arguments:
    """The arguments of a program derived from another: the other's arrays, as one argument."""
    return Arguments.split((program.operands,), {})
