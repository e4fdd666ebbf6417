"""Checkpoints: a folder from which interrupted work goes on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from probinf.errors import ArgumentError, ArgumentTypeError, CheckpointError, ProbinfWarning
from probinf.runs.files import TEMPORARY, packed, sha256, unpacked, write
from probinf.runs.manifest import Manifest, differences, generations, manifest_path

if TYPE_CHECKING:
    from probinf.runs.loop import Loop

_MOST_OF_THE_TIME = 0.05  # share of the run that saving may take
_KEPT = 2  # generations: the last, and the one before in case the last is damaged


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where a run keeps its state, and how often. A path is accepted wherever a `Checkpoint` is.

    A run that finds its own checkpoint in the folder continues it, to the same numbers, bit for bit on the same
    machine. Raising the number of draws of a finished run extends it. Files of arrays and a manifest with a checksum of
    each are written under temporary names and renamed, the manifest last; nothing is ever unpickled.

    Args:
        folder: made if it does not exist.
        every: seconds between two saves; longer where saving would take over 5 % of the time.
        generation: take up this one instead of the latest; later ones are removed at the next save.

    Raises:
        ArgumentTypeError: `folder` is not a path.
        ArgumentError: `every` is negative or not finite, or `generation` is not a positive integer.
    """

    folder: str | os.PathLike[str]
    every: float | int = 30.0
    generation: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.folder, str | os.PathLike):
            raise ArgumentTypeError(f"checkpoint: expected a folder, found {self.folder!r}.")
        if (
            isinstance(self.every, bool)
            or not isinstance(self.every, int | float)
            or not 0 <= self.every < float("inf")
        ):
            raise ArgumentError(f"every: expected a number of seconds, 0 or more, found {self.every!r}.")
        number = self.generation
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise ArgumentError(f"generation: expected a positive integer or None, found {number!r}.")

    def within(self, name: str) -> Checkpoint:
        """A checkpoint in the subfolder `name`, with the same settings: for work made of several runs."""
        return dataclasses.replace(self, folder=Path(self.folder) / name)

    def open(self, fingerprint: Mapping[str, str]) -> CheckpointFolder:
        """The folder, ready to be written to by a run with this fingerprint.

        Raises:
            CheckpointError: the folder cannot be made or written to.
        """
        return CheckpointFolder(self, fingerprint)


def as_checkpoint(checkpoint: Checkpoint | str | os.PathLike[str] | None) -> Checkpoint | None:
    """A `Checkpoint` as it is, a path as the folder of one.

    Raises:
        ArgumentTypeError: it is neither.
    """
    return checkpoint if checkpoint is None or isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)


class Saved(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        state: arrays of the state.
        rows: finished output, in the order it was made.
        meta: `done` (units of work), `seconds` and `has_result`.
        result: the bytes of what could be returned then, or None.
    """

    state: dict[str, np.ndarray]
    rows: list[dict[str, np.ndarray]]
    meta: dict[str, Any]
    result: bytes | None


class CheckpointFolder:
    """One run's folder: `load` once, then `save` now and then.

    A generation is a manifest, a state and all files of rows up to it; rows are written once and shared by later
    generations. The last two generations are kept.
    """

    def __init__(self, settings: Checkpoint, fingerprint: Mapping[str, str]) -> None:
        self.folder = Path(settings.folder)
        self.notes: tuple[str, ...] = ()
        self._settings, self._fingerprint = settings, dict(fingerprint)
        self.done: int | None = None  # units of work at the last save
        self._previous: Manifest | None = None
        self._num_rows = 0  # pieces of output that are on disk
        self._last, self._cost = time.perf_counter(), 0.0
        probe = self.folder / f"writable{TEMPORARY}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise CheckpointError(f"checkpoint: cannot write to {self.folder}: {error.strerror or error}.") from error

    def load(self) -> Saved | None:
        """The checkpoint to continue, or None in a folder without any.

        Raises:
            CheckpointError: it is damaged, of another run, or the generation asked for is not there.
        """
        numbers, wanted = generations(self.folder), self._settings.generation
        if wanted is None and not numbers:
            return None
        if wanted is not None and wanted not in numbers:
            there = ", ".join(map(str, numbers)) or "none"
            raise CheckpointError(f"checkpoint: {self.folder} has no generation {wanted}; there: {there}.")
        saved, manifest = read(self.folder, numbers[-1] if wanted is None else wanted)
        found = differences(manifest.fingerprint, self._fingerprint)
        if found:
            raise CheckpointError(
                f"checkpoint: {self.folder} belongs to another run:\n"
                + "\n".join(f"  {line}" for line in found[:8])
                + (f"\n  and {len(found) - 8} more" if len(found) > 8 else "")
                + "\nUse another folder, or the settings and data it was made with."
            )
        self._previous, self._num_rows = manifest, len(saved.rows)
        if wanted is None:  # one that was asked for is written again, in the place of what came after it
            self.done = manifest.meta["done"]
        return saved

    def is_due(self) -> bool:
        """Whether it is time to save."""
        wait = max(self._settings.every, self._cost / _MOST_OF_THE_TIME)
        return time.perf_counter() - self._last >= wait

    def save(self, loop: Loop, seconds: float) -> None:
        """Write the state of a loop. Where that fails the old checkpoint stays, and the run goes on with a warning."""
        began = time.perf_counter()
        try:
            self._write(loop, seconds)
        except OSError as error:
            note = f"The checkpoint in {self.folder} could not be written: {error.strerror or error}."
            if note not in self.notes:
                self.notes = (*self.notes, note)
                warnings.warn(f"{note} The run goes on.", ProbinfWarning, stacklevel=4)
        self._last = time.perf_counter()
        self._cost = self._last - began

    def _write(self, loop: Loop, seconds: float) -> None:
        number = 1 if self._previous is None else self._previous.generation + 1
        files = {} if self._previous is None else {n: s for n, s in self._previous.files.items() if _is_rows(n)}
        new = loop.rows[self._num_rows :]
        if new:
            content = {f"{i}/{name}": value for i, piece in enumerate(new) for name, value in piece.items()}
            files[f"rows-{number:06d}.npz"] = self._put(f"rows-{number:06d}.npz", packed(content))
        files[f"state-{number:06d}.npz"] = self._put(f"state-{number:06d}.npz", packed(loop.state()))
        result = loop.result()
        if result is not None:
            name = f"result-{number:06d}.npz"
            result.save(self.folder / name)
            files[name] = sha256((self.folder / name).read_bytes())
        meta = {"done": loop.done, "seconds": seconds, "label": loop.label, "is_finished": loop.is_finished}
        manifest = Manifest(number, self._fingerprint, meta, files)
        write(manifest_path(self.folder, number), manifest.encode())
        self._previous, self._num_rows, self.done = manifest, len(loop.rows), loop.done
        self._tidy(number)

    def _put(self, name: str, data: bytes) -> str:
        write(self.folder / name, data)
        return sha256(data)

    def _tidy(self, number: int) -> None:
        """Remove generations that are too old, or newer than this one, and whatever nothing refers to any more."""
        kept = [n for n in generations(self.folder) if number - _KEPT < n <= number]
        needed = {manifest_path(self.folder, n).name for n in kept}
        for n in kept:
            try:
                needed |= set(Manifest.read(self.folder, n).files)
            except CheckpointError:
                continue
        for path in self.folder.iterdir():
            is_ours = path.name.startswith(("manifest-", "rows-", "state-", "result-"))
            if is_ours and path.name not in needed:
                path.unlink(missing_ok=True)


def read(folder: Path, number: int) -> tuple[Saved, Manifest]:
    """One generation, every checksum compared.

    Raises:
        CheckpointError: a file is missing or damaged; the message names the last whole generation before it.
    """
    try:
        return _read(folder, number)
    except CheckpointError as error:
        whole = [n for n in generations(folder) if n < number and _is_whole(folder, n)]
        advice = (
            f'Generation {whole[-1]} is whole: continue it with pi.Checkpoint("{folder}", generation={whole[-1]}).'
            if whole
            else "No earlier generation is whole: remove the folder to start again."
        )
        raise CheckpointError(f"{error} {advice}") from None


def _read(folder: Path, number: int) -> tuple[Saved, Manifest]:
    manifest = Manifest.read(folder, number)
    content = {name: manifest.content(folder, name) for name in sorted(manifest.files)}
    rows: list[dict[str, np.ndarray]] = []
    for name in filter(_is_rows, content):
        pieces: dict[int, dict[str, np.ndarray]] = {}
        for path, value in _arrays(folder / name, content[name]).items():
            index, _, field = path.partition("/")
            pieces.setdefault(int(index), {})[field] = value
        rows.extend(pieces[i] for i in sorted(pieces))
    name = f"state-{number:06d}.npz"
    state = _arrays(folder / name, content[name])
    return Saved(state, rows, manifest.meta, content.get(f"result-{number:06d}.npz")), manifest


def _arrays(path: Path, data: bytes) -> dict[str, np.ndarray]:
    try:
        return unpacked(data)
    except ValueError as error:
        raise CheckpointError(f"checkpoint: {path} is not a file of arrays ({error}).") from None


def _is_whole(folder: Path, number: int) -> bool:
    try:
        _read(folder, number)
    except CheckpointError:
        return False
    return True


def _is_rows(name: str) -> bool:
    return name.startswith("rows-")
