"""The graph of a program is its data flow, and its picture shows the graph."""

import itertools

import jax
import jax.numpy as jnp
import matplotlib.colors
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
from probinf.errors import ArgumentTypeError
from probinf.plots.layout import layers, positions
from probinf.plots.program import _SHADE, plot_program

pytestmark = pytest.mark.relaxed_promotion("models are written for JAX's ordinary settings")


@pi.model
def schools(effect):
    mean = pi.sample("mean", dist.Normal(0.0, 10.0))
    spread = pi.sample("spread", dist.HalfCauchy(5.0))
    with pi.plate("school", len(effect)):
        offset = pi.sample("offset", dist.Normal(0.0, 1.0))
        true_effect = pi.deterministic("true_effect", mean + spread * offset)
        pi.sample("effect", dist.Normal(true_effect, 1.0), obs=effect)


@pi.model
def level(y):
    drift = pi.sample("drift", dist.HalfNormal(1.0))
    start = pi.sample("start", dist.Normal(0.0, 1.0))

    def step(carry, value):
        now, before = carry
        new = pi.sample("level", dist.Normal(now + 0.1 * before, drift))
        pi.sample("y", dist.Normal(new, 1.0), obs=value)
        return (new, now), None

    last, _ = jax.lax.scan(step, (start, start), y)
    pi.sample("next", dist.Normal(last[0], 1.0))


@pi.model
def branches():
    which = pi.sample("which", dist.Bernoulli(0.5))
    centre = pi.sample("centre", dist.Normal(0.0, 1.0))
    pi.sample("unused", dist.Normal(0.0, 1.0))

    def one():
        return pi.sample("x", dist.Normal(centre, 1.0))

    def other():
        return pi.sample("x", dist.Normal(0.0, 2.0))

    pi.factor("weight", -(jax.lax.cond(which == 1, one, other) ** 2))


@pi.model
def until():
    rate = pi.sample("rate", dist.Beta(1.0, 1.0))

    def body(state):
        count, _ = state
        return count + 1, pi.sample("stop", dist.Bernoulli(rate))

    count, _ = jax.lax.while_loop(lambda s: s[1] == 0, body, (0, jnp.zeros((), int)))
    pi.sample("after", dist.Normal(count.astype(float), 1.0))


@pi.model
def called():
    a = pi.sample("a", dist.Normal(0.0, 1.0))
    b = jax.jit(lambda a: pi.sample("b", dist.Normal(a, 1.0)) + 1.0)(a)
    pi.sample("c", dist.Normal(jnp.sum(jax.lax.map(lambda x: x * b, jnp.arange(3.0))), 1.0), obs=0.0)


@pi.model
def crossed():
    scale = pi.sample("scale", dist.HalfNormal(1.0))
    with pi.plate("subject", 4, dim=-2):
        ability = pi.sample("ability", dist.Normal(0.0, scale))
    with pi.plate("item", 3, dim=-1):
        difficulty = pi.sample("difficulty", dist.Normal(0.0, 1.0))
    with pi.plate("subject", 4, dim=-2), pi.plate("item", 3, dim=-1):
        pi.sample("answer", dist.Bernoulli(logits=ability - difficulty), obs=jnp.ones((4, 3)))


PROGRAMS = {
    "schools": (lambda: schools(jnp.ones(8))),
    "level": (lambda: level(jnp.ones(5))),
    "branches": branches,
    "until": until,
    "called": called,
    "crossed": crossed,
}
EDGES = {
    "schools": "mean>true_effect spread>true_effect offset>true_effect true_effect>effect",
    # `next` is given the last level; before the first step the level is the start.
    "level": "start>level drift>level level~level level>y level>next start>next",
    "branches": "which>x centre>x x>weight which>weight",
    "until": "rate>stop stop~stop stop>after",
    "called": "a>b b>c",
    "crossed": "scale>ability ability>answer difficulty>answer",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_edges_are_those_of_the_model(name):
    graph = PROGRAMS[name]().graph()
    found = {f"{e.parent}{'~' if e.is_previous else '>'}{e.child}" for e in graph.edges}
    assert found == set(EDGES[name].split())


def test_nodes_know_their_kind_family_and_plates():
    graph = PROGRAMS["schools"]().graph()
    assert [(n.name, n.kind, n.family) for n in graph.nodes] == [
        ("mean", "sample", "Normal"),
        ("spread", "sample", "HalfCauchy"),
        ("offset", "sample", "Normal"),
        ("true_effect", "deterministic", ""),
        ("effect", "observe", "Normal"),
    ]
    assert [[p.label for p in n.plates] for n in graph.nodes] == [[], [], *[["school: 8"]] * 3]
    looped = {n.name: n for n in PROGRAMS["level"]().graph().nodes}
    assert [(p.label, p.is_loop) for p in looped["y"].plates] == [("5 steps", True)]
    assert looped["next"].plates == ()
    crossing = {n.name: [p.label for p in n.plates] for n in PROGRAMS["crossed"]().graph().nodes}
    assert crossing["answer"] == ["subject: 4", "item: 3"]
    assert crossing["difficulty"] == ["item: 3"]


def test_data_given_later_make_a_site_observed():
    program = PROGRAMS["called"]()
    assert program.graph().parents("c") == ("b",)
    kinds = {n.name: n.kind for n in program.given(b=jnp.zeros(())).graph().nodes}
    assert kinds["b"] == "observe"


@pytest.mark.parametrize("name", PROGRAMS)
def test_children_stand_below_their_parents_and_nobody_on_another(name):
    graph = PROGRAMS[name]().graph()
    rows = layers(graph)
    assert all(rows[e.parent] < rows[e.child] for e in graph.edges if not e.is_previous)
    assert min(rows.values()) == 0
    places = sorted(positions(graph).values(), key=lambda p: (p[1], p[0]))
    for (x, row), (other, other_row) in itertools.pairwise(places):
        assert row < other_row or other - x >= 1.0 - 1e-9


def test_roots_come_down_to_their_children_but_not_beside_their_plate():
    assert layers(PROGRAMS["schools"]().graph()) == {
        "mean": 0, "spread": 0, "offset": 1, "true_effect": 2, "effect": 3,
    }  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_rectangle_holds_the_nodes_of_its_plate_and_no_others(name):
    graph = PROGRAMS[name]().graph()
    ax = plot_program(graph)
    patches = {patch.get_gid(): patch for patch in ax.patches if patch.get_gid()}
    centres = {node.name: patches[node.name].get_extents().get_points().mean(axis=0) for node in graph.nodes}
    boxes: dict = {}
    for patch in ax.patches:
        if patch.get_gid() and patch.get_gid().startswith("plate "):
            boxes.setdefault(patch.get_gid()[6:], []).append(patch.get_extents())
    for node in graph.nodes:
        inside = {key for key, parts in boxes.items() if any(part.contains(*centres[node.name]) for part in parts)}
        assert inside == {plate.key for plate in node.plates}


def test_the_picture_shows_kinds_names_and_arrows():
    ax = plot_program(PROGRAMS["schools"]())
    patches = {patch.get_gid(): patch for patch in ax.patches if patch.get_gid()}
    assert matplotlib.colors.to_hex(patches["effect"].get_facecolor()).upper() == _SHADE
    for name in ("mean", "spread", "offset", "true_effect"):
        np.testing.assert_array_equal(patches[name].get_facecolor(), (1.0, 1.0, 1.0, 1.0))
    texts = [text.get_text() for text in ax.texts]
    assert {"mean", "true_effect", "effect", "HalfCauchy", "school: 8"} <= set(texts)
    arrows = [patch for patch in ax.patches if type(patch).__name__ == "FancyArrowPatch"]
    assert len(arrows) == 4
    ellipses = [patch for patch in ax.patches if type(patch).__name__ == "Ellipse"]
    assert len(ellipses) == 6  # five sites, one of them with a double line
    assert ax.get_title(loc="left") == "schools"


def test_the_iteration_before_is_dashed_and_a_factor_is_a_square():
    arrows = [p for p in plot_program(PROGRAMS["level"]()).patches if type(p).__name__ == "FancyArrowPatch"]
    assert sorted(arrow.get_linestyle() != "-" and arrow.get_linestyle() != "solid" for arrow in arrows) == [
        *[False] * 5,
        True,
    ]
    ax = plot_program(PROGRAMS["branches"]())
    assert [type(p).__name__ for p in ax.patches if p.get_gid() == "weight"] == ["Rectangle"]


def test_axes_are_used_and_returned():
    import matplotlib.pyplot as plt

    ax = plt.subplots()[1]
    assert plot_program(PROGRAMS["branches"](), ax=ax) is ax


@pytest.mark.bad_input
def test_a_model_without_its_arguments_is_refused():
    with pytest.raises(ArgumentTypeError, match="Call a model with its arguments first"):
        plot_program(schools)
