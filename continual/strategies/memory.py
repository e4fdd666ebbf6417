"""Bounded memories of examples: which are kept when more come than fit."""

from __future__ import annotations

import abc

import equinox as eqx
import numpy as np

from probinf.arguments import positive_integer


class Stored(eqx.Module):
    """Examples kept.

    Attributes:
        inputs: (kept, features).
        labels: (kept,).
        num_seen: examples that have passed by.
    """

    inputs: np.ndarray
    labels: np.ndarray
    num_seen: np.ndarray

    @classmethod
    def empty(cls, width: int, dtype: np.dtype) -> Stored:
        """Nothing kept yet."""
        return cls(np.zeros((0, width), dtype), np.zeros(0, np.int32), np.asarray(0, np.int32))


class AbstractMemory(eqx.Module):
    """A rule for what to keep; `capacity` examples in all."""

    @abc.abstractmethod
    def kept(self, old: np.ndarray, new: np.ndarray, num_seen: int, rng: np.random.Generator) -> np.ndarray:
        """Indices to keep, given the labels stored and those that come, counted on from the stored ones."""

    def with_examples(self, stored: Stored, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Stored:
        """The memory after a batch of examples has passed by, in its order."""
        num_seen = int(stored.num_seen)
        chosen = self.kept(np.asarray(stored.labels), y, num_seen, rng)
        inputs = np.concatenate([np.asarray(stored.inputs, x.dtype), x])[chosen]
        labels = np.concatenate([np.asarray(stored.labels), y])[chosen]
        return Stored(inputs, labels.astype(np.int32), np.asarray(num_seen + len(x), np.int32))


class ReservoirMemory(AbstractMemory):
    """A uniform sample of all examples that have passed by.

    Args:
        capacity: examples kept.

    References:
        Vitter (1985), Random sampling with a reservoir, algorithm R.
    """

    capacity: int = eqx.field(static=True, default=1000)

    def __check_init__(self) -> None:
        positive_integer("capacity", self.capacity)

    def kept(self, old: np.ndarray, new: np.ndarray, num_seen: int, rng: np.random.Generator) -> np.ndarray:
        slots = list(range(len(old)))
        for i in range(len(new)):
            if len(slots) < self.capacity:
                slots.append(len(old) + i)
                continue
            place = int(rng.integers(num_seen + i + 1))
            if place < self.capacity:
                slots[place] = len(old) + i
        return np.array(slots, int)


class BalancedMemory(AbstractMemory):
    """As many examples of each class as there are of any other, as far as they have come.

    Args:
        capacity: examples kept.

    References:
        Prabhu, Torr & Dokania (2020), GDumb: a simple approach that questions our progress in continual learning,
        Alg. 1.
    """

    capacity: int = eqx.field(static=True, default=1000)

    def __check_init__(self) -> None:
        positive_integer("capacity", self.capacity)

    def kept(self, old: np.ndarray, new: np.ndarray, num_seen: int, rng: np.random.Generator) -> np.ndarray:
        slots: dict[int, list[int]] = {}
        for i, label in enumerate(old.tolist()):
            slots.setdefault(label, []).append(i)
        total = len(old)
        for i, label in enumerate(new.tolist()):
            mine = slots.setdefault(label, [])
            if total < self.capacity:
                total += 1
            else:
                if len(mine) >= self.capacity / len(slots):
                    continue
                largest = max(slots.values(), key=len)
                largest.pop(int(rng.integers(len(largest))))
            mine.append(len(old) + i)
        return np.array(sorted(i for group in slots.values() for i in group), int)
