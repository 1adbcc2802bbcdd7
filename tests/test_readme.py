"""The README does what it says: its snippet runs, and CI finds its test command."""

import contextlib
import io
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from closeness import ROUNDING, assert_close, assert_same

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_snippet_prunes_the_readers_own_model(capsys):
    names = {}
    exec(compile(blocks("python")[0], "README.md", "exec"), names)
    weights = [names["pruned"]["w"], names["pruned"]["out"]["w"]]
    total = sum(w.size for w in weights)
    assert sum(int((w == 0).sum()) for w in weights) == round(0.8 * total)
    np.testing.assert_array_equal(names["pruned"]["b"], names["variables"]["b"])
    logits = names["model"](names["pruned"], names["batch"].inputs)
    assert logits.shape == (64, 3) and bool(jax.numpy.isfinite(logits).all())
    printed = capsys.readouterr().out
    assert "w" in printed and "out/w" in printed


def test_pruning_is_its_parts(ran):
    names, *_ = ran
    jax.tree.map(np.testing.assert_array_equal, names["in_parts"], names["pruned"])


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The names that all snippets define, what they printed, and the folder they wrote to."""
    names, printed = {}, io.StringIO()
    folder = tmp_path_factory.mktemp("readme")
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        for snippet in blocks("python"):
            exec(compile(snippet, "README.md", "exec"), names)
    return names, printed.getvalue(), folder


def test_the_second_snippet_replaces_units_of_the_same_model(ran):
    names, printed, _ = ran
    gone = ~np.asarray(names["unit_masks"]["w"])
    replaced = names["folded"].variables
    assert gone.sum() == 8
    assert not np.asarray(replaced["w"])[:, gone].any()
    means = np.asarray(names["statistics"].means[names["graph"]["w"].readings[0].value])
    shift = np.where(gone, means, 0) @ np.asarray(names["variables"]["out"]["w"])
    expected = np.asarray(names["variables"]["out"]["b"]) + shift
    assert_close(replaced["out"]["b"], expected, ROUNDING)
    penalties = re.search(r"penalty (\S+), with means in their place (\S+)", printed)
    removed, replaced = map(float, penalties.groups())
    assert 0 < replaced < 0.9 * removed


def test_the_third_snippet_trains_on_and_cuts_the_units_out(ran):
    names, printed, _ = ran
    model, tuned, compact = names["model"], names["tuned"], names["compact"]
    inputs, gone = names["batch"].inputs, ~np.asarray(names["unit_masks"]["w"])
    assert not np.asarray(tuned["w"])[:, gone].any()
    assert not np.asarray(tuned["out"]["w"])[gone].any()
    assert (tuned["b"] != names["folded"].variables["b"]).any()
    assert compact.variables["w"].shape == (8, 24)
    assert compact.variables["out"]["w"].shape == (24, 3)
    assert_close(compact.apply_fn(compact.variables, inputs), model(tuned, inputs), ROUNDING)
    assert "1.33 times fewer MACs" in printed
    assert names["masked_time"] > 0 and names["compact_time"] > 0


def test_the_network_comes_back_from_its_file_and_its_program_runs(ran):
    names, _, folder = ran
    compact, inputs = names["compact"], names["batch"].inputs
    assert_same(names["again"].variables, compact.variables)
    assert_same(names["again"].unit_masks, compact.unit_masks)
    expected = compact.apply_fn(compact.variables, inputs)[:5]
    assert_close(names["logits"], expected, ROUNDING)
    assert {"network.safetensors", "program.safetensors"} <= {f.name for f in folder.iterdir()}


def test_the_last_snippets_measure_utility_and_draw_a_plane(ran):
    names, printed, folder = ran
    assert f"utility {np.mean(names['used'].divergence):.4f}" in printed
    assert names["used"].divergence.shape == (500,)
    nearest = np.argmin(np.abs(names["grid"] - names["points"]["pretrained"]).sum(1))
    at = names["landscape"].point(names["plane"], names["grid"][nearest])
    loss = names["losses"][nearest]
    logits = names["model"](at, names["batch"].inputs)
    by_hand = -jax.nn.log_softmax(logits)[np.arange(64), names["batch"].labels].mean()
    np.testing.assert_allclose(loss, by_hand, rtol=1e-5)
    assert (folder / "plane.png").stat().st_size > 10_000


def test_the_snippet_of_methods_trains_a_sparse_network(ran):
    names, printed, _ = ran
    sparse = names["sparse"]
    kept = sum(int(mask.sum()) for mask in jax.tree.leaves(sparse.masks))
    prunable = sum(mask.size for mask in jax.tree.leaves(sparse.masks))
    assert kept == prunable - round(0.9 * prunable) and not sparse.empty
    before = names["model"](names["variables"], names["batch"].inputs)
    assert names["outputs"].shape == before.shape and "layers without a weight: []" in printed


def test_the_snippets_are_under_twenty_lines():
    for snippet in blocks("python"):
        assert len([line for line in snippet.splitlines() if line]) <= 20


def test_the_two_commands_are_where_ci_reads_them():
    for name, word in (("run", "launch.main"), ("tests", "pytest")):
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        assert README.count(begin) == README.count(end) == 1
        assert word in README.partition(begin)[2].partition(end)[0]
