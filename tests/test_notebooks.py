"""The notebooks run from top to bottom, as they are committed."""

import os
from pathlib import Path

import pytest

from pruning_jax.analysis import claims

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: extra 'test'")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: extra 'test'")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: extra 'test'")

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
RESULTS = {
    name: NOTEBOOKS / "results" / name / "results.jsonl"
    for name in ("loss_modelling", "mean_replacement", "pruning_mechanism")
}
"""Notebook -> what it reads."""
SECONDS_A_CELL = 300


def read(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook):
    """Everything that the code cells printed, and the text of what they displayed."""
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    data = [output.get("data", {}) for output in outputs]
    shown = [text for each in data for kind, text in each.items() if kind.startswith("text/")]
    return "\n".join([output.get("text", "") for output in outputs] + shown)


def images(notebook):
    return of_kind(notebook, "image/png")


def of_kind(notebook, kind):
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    return [output for output in outputs if kind in output.get("data", {})]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A function that executes a notebook once, in its own folder, and returns it."""
    done = {}

    def execute(name):
        if name in RESULTS and not RESULTS[name].exists():
            pytest.skip(f"{RESULTS[name].relative_to(ROOT)} is not there: the study has not run")
        if name not in done:
            notebook = read(name)
            with pytest.MonkeyPatch.context() as patch:
                folders = [str(ROOT), os.environ.get("PYTHONPATH", "")]
                patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, folders)))
                patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
                client = nbclient.NotebookClient(
                    notebook,
                    timeout=SECONDS_A_CELL,
                    kernel_name="python3",
                    resources={"metadata": {"path": str(NOTEBOOKS)}},
                )
                done[name] = client.execute()
        return done[name]

    return execute


def committed():
    return sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


def test_the_notebooks_are_there():
    assert {"quickstart", *RESULTS} <= set(committed())


@pytest.mark.parametrize("name", committed())
def test_a_notebook_is_committed_as_executed(name):
    if name in RESULTS and not RESULTS[name].exists():
        pytest.skip(f"{RESULTS[name].relative_to(ROOT)} is not there: the study has not run")
    counts = [cell.execution_count for cell in code(read(name))]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("name", committed())
def test_a_notebook_holds_calls_and_no_machine(name):
    notebook = read(name)
    assert not [cell for cell in code(notebook) if len(cell.source.splitlines()) > 35]
    everything = nbformat.writes(notebook)
    assert "/tmp/" not in everything and "/work/" not in everything and "/root" not in everything


def test_the_quickstart_prunes_and_retrains(executed):
    notebook = executed("quickstart")
    printed = texts(notebook)
    for word in ("convolutions/0/kernel", "quadratic", "retrained", "exponential", "mine"):
        assert word in printed
    assert "in 200 subsets" in printed and len(images(notebook)) == 1


def test_the_quickstart_cuts_channels_out_of_three_libraries_networks(executed):
    """Each table has a row for each; accuracies are first in the one, differences last in both."""
    rows = [line.split() for line in texts(executed("quickstart")).splitlines() if line]
    for library in ("Linen", "NNX", "Equinox"):
        accuracies, timed = [row for row in rows if row[0] == library][:2]
        dense, _, _, tuned, distance = map(float, accuracies[1:])
        assert tuned > dense - 0.03 > 0.9
        assert (distance < 1e-5) == (library == "Equinox")
        assert float(timed[-1]) < 1e-5 and 1.6 < float(timed[-2]) < 1.8


def test_the_loss_modelling_notebook_shows_every_verdict_and_figure(executed):
    from pruning_jax import figures
    from pruning_jax.lab import results

    notebook = executed("loss_modelling")
    run = results.read(RESULTS["loss_modelling"].parent)
    printed = texts(notebook)
    for claim in map(claims.from_dict, run.claims):
        assert f"{claim.id}, {claim.workload}: {claim.standing}" in printed
    tuning = {name: values["tuning_seeds"] for name, values in run.config["workloads"].items()}
    assert len(images(notebook)) == len(figures.loss_modelling(run.results, tuning_seeds=tuning))


def test_the_mean_replacement_notebook_shows_every_verdict_and_figure(executed):
    from pruning_jax import figures
    from pruning_jax.lab import results

    notebook = executed("mean_replacement")
    run = results.read(RESULTS["mean_replacement"].parent)
    printed = texts(notebook)
    for claim in map(claims.from_dict, run.claims):
        assert f"{claim.id}, {claim.workload}: {claim.standing}" in printed
    assert len(images(notebook)) == len(figures.mean_replacement(run.results))


def test_the_pruning_mechanism_notebook_shows_every_verdict_and_figure(executed):
    pytest.importorskip("plotly", reason="plotly is not installed: extra 'test'")
    from pruning_jax import figures
    from pruning_jax.lab import results
    from pruning_jax.studies.pruning_mechanism import tables

    notebook = executed("pruning_mechanism")
    run = results.read(RESULTS["pruning_mechanism"].parent)
    printed = texts(notebook)
    for claim in map(claims.from_dict, run.claims):
        assert f"{claim.id}, {claim.workload}: {claim.standing}" in printed
    assert tables.beside_published(run.results, run.config["workloads"]) in printed
    surfaces = of_kind(notebook, "application/vnd.plotly.v1+json")
    drawn = figures.pruning_mechanism(run.results)
    assert surfaces and len(images(notebook)) == len(drawn) + len(surfaces)
    assert max(len(str(output)) for output in surfaces) < 100_000
