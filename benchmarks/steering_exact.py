"""Exact success probabilities of the baselines on the three-letter toy, by enumeration of every draw.

The answer of a sequence is its last letter, and `RIGHT` is the right one. The judge's score of a prefix is the sum of
its log potentials. Ties of scores have probability zero.
"""

from __future__ import annotations

import itertools

import numpy as np

RIGHT = 2


class Toy:
    """All 81 sequences of a chain of three letters.

    Attributes:
        paths: (81, 4).
        prior: (81,).
        score: (81,) sums of log potentials.
        right: (81,) whether the last letter is the right one.
    """

    def __init__(self, first: np.ndarray, table: np.ndarray, log_g: np.ndarray) -> None:
        self.first, self.table, self.log_g = first, table, log_g
        steps = len(log_g)
        self.paths = np.array(list(itertools.product(range(3), repeat=steps)))
        self.prior = first[self.paths[:, 0]] * np.prod(table[self.paths[:, :-1], self.paths[:, 1:]], axis=1)
        self.score = log_g[np.arange(steps), self.paths].sum(axis=1)
        self.right = self.paths[:, -1] == RIGHT

    def sets(self, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices (M, num) of all ordered samples, and their probabilities."""
        index = np.array(list(itertools.product(range(len(self.paths)), repeat=num)))
        return index, np.prod(self.prior[index], axis=1)

    def greedy(self) -> float:
        """The likeliest letter at each step."""
        letter = int(np.argmax(self.first))
        for _ in range(len(self.log_g) - 1):
            letter = int(np.argmax(self.table[letter]))
        return float(letter == RIGHT)

    def best_of(self, num: int) -> float:
        """The best of `num` independent sequences."""
        index, p = self.sets(num)
        best = np.take_along_axis(index, np.argmax(self.score[index], axis=1)[:, None], axis=1)[:, 0]
        return float(p @ self.right[best])

    def vote(self, num: int, weighted: bool) -> float:
        """The letter with most votes, weighted by exp(score) or not; the letter drawn first wins a tie."""
        index, p = self.sets(num)
        letters = self.paths[index, -1]
        weights = np.exp(self.score[index]) if weighted else np.ones(index.shape)
        totals = np.stack([np.where(letters == k, weights, 0).sum(axis=1) for k in range(3)], axis=1)
        of_each = np.take_along_axis(totals, letters, axis=1)
        winner = np.take_along_axis(letters, np.argmax(of_each, axis=1)[:, None], axis=1)[:, 0]
        return float(p @ (winner == RIGHT))

    def tree(self, width: int) -> float:
        """Beam or diverse tree search with one beam of `width` children: the law of the letter kept at each step."""
        state = {(-1, 0.0): 1.0}
        for step in range(len(self.log_g)):
            new: dict[tuple[int, float], float] = {}
            for (letter, score), chance in state.items():
                law = self.first if letter < 0 else self.table[letter]
                for children in itertools.product(range(3), repeat=width):
                    kept = children[int(np.argmax(self.log_g[step, list(children)]))]
                    key = kept, score + self.log_g[step, kept]
                    new[key] = new.get(key, 0.0) + chance * float(np.prod(law[list(children)]))
            state = new
        return sum(chance for (letter, _), chance in state.items() if letter == RIGHT)

    def halving(self, num: int) -> float:
        """Best of `num` after the worse half of the live prefixes was given up behind each step."""
        index, p = self.sets(num)
        prefix = np.cumsum(self.log_g[np.arange(len(self.log_g)), self.paths], axis=1)[index]  # (M, num, steps)
        alive = np.ones(index.shape, bool)
        for step in range(len(self.log_g) - 1):
            scores = np.where(alive, prefix[:, :, step], -np.inf)
            rank = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable")
            alive &= rank < (alive.sum(axis=1, keepdims=True) + 1) // 2
        final = np.where(alive, prefix[:, :, -1], -np.inf)
        best = np.take_along_axis(index, np.argmax(final, axis=1)[:, None], axis=1)[:, 0]
        return float(p @ self.right[best])

    def refined(self, accept: float, rounds: int) -> float:
        """Whole sequences drawn anew until one scores `accept`, at most 1 + `rounds`; the best one met."""
        chance, seen = 0.0, {(-1,): 1.0}
        for tries in range(rounds + 1):
            new: dict[tuple[int, ...], float] = {}
            for (best,), p in seen.items():
                for i, q in enumerate(self.prior):
                    now = i if best < 0 or self.score[i] > self.score[best] else best
                    if self.score[now] >= accept or tries == rounds:
                        chance += p * q * self.right[now]
                    else:
                        new[(now,)] = new.get((now,), 0.0) + p * q
            seen = new
        return float(chance)

    def best_first(self, width: int) -> float:
        """Best-first search that never runs out of budget, optimism the largest log potential, by recursion.

        With a bound that holds, the first finished prefix taken from the queue is the best leaf of the tree of all
        children that would be drawn; unexpanded prefixes cannot lead to a better one. So the answer has the law of the
        best leaf of a full tree with `width` children everywhere.
        """
        law = {-1: self.first, **{k: self.table[k] for k in range(3)}}
        steps = len(self.log_g)
        # Law of (best score to come, its last letter) below a prefix that ends in a letter.
        below: dict[int, dict[tuple[float, int], float]] = {k: {(0.0, k): 1.0} for k in range(3)}
        for step in range(steps - 1, -1, -1):
            child: dict[int, dict[tuple[float, int], float]] = {}
            for letter in law if step == 0 else range(3):
                if (letter < 0) != (step == 0):
                    continue
                one: dict[tuple[float, int], float] = {}
                for k in range(3):
                    for (value, last), p in below[k].items():
                        key = round(value + self.log_g[step, k], 12), last
                        one[key] = one.get(key, 0.0) + p * law[letter][k]
                child[letter] = _best_of(one, width)
            below = child
        return sum(p for (_, last), p in below[-1].items() if last == RIGHT)


def _best_of(law: dict[tuple[float, int], float], width: int) -> dict[tuple[float, int], float]:
    """Law of the largest of `width` independent draws."""
    ordered = sorted(law.items())
    found, before = {}, 0.0
    for key, p in ordered:
        found[key] = (before + p) ** width - before**width
        before += p
    return found
