"""Names of leaves."""

import jax.numpy as jnp
import pytest

from pruning_jax import trees


@pytest.mark.parametrize("function", [trees.named_leaves, lambda tree: trees.select(tree, ())])
def test_two_leaves_of_one_name_are_refused(function):
    with pytest.raises(ValueError, match="two leaves are named 'a/b'"):
        function({"a/b": jnp.ones(2), "a": {"b": jnp.ones(3)}})


def test_leaves_are_named_by_their_path_in_order():
    tree = {"b": [jnp.ones(1), None], "a": {"c": jnp.ones(2)}}
    assert list(trees.named_leaves(tree)) == ["a/c", "b/0"]
