"""The README does what it says: its snippet runs, and CI finds its test command."""

import re
from pathlib import Path

import jax
import numpy as np

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


def test_the_second_snippet_replaces_units_of_the_same_model(capsys):
    names = {}
    for snippet in blocks("python"):
        exec(compile(snippet, "README.md", "exec"), names)
    gone = ~np.asarray(names["kept"]["w"])
    assert gone.sum() == 8
    assert not np.asarray(names["smaller"]["w"])[:, gone].any()
    means = np.asarray(names["statistics"].means[names["graph"]["w"].readings[0].value])
    shift = np.where(gone, means, 0) @ np.asarray(names["variables"]["out"]["w"])
    np.testing.assert_allclose(names["smaller"]["out"]["b"], shift, rtol=1e-5, atol=1e-6)
    assert "penalty" in capsys.readouterr().out


def test_the_snippets_are_under_twenty_lines():
    for snippet in blocks("python"):
        assert len([line for line in snippet.splitlines() if line]) <= 20


def test_the_two_commands_are_where_ci_reads_them():
    for name, word in (("run", "launch.main"), ("tests", "pytest")):
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        assert README.count(begin) == README.count(end) == 1
        assert word in README.partition(begin)[2].partition(end)[0]
