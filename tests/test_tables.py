"""Tables fit a terminal and lose nothing, whatever the names are."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CLASSES, NETWORKS, draw
from unit_networks import UNIT_NETWORKS

from pruning_jax import tables, tracing, units

LONG = "backbone/encoder/block_{}/MultiHeadDotProductAttention_0/projection/kernel"
TEXTS = st.text(st.sampled_from("abC_/ .:"), max_size=80)


def squeezed(text):
    """A text without what wrapping adds."""
    return "".join(text.split())


@given(text=TEXTS, width=st.integers(5, 60))
def test_wrapped_texts_fit_and_are_whole(text, width):
    lines = tables.wrap(text, width)
    assert max(map(len, lines)) <= width
    assert squeezed("".join(lines)) == squeezed(text)
    if len(text.rstrip()) <= width:
        assert lines == [text.rstrip()]


def test_words_are_broken_only_where_they_are_longer_than_a_line():
    assert tables.wrap("not supported: a/kernel: it goes on", 20) == [
        "not supported:",
        "  a/kernel: it goes",
        "  on",
    ]
    assert tables.wrap("layers/attention/query", 16) == ["layers/", "  attention/", "  query"]


@settings(deadline=None)
@given(rows=st.lists(st.lists(TEXTS, min_size=4, max_size=4), min_size=1, max_size=4))
def test_rows_keep_their_cells_within_the_width(rows):
    numbered = [[*row, str(place)] for place, row in enumerate(rows)]
    lines = tables.table(numbered, right=(4,))
    assert max(map(len, lines)) <= tables.WIDTH
    rule = next(line for line in lines if line and not line.strip("- "))
    starts = np.cumsum([0, *(len(part) + 2 for part in rule.split("  "))])
    for column in range(4):
        cut = "".join(line[starts[column] : starts[column + 1]] for line in lines if line != rule)
        assert squeezed(cut) == squeezed("".join(row[column] for row in rows))


def deep():
    """A network whose names are longer than a line, with a layer that is not read."""
    variables = {LONG.format(place): draw(place, 6, 6) for place in range(4)}
    variables |= {"first": draw(5, 4, 6), "unread": draw(6, 6, 6), "last": draw(7, 6, CLASSES)}

    def apply_fn(variables, x):
        h = jnp.tanh(x @ variables["first"])
        for place in (2, 0, 3, 1):
            h = h + jnp.tanh(h @ variables[LONG.format(place)])
        return (jnp.sort(h, -1) @ jnp.exp(variables["unread"])) @ variables["last"]

    return apply_fn, variables, draw(8, 5, 4)


EVERY = NETWORKS | UNIT_NETWORKS | {"deep": deep}


@pytest.mark.parametrize("name", EVERY)
def test_traces_and_graphs_fit_a_terminal_and_name_everything(name):
    trace = tracing.trace(*EVERY[name]())
    graph = units.graph(trace)
    for text in (str(trace), str(graph)):
        assert max(map(len, text.splitlines())) <= tables.WIDTH
        assert all(line == line.rstrip() for line in text.splitlines())
    notes = "\n".join(str(graph).splitlines()[2:])
    for space in graph.spaces:
        if not space.prunable:
            assert squeezed(f"not prunable: {space.name}: {space.reason}") in squeezed(notes)
    for leaf, why in trace.unsupported:
        assert squeezed(f"not supported: {leaf}: {why}") in squeezed(str(trace))
        assert squeezed(f"not supported: {leaf}: {why}") in squeezed(notes)


def test_long_names_are_whole_in_the_table_of_a_trace():
    trace = tracing.trace(*deep())
    names = [layer.name for layer in trace.layers]
    column = [line.split("  dense")[0] for line in str(trace).splitlines()]
    assert squeezed("".join(column)).count(squeezed("".join(names[1:-1]))) == 1
