"""Calls to a black box on the host: whole batches, slots that answer later, time-outs and retries per particle."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import inspect
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from probinf.errors import ModelError


class Outcome(NamedTuple):
    """Answers of one batch.

    Attributes:
        values: one for each particle; None where it was lost.
        lost: index in the batch to (reason, attempts).
    """

    values: list[Any]
    lost: dict[int, tuple[str, int]]


def call_batch(
    name: str, function: Callable[[list[int]], Any], size: int, *, timeout: float | None, retries: int
) -> Outcome:
    """Ask for the answers of a batch; what fails is asked for again, alone.

    Args:
        name: of the function, for messages.
        function: indices of the particles that are wanted to the batch's answers: a sequence, or an awaitable of one.
            A slot may hold a value, an exception, an awaitable or a `concurrent.futures.Future`.
        size: number of particles.
        timeout: seconds for one slot that answers later, or for an awaitable batch.
        retries: further attempts for what failed.

    Raises:
        ModelError: another number of answers than particles.
    """
    values: list[Any] = [None] * size
    wanted, reasons = list(range(size)), {}
    for attempt in range(1, retries + 2):
        try:
            answers = _settled(name, function(wanted), len(wanted), timeout)
        except ModelError:
            raise
        except Exception as error:
            answers = [error] * len(wanted)
        reasons = {}
        for index, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, BaseException):
                reasons[index] = (describe(answer), attempt)
            else:
                values[index] = answer
        wanted = list(reasons)
        if not wanted:
            break
    return Outcome(values, reasons)


def _settled(name: str, answers: Any, num: int, timeout: float | None) -> list[Any]:
    """Values and exceptions; a loop is started only for what answers later."""
    if inspect.isawaitable(answers):
        answers = run_coroutine(_in_time(answers, timeout))
    answers = list(answers)
    if len(answers) != num:
        raise ModelError(f"{name}: expected {num} answers, one for each state in order, found {len(answers)}.")
    if not any(_is_later(answer) for answer in answers):
        return answers

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(_settle(answer, timeout) for answer in answers), return_exceptions=True)

    return run_coroutine(all_of_them())


def _is_later(answer: Any) -> bool:
    return inspect.isawaitable(answer) or isinstance(answer, concurrent.futures.Future)


async def _settle(answer: Any, timeout: float | None) -> Any:
    if isinstance(answer, concurrent.futures.Future):
        answer = asyncio.wrap_future(answer)
    return await _in_time(answer, timeout) if inspect.isawaitable(answer) else answer


async def _in_time(answer: Any, timeout: float | None) -> Any:
    try:
        return await asyncio.wait_for(answer, timeout)
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {timeout} s") from error


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, in a thread of its own where a loop is running already (notebooks)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    found: dict[str, Any] = {}

    def work() -> None:
        try:
            found["value"] = asyncio.run(coroutine)
        except BaseException as error:
            found["error"] = error

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if "error" in found:
        raise found["error"]
    return found["value"]


def each(function: Callable[..., Any], workers: int = 8) -> Callable[..., list[Any]]:
    """A function of one state (and one key) as a function of the batch.

    A coroutine function gives one awaitable for each state; an ordinary one runs in a pool of threads. A thread cannot
    be stopped: after a time-out its answer is dropped, but it keeps its worker until it returns.

    ```python
    box = smc.BlackBox("", smc.each(extend_one), smc.each(judge_one))
    ```
    """
    if inspect.iscoroutinefunction(function):
        return lambda states, *keys: [function(*row) for row in zip(states, *keys, strict=True)]
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    if _num_arguments(function) == 1:
        return lambda states: [pool.submit(function, state) for state in states]
    return lambda states, keys: [pool.submit(function, *row) for row in zip(states, keys, strict=True)]


def copies(states: Sequence[Any]) -> list[Any]:
    """Deep copies: children of one parent, and the history, must not share what a generator may change in place."""
    return [copy.deepcopy(state) for state in states]


def describe(error: BaseException) -> str:
    """Type and first line of an error."""
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def _num_arguments(function: Callable[..., Any]) -> int:
    return len(inspect.signature(function).parameters)
