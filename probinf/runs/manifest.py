"""The manifest of a checkpoint: which files it consists of, their checksums, and the run it belongs to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from probinf.errors import CheckpointError
from probinf.runs.files import sha256

_FORMAT, _SCHEMA = "probinf-checkpoint", 1
_NAME = re.compile(r"manifest-(\d{6,})\.json")
_FILE = re.compile(r"(rows|state|result)-\d{6,}\.npz")


class Manifest(NamedTuple):
    """One generation.

    Attributes:
        generation: its number, from 1.
        fingerprint: what must be the same for the run to be continued, name -> description.
        meta: numbers about the run.
        files: name -> SHA-256 of the content.
    """

    generation: int
    fingerprint: dict[str, str]
    meta: dict[str, Any]
    files: dict[str, str]

    def encode(self) -> bytes:
        """The manifest as text: one line of JSON and the checksum of that line."""
        body = {"format": _FORMAT, "schema": _SCHEMA, **self._asdict()}
        line = json.dumps(body, sort_keys=True).encode()
        return line + b"\n" + sha256(line).encode() + b"\n"

    @staticmethod
    def read(folder: Path, number: int) -> Manifest:
        """The manifest of one generation.

        Raises:
            CheckpointError: it is missing, damaged, or of another format or schema.
        """
        path = manifest_path(folder, number)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"checkpoint: cannot read {path}: {error.strerror or error}.") from error
        line, _, rest = data.partition(b"\n")
        if rest != sha256(line).encode() + b"\n":
            raise CheckpointError(f"checkpoint: {path} is damaged: its checksum does not match.")
        try:
            body = json.loads(line)
            if body.pop("format") != _FORMAT:
                raise KeyError("format")
            schema = body.pop("schema")
            if schema != _SCHEMA:
                raise CheckpointError(
                    f"checkpoint: {path} has schema {schema}, this version of probinf reads {_SCHEMA}: use the version "
                    "that wrote it."
                )
            manifest = Manifest(**body)
        except CheckpointError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"checkpoint: {path} is not a manifest of a checkpoint ({error}).") from None
        if manifest.generation != number or not all(_FILE.fullmatch(name) for name in manifest.files):
            raise CheckpointError(f"checkpoint: {path} is not the manifest of generation {number}.")
        return manifest

    def content(self, folder: Path, name: str) -> bytes:
        """The bytes of a file, whose checksum is right.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        path = folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"checkpoint: cannot read {path}: {error.strerror or error}.") from error
        if sha256(data) != self.files[name]:
            raise CheckpointError(f"checkpoint: {path} is damaged: {len(data)} bytes whose checksum does not match.")
        return data


def manifest_path(folder: Path, number: int) -> Path:
    """Where the manifest of a generation is."""
    return folder / f"manifest-{number:06d}.json"


def generations(folder: Path) -> list[int]:
    """The numbers of all manifests in a folder, in order."""
    found = (_NAME.fullmatch(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(match[1]) for match in found if match)


def differences(stored: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """One line for each entry of two fingerprints that is not the same."""
    lines = []
    for name in [*stored, *(n for n in now if n not in stored)]:
        old, new = stored.get(name), now.get(name)
        if old != new:
            lines.append(f"{name}: {old if old is not None else 'absent'} there, {new or 'absent'} here")
    return lines
