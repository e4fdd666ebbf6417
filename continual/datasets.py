"""Named data sets: from a local folder, or downloaded from their public homes and checked by SHA-256."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import lzma
import os
import tarfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from continual.checks import check_examples
from continual.sources import SOURCES, File, Source
from probinf.arguments import positive_integer
from probinf.errors import DataError, UnknownNameError
from probinf.runs.files import write

Opener = Callable[[str], Any]  # an address to a file object, as urllib.request.urlopen


class Examples(NamedTuple):
    """Inputs (examples, ...) and targets (examples,) or (examples, outputs)."""

    inputs: np.ndarray
    targets: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images or vectors with labels.

    Attributes:
        name: of the data set.
        train: official training part.
        test: official test part.
        num_classes: labels are below it.

    Raises:
        ArgumentTypeError: inputs or labels are no arrays of numbers.
        DataError: their numbers differ, or a label is none of 0, ..., `num_classes` - 1; the row is named.
    """

    name: str
    train: Examples
    test: Examples
    num_classes: int

    def __post_init__(self) -> None:
        positive_integer("num_classes", self.num_classes)
        for what, part in (("training", self.train), ("test", self.test)):
            check_examples(*part, f"data set {self.name!r}, {what} data", self.num_classes)


def load(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
    opener: Opener = urllib.request.urlopen,
) -> Dataset:
    """A named data set: "mnist", "fashion-mnist", "cifar10", "cifar100" or "digits".

    Files are looked for in `folder`, else in the folder named by the environment variable PROBINF_DATA, else in
    `~/.cache/probinf`, there in a subfolder of the data set's name. "digits" comes with the package.

    Args:
        name: of the data set.
        folder: where files are, or are put.
        download: fetch what is missing from the data set's public home; every file's SHA-256 is compared.
        opener: opens an address; for proxies of your own.

    Returns:
        uint8 images, (examples, 28, 28) or (examples, 32, 32, 3), and integer labels.

    Raises:
        UnknownNameError: no data set has this name.
        DataError: a file is absent, damaged, or could not be fetched; the message says what to do.

    Example:
        >>> load("digits").train.inputs.shape
        (1297, 8, 8)
    """
    if name == "digits":
        return _digits()
    if name not in SOURCES:
        raise UnknownNameError(name, ("digits", *SOURCES), "data set", "continual.load")
    source = SOURCES[name]
    where = folder or os.environ.get("PROBINF_DATA") or Path.home() / ".cache" / "probinf"
    place = Path(where) / name
    if source.reader == "cifar" and (place / "test.npy.xz").is_file():
        return _by_class(name, place, source.num_classes)
    contents = [_content(file, source, name, place, download, opener) for file in source.files]
    try:
        return _idx_dataset(name, contents) if source.reader == "idx" else _cifar_dataset(name, contents[0], source)
    except (OSError, EOFError, ValueError, KeyError, tarfile.TarError) as error:
        raise DataError(f"{name}: a file in {place} cannot be read ({error}). Remove it and load again.") from error


def _content(file: File, source: Source, name: str, place: Path, download: bool, opener: Opener) -> bytes:
    path = place / file.name
    if path.is_file():
        content = path.read_bytes()
        _require_checksum(content, file, f"{path}: remove it and load again")
        return content
    if not download:
        names = ", ".join(file.name for file in source.files)
        raise DataError(
            f"{name}: {path} is not there. Pass download=True to fetch it from {source.home} "
            "(--download on the command line), or point PROBINF_DATA (or folder=) at a folder whose subfolder "
            f"{name!r} has the files {names}."
        )
    address = source.home + file.name
    try:
        with opener(address) as answer:
            content = answer.read()
    except OSError as error:
        raise DataError(
            f"{name}: {address} could not be fetched ({error}). Fetch it by other means and put it into {place}."
        ) from error
    _require_checksum(content, file, f"{address}: try again, or fetch it by other means and put it into {place}")
    place.mkdir(parents=True, exist_ok=True)
    write(path, content)
    return content


def _require_checksum(content: bytes, file: File, what_to_do: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise DataError(f"{file.name} has SHA-256 {found}, expected {file.sha256}. {what_to_do}.")


def _idx_dataset(name: str, contents: list[bytes]) -> Dataset:
    train_inputs, train_labels, test_inputs, test_labels = (_idx(gzip.decompress(content)) for content in contents)
    return Dataset(
        name, Examples(train_inputs, train_labels.astype(int)), Examples(test_inputs, test_labels.astype(int)), 10
    )


def _idx(content: bytes) -> np.ndarray:
    """An array in the idx format: two zero bytes, type 8 (bytes), rank, then dimensions as big-endian uint32."""
    if content[:3] != b"\x00\x00\x08":
        raise ValueError("it is no idx file of bytes")
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(tuple(map(int, shape)))


def _cifar_dataset(name: str, content: bytes, source: Source) -> Dataset:
    parts = []
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for names in (source.train_members, source.test_members):
            files = [archive.extractfile(member) for member in names]
            rows = np.frombuffer(b"".join(file.read() for file in files if file is not None), np.uint8)
            rows = rows.reshape(-1, source.label_bytes + 3072)  # CIFAR-100: coarse label, fine label, pixels
            images = np.moveaxis(rows[:, source.label_bytes :].reshape(-1, 3, 32, 32), 1, 3)
            parts.append(Examples(images, rows[:, source.label_bytes - 1].astype(int)))
    return Dataset(name, parts[0], parts[1], source.num_classes)


def _by_class(name: str, place: Path, num_classes: int) -> Dataset:
    """Arrays sorted by class: train_class0.npy.xz, ..., and test.npy.xz, uint8 planes (examples, 3, 32, 32)."""
    train = [_unpacked(place / f"train_class{k}.npy.xz") for k in range(num_classes)]
    test = _unpacked(place / "test.npy.xz")
    labels = np.repeat(np.arange(num_classes), [len(images) for images in train])
    test_labels = np.repeat(np.arange(num_classes), len(test) // num_classes)
    return Dataset(
        name,
        Examples(np.moveaxis(np.concatenate(train), 1, 3), labels),
        Examples(np.moveaxis(test, 1, 3), test_labels),
        num_classes,
    )


def _unpacked(path: Path) -> np.ndarray:
    try:
        return np.load(io.BytesIO(lzma.decompress(path.read_bytes())), allow_pickle=False)
    except (OSError, lzma.LZMAError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}).") from error


def _digits() -> Dataset:
    """1,297 + 500 handwritten digits, 8 x 8 pixels; see continual/data/README.md."""
    with np.load(Path(__file__).parent / "data" / "digits.npz", allow_pickle=False) as file:
        return Dataset(
            "digits",
            Examples(file["train_images"], file["train_labels"].astype(int)),
            Examples(file["test_images"], file["test_labels"].astype(int)),
            10,
        )
