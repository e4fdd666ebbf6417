"""Steering a generator behind HTTP: batched calls, a particle that fails, an interrupt and a resume, the same answer.

    python -m examples.steering_client [--seed 0]

A small server on this machine stands in for a language model and its judge: `/extend` adds a word to each of a list of
texts (slowly, by seed), `/judge` scores prefixes. The client speaks JSON over HTTP and knows nothing of particles; the
run is written to a file after each step.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import pathlib
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array

import smc

WORDS = ("sound", "proof", "guess", "error", "done.")
GOOD = {"sound": 1.2, "proof": 0.8, "guess": -0.7, "error": -1.5, "done.": 0.0}
POTENTIAL = smc.Potential("odds", "difference")


class Server(http.server.ThreadingHTTPServer):
    """A fake model: the same text and seed always give the same word."""

    def __init__(self, delay: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.delay = delay
        self.requests: list[tuple[str, int]] = []
        self.refuses: set[str] = set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.requests.append((self.path, len(body["texts"])))
        time.sleep(server.delay)
        if self.path == "/extend":
            answer = [_extend(t, s, server.refuses) for t, s in zip(body["texts"], body["seeds"], strict=True)]
        else:
            answer = [_judge(t) for t in body["texts"]]
        payload = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""


def _extend(text: str, seed: int, refuses: set[str]) -> dict[str, str]:
    word = WORDS[np.random.default_rng(seed).choice(5, p=[0.2, 0.2, 0.25, 0.2, 0.15])]
    longer = f"{text} {word}".strip()
    return {"error": "content filter"} if longer in refuses else {"text": longer}


def _judge(text: str) -> float:
    return float(1 / (1 + np.exp(1 - sum(GOOD[w] for w in text.split()))))


class Client:
    """The adapter: lists of texts in, lists of texts or scores out."""

    def __init__(self, url: str) -> None:
        self.url = url

    def post(self, path: str, **body: Any) -> Any:
        """One request."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def propose(self, texts: list[str], keys: Array) -> list[Any]:
        """One word more for each text; what the server refuses comes back as an exception in its place."""
        answers = self.post("/extend", texts=texts, seeds=smc.seeds_of(keys))
        return [RuntimeError(a["error"]) if "error" in a else a["text"] for a in answers]

    def score(self, texts: list[str]) -> list[float]:
        """The judge's chance that each prefix is good."""
        return self.post("/judge", texts=texts)

    def finished(self, texts: list[str]) -> list[bool]:
        """Texts that have come to their end."""
        return [t.endswith("done.") for t in texts]

    def box(self) -> smc.BlackBox:
        """Generator and judge for `smc.steer`."""
        return smc.BlackBox("", self.propose, self.score, self.finished)


@contextlib.contextmanager
def running(delay: float = 0.0) -> Iterator[Server]:
    """A server that lives as long as the block."""
    server = Server(delay)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Told(NamedTuple):
    """What the example shows.

    Attributes:
        answer: of the uninterrupted run, the one the judge likes best.
        whole: that run.
        partial: the interrupted run.
        resumed: its continuation.
        requests: of the whole run: path and batch size of each.
    """

    answer: str
    whole: smc.SteeringRun
    partial: smc.SteeringRun
    resumed: smc.SteeringRun
    requests: list[tuple[str, int]]


def run(seed: int, num_particles: int, max_steps: int, delay: float) -> Told:
    """One run in one go, and one that is interrupted in its third step and resumed; one text is always refused."""
    settings: dict[str, Any] = {
        "num_particles": num_particles,
        "max_steps": max_steps,
        "potential": POTENTIAL,
        "executor": "host",
        "retries": 1,
    }
    with running(delay) as server, tempfile.TemporaryDirectory() as folder:
        client, file = Client(server.url), pathlib.Path(folder) / "run.npz"
        first = smc.steer(client.box(), seed, **settings)
        server.refuses = {first.history[1][0]}
        server.requests.clear()
        whole = smc.steer(client.box(), seed, **settings)
        requests = list(server.requests)
        calls = 0

        def interrupted(texts: list[str]) -> list[float]:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise KeyboardInterrupt  # as Ctrl-C does
            return client.score(texts)

        stopped = smc.BlackBox("", client.propose, interrupted, client.finished)
        partial = smc.steer(stopped, seed, checkpoint=file, **settings)
        resumed = smc.steer(client.box(), seed, checkpoint=file, **settings)
        answer = whole.answer("score", by=client.score)
    return Told(answer, whole, partial, resumed, requests)


def main(argv: Sequence[str] | None = None) -> Told:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--num-particles", type=int, default=8)
    parser.add_argument("--max-steps", type=int, default=8)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds the server takes for a batch")
    args = parser.parse_args(argv)
    told = run(args.seed, args.num_particles, args.max_steps, args.delay)
    whole = told.whole
    print(f"answer: {told.answer!r}, log evidence {float(whole.log_evidence):.3f}, {whole.seconds:.2f} s")
    print(f"{len(told.requests)} requests for {whole.generator_calls} proposals and {whole.judge_calls} scores")
    for f in whole.failures:
        print(f"particle {f.particle} was lost at step {f.step} after {f.attempts} attempts: {f.reason}")
    is_same = told.resumed.states == whole.states
    print(f"interrupted after step {told.partial.num_steps}, resumed to {told.resumed.num_steps}: the same? {is_same}")
    return told


if __name__ == "__main__":
    main()
