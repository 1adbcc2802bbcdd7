"""The mean-replacement study: its rows against networks pruned by hand, and how it resumes."""

import functools
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import NETWORK, assert_close

from configs import mean_replacement as configs
from pruning_jax import (
    evaluation,
    models,
    replacement,
    studies,
    tracing,
    trees,
    units,
)
from pruning_jax.lab import checkpointing, jobs, results
from pruning_jax.measurements import where
from pruning_jax.studies import mean_replacement
from pruning_jax.studies import networks as shared
from pruning_jax.studies.mean_replacement import grid, regression

STUDY = studies.find("mean_replacement")
SPLITS = ("train", "validation", "scored")


def tiny():
    """The smoke variant with one seed, fewer steps and a smaller network."""
    config = configs.get_config("smoke").to_dict()
    (workload,) = config["workloads"].values()
    workload |= {"seeds": (3,), "subset": 320, "probe_every": 5, "selection_every": 2}
    workload |= {"scoring_examples": 40, "evaluation_examples": 50, "evaluation_splits": SPLITS}
    workload["model"] = workload["model"] | {"widths": (10, 4, 5, 6, 7)}
    workload["training"] = workload["training"] | {"epochs": 2, "batch_size": 32}
    workload["fine_tuning"] = workload["fine_tuning"] | {"probes": (20,), "steps": (2, 12)}
    return config


def quiet(*_):
    """Reports nothing."""


def run_in(workdir, report=quiet, config=None):
    config = config or tiny()
    with results.open_run(workdir, config, study="mean_replacement") as run:
        session = jobs.Lab(run, report)
        plan = STUDY.build(config)
        STUDY.run(plan, session)
        return plan[0], session, run.rows()


@pytest.fixture(scope="module", autouse=True)
def drawn():
    """The names of the figures that runs draw; the first alone is saved, for that takes longest."""
    names, draw = [], mean_replacement.figures.mean_replacement

    def fewer(rows):
        figures = draw(rows)
        names[:] = figures
        return dict(itertools.islice(figures.items(), 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mean_replacement.figures, "mean_replacement", fewer)
        yield names


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """workload, session, rows of a whole run."""
    return run_in(tmp_path_factory.mktemp("mean_replacement") / "run")


def of_phase(rows, phase, **columns):
    return where(rows, phase=phase, **columns)


def network(finished, step):
    """graph, variables, examples, scores of the network of a step."""
    workload, session, _ = finished
    variables = session.kept(shared.dense_job(workload, 3, step=step))
    examples = mean_replacement.draw(workload, 3)
    scored = mean_replacement.score(workload, variables, examples, seed=3, step=step)
    return grid.graph_of(workload), variables, examples, scored


def test_a_run_has_a_row_for_every_measurement_asked_for(finished):
    workload, _, rows = finished
    assert grid.total_steps(workload) == 20 and list(grid.probe_steps(workload)) == [5, 10, 15, 20]
    counted = {phase: len(of_phase(rows, phase)) for phase in {row["phase"] for row in rows}}
    assert counted == {
        "pretrained": 1,
        "selected": 10,
        "probed": 4 * 3 * 5 * 3,
        "activations": 1,
        "linear_regression": 1,
        "fine_tuned": 2 * 2 * 3,
    }
    for row in of_phase(rows, "probed"):
        assert row["penalty"].keys() == row["pruned_accuracy"].keys() == set(configs_criteria())
        assert all(set(both) == {"zero", "mean"} for both in row["penalty"].values())
        named = row["layers"] != "all" and row["fraction"] == 0.1
        assert ("units" in row) == ("mean_square" in row) == named


def configs_criteria():
    (workload,) = tiny()["workloads"].values()
    return workload["criteria"]


def test_counts_follow_the_fraction_and_one_is_one(finished):
    _, _, rows = finished
    sizes = {"params/Conv_0": 10, "params/Conv_1": 4, "params/Conv_2": 5}
    sizes |= {"params/Dense_0": 6, "params/Dense_1": 7}
    for row in of_phase(rows, "probed"):
        if row["fraction"] == "one":
            assert sum(row["removed"].values()) == 1
        else:
            expected = {name: int(row["fraction"] * size) for name, size in sizes.items()}
            assert row["removed"] == {name: expected[name] for name in row["removed"]}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("layers", ["all", "firstconv", "midconv", "firstdense"])
@pytest.mark.parametrize("fraction", [0.5, "one"])
def test_penalties_are_those_of_networks_pruned_by_hand(finished, layers, fraction, split):
    workload, _, rows = finished
    (row,) = of_phase(rows, "probed", step=10, split=split, layers=layers, fraction=fraction)
    graph, variables, examples, scored = network(finished, 10)
    apply_fn = workload.pretraining.apply_fn
    loss = functools.partial(evaluation.evaluate, apply_fn, batch=examples.evaluation[split])
    before = loss(variables)
    assert_close(row["loss"], before.loss, NETWORK)
    for criterion in ("random", "weight_norm", "abs_mrs"):
        masks = grid.masks_of(workload, scored.scores[criterion], layers, fraction)
        variants = {
            "zero": units.apply_masks(graph, variables, masks),
            "mean": replacement.fold_means(
                graph, variables, scored.statistics.means, masks
            ).variables,
        }
        for kind, pruned in variants.items():
            after = loss(pruned)
            found = row["penalty"][criterion][kind]
            scale = max(before.loss, after.loss)
            assert_close(found, after.loss - before.loss, NETWORK, scale)
            assert row["pruned_accuracy"][criterion][kind] == after.accuracy


def test_selections_and_squares_are_of_the_units_named(finished):
    workload, _, rows = finished
    graph, _, _, scored = network(finished, 10)
    (selected,) = of_phase(rows, "selected", step=10)
    unit = {"step": 10, "split": "train", "layers": "firstconv", "fraction": 0.1}
    (probed,) = of_phase(rows, "probed", **unit)
    squares = np.asarray(scored.statistics.mean_square["params/Conv_0"])
    for criterion, scores in scored.scores.items():
        lowest = np.argsort(np.asarray(scores["params/Conv_0"]), kind="stable")[:1]
        assert probed["units"][criterion] == lowest.tolist()
        np.testing.assert_allclose(probed["mean_square"][criterion], squares[lowest].mean())
        assert selected["units"][criterion] == []  # a tenth of four units
    (last,) = of_phase(rows, "activations")
    assert last["step"] == 20 and len(last["mean_square"]) == graph["params/Conv_1"].size


def test_the_examples_for_penalties_are_not_those_for_scores(finished):
    workload, *_ = finished
    dataset = workload.load(3)
    examples = mean_replacement.draw(workload, 3)
    for drawn, split in (
        (examples.scoring, dataset.train),
        (examples.evaluation["train"], dataset.train),
        (examples.evaluation["validation"], dataset.validation),
    ):
        there = {image.tobytes() for image in np.asarray(split.inputs)}
        assert all(image.tobytes() in there for image in np.asarray(drawn.inputs))
    assert len(examples.scoring.labels) == 40
    scored = {image.tobytes() for image in np.asarray(examples.scoring.inputs)}
    assert examples.evaluation["scored"] is examples.scoring
    for batch in (examples.evaluation["train"], examples.evaluation["validation"]):
        assert len(batch.labels) == 50
        assert scored.isdisjoint(image.tobytes() for image in np.asarray(batch.inputs))


def test_fine_tuning_starts_from_the_probe_and_keeps_removed_units_out(finished, monkeypatch):
    workload, session, rows = finished
    for row in of_phase(rows, "fine_tuned"):
        unit = {"step": 20, "split": row["split"], "layers": "all", "fraction": 0.5}
        (probed,) = of_phase(rows, "probed", **unit)
        start = probed["penalty"][row["criterion"]][row["replacement"]]
        assert_close(row["penalty"]["0"], start, NETWORK, probed["loss"] + abs(start))
        assert list(row["penalty"]) == ["0", "2", "12"]
    seen = []
    real = mean_replacement.training.take_steps

    def watched(state, train, count, **arguments):
        kept = jax.tree.map(jnp.array, state.masks)
        seen.append((kept, real(state, train, count, **arguments)))
        return seen[-1][1]

    monkeypatch.setattr(mean_replacement.training, "take_steps", watched)
    asked = of_phase(rows, "fine_tuned", criterion="abs_mrs", split="train")
    scored = network(finished, 20)[-1]
    together = mean_replacement.tuned(session, scored, workload.load(3).train, asked)
    for one, found in zip(asked, together, strict=True):
        for split in SPLITS:
            where = {"split": split, "layers": "all", "fraction": 0.5}
            (before,) = of_phase(rows, "probed", step=20, **where)
            run = {"criterion": "abs_mrs", "replacement": one["replacement"]}
            (row,) = of_phase(rows, "fine_tuned", **where, **run)
            again = {count: found[count][split] - before["loss"] for count in found}
            assert list(again) == [0, 2, 12]
            again, wanted = (np.array([*values.values()]) for values in (again, row["penalty"]))
            assert_close(again, wanted, NETWORK, max(of[split] for of in found.values()))
    for kept, state in seen:
        removed = trees.map_selected(
            lambda mask, leaf: np.asarray(leaf)[~np.asarray(mask)], kept, state.params
        )
        removed = np.concatenate(jax.tree.leaves(removed))
        assert len(removed) > 100 and not removed.any()


def test_a_stop_keeps_every_run_of_a_group_that_is_fine_tuned(finished, tmp_path, monkeypatch):
    workload, session, rows = finished
    workdir = tmp_path / "run"
    shutil.copytree(session.run.path, workdir)
    asked = []

    def train(session, scored, train, of):
        asked.append(True)
        return [{count: {split: 1.0 for split in SPLITS} for count in (0, 2, 12)} for _ in of]

    monkeypatch.setattr(mean_replacement, "tuned", train)
    monkeypatch.setattr(mean_replacement.replicates, "groups", lambda runs, need: [runs])
    lines = (workdir / "results.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["job"]["phase"] != "fine_tuned"]
    (workdir / "results.jsonl").write_text("".join(kept))
    with results.open_run(workdir, results.read(workdir).config, study="mean_replacement") as run:
        with pytest.raises(jobs.Stopped):
            mean_replacement.fine_tune(jobs.Lab(run, lambda *_: None, lambda: asked), workload)
        assert len(of_phase(run.rows(), "fine_tuned")) == len(of_phase(rows, "fine_tuned"))


class _Stop(Exception):
    pass


def stopping(function, after):
    """A function that stops the run instead, the `after`-th time that it is called."""
    left = [after]

    def wrapped(*arguments, **named):
        left[0] -= 1
        if not left[0]:
            raise _Stop
        return function(*arguments, **named)

    return wrapped


@pytest.mark.parametrize(("where", "after"), [("score", 7), ("score", 12), ("report", 9)], ids=str)
def test_an_interrupted_run_ends_like_a_whole_one(finished, tmp_path, monkeypatch, where, after):
    """Interrupted in the middle of an epoch, between probes, and between fine-tuning runs."""
    monkeypatch.setattr(jobs, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(mean_replacement.figures, "mean_replacement", lambda rows: {})
    with monkeypatch.context() as patch, pytest.raises(_Stop):
        if where == "score":
            patch.setattr(mean_replacement, "score", stopping(mean_replacement.score, after))
            run_in(tmp_path / "run")
        else:
            run_in(tmp_path / "run", stopping(quiet, after))
    before = results.read(tmp_path / "run").results
    _, _, rows = run_in(tmp_path / "run")
    assert before and rows[: len(before)] == before
    assert rows == finished[2]
    path = tmp_path / "run" / "results.jsonl"
    stamp = path.stat().st_mtime_ns
    run_in(tmp_path / "run")
    assert path.stat().st_mtime_ns == stamp


def test_claims_and_figures_are_written(finished, drawn):
    _, session, _ = finished
    claims = results.read(session.run.path).claims
    assert [claim["id"] for claim in claims] == [f"M{number}" for number in range(1, 8)]
    assert len(drawn) >= 6
    saved = {path.name for path in (session.run.path / "figures").iterdir()}
    assert saved == {f"{drawn[0]}.svg", f"{drawn[0]}.png"}
    kept = checkpointing.load(
        session.run.checkpoints / "pretrained/small_conv_digits/seed=3,step=5"
    )
    assert set(kept["params"]) == {f"Conv_{i}" for i in range(3)} | {f"Dense_{i}" for i in range(3)}


def test_the_best_constant_of_a_regression_is_the_mean():
    draws = np.random.default_rng(0)
    features = np.maximum(draws.normal(size=(300, 12)) + 0.5, 0)
    features[:, 3] = 0.0
    targets = np.eye(5)[draws.integers(0, 5, 300)]
    errors = regression.relative_errors(features, targets)
    assert len(errors) == 11 and errors.max() < 1e-6
    with pytest.raises(ValueError, match="varies"):
        regression.relative_errors(np.ones((10, 2)), targets[:10])


def test_the_row_of_the_regression_says_so_of_the_network(finished):
    _, _, rows = finished
    (row,) = of_phase(rows, "linear_regression")
    assert 0 <= row["relative_error"] < 1e-5


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("criteria", ("weight_nrom",), "weight_norm"),
        ("fractions", (1.5,), "1.5"),
        ("fractions", (1.0,), "1.0"),
        ("layers", {"midconv": ("params/Conv_9",)}, "Conv"),
        ("layers", {"midconv": ("params/Dense_2",)}, "not prunable"),
        ("layers", ("params/Conv_0",), "it must be a dict of layer sets"),
        ("fractions", 0.5, "fractions is 0.5; give a tuple"),
        ("selection.fraction", "two", "selection.fraction is 'two'; it must be 'one', or a share"),
        ("thresholds.overlap", True, "thresholds.overlap is True; it must be a finite number"),
        ("scoring_examples", 0, "scoring_examples"),
        ("evaluation_examples", 201, "that are not scored with"),
        ("evaluation_splits", ("test",), "evaluation split"),
        ("evaluation_splits", ("train", "train"), "none twice"),
        ("probe_every", 0, "probe_every"),
        ("selection_every", 21, "selection_every"),
        ("selection", {"layers": "all", "fraction": 0.1}, "several layers"),
        ("selection", {"layers": "midcov", "fraction": 0.1}, "midconv"),
        ("fine_tuning.probes", (7,), "nearest probe is at 5"),
        ("fine_tuning.steps", (), "fine_tuning.steps"),
        ("fine_tuning.criteria", ("bound",), "criterion of fine_tuning"),
        ("fine_tuning.layers", ("some",), "layer set"),
        ("seeds", (), "seeds"),
    ],
)
def test_a_bad_value_is_refused_before_anything_runs(field, value, named):
    config = tiny()
    (workload,) = config["workloads"].values()
    *sections, last = field.split(".")
    for section in sections:
        workload = workload[section]
    workload[last] = value
    with pytest.raises(ValueError, match=named):
        STUDY.build(config)


def test_the_variants_describe_studies_that_exist(tfds_dir):
    for variant in ("smoke", "cpu", "imagenet_smoke"):
        config = configs.get_config(variant).to_dict()
        json.dumps(config)
        for values in config["workloads"].values():
            values["data_dir"] = tfds_dir
        for workload in STUDY.build(config):
            assert grid.total_steps(workload) >= max(workload.settings.fine_tuning.probes)
    with pytest.raises(ValueError, match="smoke"):
        configs.get_config("nope")


@pytest.mark.parametrize("variant, side", [("paper", 32), ("imagenet", 64)])
def test_the_layer_sets_of_large_variants_are_spaces_of_their_networks(variant, side):
    for values in configs.get_config(variant).to_dict()["workloads"].values():
        model = dict(values["model"])
        module = models.build(model.pop("name"), 10, **model)
        inputs = jnp.zeros((2, side, side, 3))
        variables = jax.eval_shape(lambda m=module, x=inputs: models.init(m, jax.random.key(0), x))
        graph = units.graph(tracing.trace(models.apply_fn(module), variables, inputs))
        for layers in values["layers"].values():
            assert layers == "all" or all(graph[layer].prunable for layer in layers)


def test_alexnet_runs_the_study_on_stand_in_images(tmp_path):
    config = configs.get_config("imagenet_smoke").to_dict()
    (values,) = config["workloads"].values()
    values |= {"seeds": (1,), "subset": 64, "fractions": (0.5,), "criteria": ("random", "abs_mrs")}
    values |= {"probe_every": 4, "selection_every": 4, "scoring_examples": 20}
    values |= {"evaluation_examples": 20, "training": values["training"] | {"epochs": 1}}
    values["fine_tuning"] = values["fine_tuning"] | {"probes": (4,), "steps": (2,)}
    _, _, rows = run_in(tmp_path / "run", config=config)
    assert len(of_phase(rows, "probed")) == 10 and len(of_phase(rows, "fine_tuned")) == 8
    assert all(np.isfinite(row["loss"]) for row in of_phase(rows, "probed"))
