"""Whole runs: their results, killed and continued, and what is refused before they start."""

import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from configs import digits, loss_modelling
from launch import overrides
from pruning_jax import measurements, studies
from pruning_jax.criteria import WEIGHT_CRITERIA
from pruning_jax.lab import checkpointing, jobs, replicates, results

ROOT = pathlib.Path(__file__).parents[1]

# Saves after every epoch, so that a kill finds checkpoints to continue from.
EAGER = """
import sys
from absl import app
from launch import main
from pruning_jax.lab import jobs
jobs.SECONDS_BETWEEN_CHECKPOINTS = 0.0
app.run(main.main, flags_parser=main.parse)
"""


def command(workdir: pathlib.Path, config: str, *overrides: str) -> list[str]:
    arguments = [f"--config={config}", f"--workdir={workdir}", *overrides]
    return [sys.executable, "-c", EAGER, *arguments]


def start(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(*arguments) -> str:
    process = start(*arguments)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def networks(workdir: pathlib.Path) -> dict[str, dict]:
    """Every kept network of a run, by its place."""
    folder = workdir / "checkpoints"
    kept = {}
    for phase in ("pretrained", "pruned", "retrained"):
        for path in sorted((folder / phase).glob("*/*")):
            kept[str(path.relative_to(folder))] = checkpointing.load(path)
    return kept


def test_a_run_killed_at_random_ends_like_an_uninterrupted_one(tmp_path):
    config = "configs/loss_modelling.py:smoke"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(whole, config)
    chance = random.Random(0)
    for _ in range(2):
        process = start(killed, config)
        before = time.monotonic()
        wait = chance.uniform(0.0, 4.0)
        while process.poll() is None and not (killed / "config.json").exists():
            time.sleep(0.01)
        while process.poll() is None and time.monotonic() - before < 3.0 + wait:
            time.sleep(0.01)
        process.kill()
        process.communicate()
    finish(killed, config)
    for name in ("results.jsonl", "metrics.jsonl", "claims.json"):
        assert (killed / name).read_text() == (whole / name).read_text(), name
    ours, theirs = networks(killed), networks(whole)
    assert ours.keys() == theirs.keys()
    assert {name.split("/")[0] for name in ours} == {"pretrained", "pruned", "retrained"}
    for name in ours:
        np.testing.assert_equal(ours[name], theirs[name])
    before = {path: path.stat().st_mtime_ns for path in killed.rglob("*") if path.is_file()}
    finish(killed, config)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for figure in (whole / "figures").iterdir():
        assert figure.read_bytes() == (killed / "figures" / figure.name).read_bytes()


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> tuple[pathlib.Path, str]:
    workdir = tmp_path_factory.mktemp("digits") / "run"
    return workdir, finish(workdir, "configs/digits.py:smoke")


def test_the_main_job_writes_the_run_directory(compared):
    workdir, output = compared
    found = results.read(workdir)
    assert set(found.provenance["versions"]) >= {"jax", "jaxlib", "flax", "numpy", "python"}
    assert found.config["study"] == "comparison"
    phases_seen = [row["phase"] for row in found.results]
    units = len(WEIGHT_CRITERIA) * 2
    assert phases_seen == ["pretrained"] + ["pruned"] * units + ["retrained"] * units
    for row in found.results[1:]:
        assert row["removed"] == round(row["sparsity"] * row["prunable"])
    for suffix in ("svg", "png"):
        assert (workdir / "figures" / f"accuracy_by_sparsity.{suffix}").stat().st_size > 1000
    for criterion in WEIGHT_CRITERIA:
        assert sum(line.startswith(criterion + " ") for line in output.splitlines()) == 2


def test_a_checkpoint_opens_with_one_call(compared):
    workdir, _ = compared
    variables = checkpointing.load(workdir / "checkpoints/pretrained/comparison/seed=1")
    assert variables["params"]["Dense_0"]["kernel"].shape == (64, 300)


def test_the_pruned_network_has_the_row_s_sparsity(compared):
    workdir, _ = compared
    for path in (workdir / "checkpoints" / "pruned" / "comparison").iterdir():
        note = checkpointing.metadata(path)
        kernels = checkpointing.load(path)["variables"]["params"]
        zeros = sum(int((layer["kernel"] == 0).sum()) for layer in kernels.values())
        assert zeros == note["found"]["removed"] and note["job"]["phase"] == "pruned"


def test_another_config_in_the_directory_is_refused_naming_the_field(compared):
    workdir, _ = compared
    before = (workdir / "config.json").read_text()
    process = start(workdir, "configs/digits.py:smoke", "--config.workload.training.epochs=7")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "training.epochs" in output and "7" in output and "Traceback" not in output
    assert (workdir / "config.json").read_text() == before


def test_a_damaged_checkpoint_of_the_middle_is_named_and_the_one_before_is_used(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(jobs, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    config = digits.get_config("smoke").to_dict()
    config["workload"]["criteria"] = ("magnitude",)
    study = studies.find("comparison")
    outcomes = []
    for name in ("whole", "damaged"):
        plan = study.build(config)
        run = results.open_run(tmp_path / name, config, study="comparison")
        if name == "damaged":
            stopping = _Stop(after=4)
            with pytest.raises(KeyboardInterrupt):
                study.run(plan, jobs.Lab(run, stopping))
            middle = next((tmp_path / name / "checkpoints" / "training").glob("*/*/*"))
            newest = max(middle.glob("[0-9]*"))
            largest = max((p for p in newest.rglob("*") if p.is_file()), key=os.path.getsize)
            os.truncate(largest, os.path.getsize(largest) // 2)
            with pytest.warns(checkpointing.DamagedCheckpoint, match=newest.name):
                study.run(plan, jobs.Lab(run, lambda *_: None))
        else:
            study.run(plan, jobs.Lab(run, lambda *_: None))
        run.close()
        outcomes.append((tmp_path / name / "results.jsonl").read_text())
    assert outcomes[0] == outcomes[1]


def test_replicates_together_give_the_rows_of_replicates_in_turn(tmp_path, monkeypatch):
    config = digits.get_config("smoke").to_dict()
    config["workload"] |= {"criteria": ("magnitude",), "seeds": (1, 2), "sparsities": (0.5,)}
    study, tables = studies.find("comparison"), []
    for name in ("in_turn", "together"):
        if name == "together":
            monkeypatch.setattr(replicates, "groups", lambda items, need: [items] if items else [])
        with results.open_run(tmp_path / name, config, study="comparison") as run:
            study.run(study.build(config), jobs.Lab(run, lambda *_: None))
            tables.append(run.rows())
    in_turn, together = tables
    assert len(in_turn) == len(together) == 6
    for row in in_turn:
        unit = {key: row[key] for key in ("phase", "seed")}
        (other,) = measurements.rows_of(together, [unit])
        for split in ("train", "validation", "test"):
            assert row[f"{split}_loss"] == pytest.approx(other[f"{split}_loss"], rel=1e-3)


def test_a_damaged_network_is_named_and_made_again(tmp_path):
    config = digits.get_config("smoke").to_dict()
    config["workload"] |= {"criteria": ("magnitude",), "sparsities": (0.5,)}
    study = studies.find("comparison")
    with results.open_run(tmp_path / "run", config, study="comparison") as run:
        plan, session = study.build(config), jobs.Lab(run, lambda *_: None)
        study.run(plan, session)
        rows, kept = run.rows(), networks(tmp_path / "run")
        path = run.checkpoints / "pretrained" / "comparison" / "seed=1"
        largest = max((p for p in path.rglob("*") if p.is_file()), key=os.path.getsize)
        os.truncate(largest, 10)
        with pytest.warns(checkpointing.DamagedCheckpoint, match="seed=1"):
            study.run(plan, session)
        assert run.rows() == rows
        np.testing.assert_equal(networks(tmp_path / "run"), kept)


class _Stop:
    """A report that interrupts after some calls."""

    def __init__(self, after: int):
        self.left = after

    def __call__(self, *_):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("--config.workload.nosuch=1", ("nosuch", "sparsities")),
        ("--config.workload.training.epochs=many", ("epochs", "many")),
        ("--config.study=comparision", ("comparision", "comparison")),
    ],
)
def test_a_bad_command_line_is_explained_and_writes_nothing(tmp_path, override, named):
    process = start(tmp_path / "run", "configs/digits.py:smoke", override)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert all(word in output for word in named) and "Traceback" not in output
    assert not (tmp_path / "run").exists()


RATE = {"epochs": 1, "batch_size": 3, "learning_rate": 0.1}


@pytest.mark.parametrize("field", ["seeds", "training", "dataset", "criteria", "schedule"])
def test_a_missing_field_is_named(field):
    config = digits.get_config("smoke").to_dict()
    del config["workload"][field]
    with pytest.raises(ValueError, match=f"has no field '{field}'"):
        studies.find("comparison").build(config)
    with pytest.raises(ValueError, match="workload is None; give its fields"):
        studies.find("comparison").build({"study": "comparison"})
    with pytest.raises(ValueError, match="workloads is None; give at least one"):
        studies.find("loss_modelling").build({"study": "loss_modelling"})


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("def get_config(:", "SyntaxError"),
        ("x = 1", "get_config"),
        ("def get_config(): raise KeyError('seeds')", "KeyError: 'seeds'"),
        ("def get_config(): return {}", "returns a dict, not a ConfigDict"),
        ("import nosuchmodule", "nosuchmodule"),
    ],
)
def test_a_config_file_at_fault_ends_in_a_line_that_names_it(tmp_path, monkeypatch, text, named):
    file = tmp_path / "own.py"
    file.write_text(text + "\n")
    monkeypatch.setattr(sys, "argv", [])
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    with pytest.raises(SystemExit) as caught:
        overrides.parse(["main", f"--config={file}"], values)
    message = str(caught.value)
    assert message.startswith("error: ") and named in message and str(file) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("dataset", "digit", "digits"),
        ("model", {"name": "mpl"}, "mlp"),
        ("model", {"name": "mlp", "width": 3}, "widths"),
        ("model", {"name": "mlp", "widths": (8,), "activation": "tan"}, "tanh"),
        ("criteria", ("magnitudes",), "magnitude"),
        ("schedule", "cubical", "cubic"),
        ("scope", "globally", "global"),
        ("sparsities", (-0.1,), "-0.1"),
        ("sparsities", (1.2,), "1.2"),
        ("sparsities", (float("nan"),), "nan"),
        ("stages", 0, "0"),
        ("stages", 10**7, "10000000"),
        ("seeds", (), "seeds"),
        ("seeds", (1, 1), "twice"),
        ("seeds", (1.5,), "integer"),
        ("seeds", ("a",), "integer"),
        ("seeds", (True,), "integer"),
        ("seeds", (1, 2**32 + 1), "below 2.32"),
        ("validation", 0, "holds out no example"),
        ("data_dir", "/nowhere", "no such folder"),
        ("sparsities", (), "sparsities is empty"),
        ("criteria", (), "criteria is empty"),
        ("stages", 10**9, "stages are more than"),
        ("stages", True, "stages is True"),
        ("critera", ("magnitude",), "mean 'criteria'"),
        ("model", {"widths": (3,)}, "give its name"),
        ("training", {"epochs": True, "batch_size": 3, "learning_rate": 0.1}, "epochs is True"),
        ("training", {"epochs": 1, "batch_size": 3}, "no field 'learning_rate'"),
        ("training", {"epochs": 1, "batch_size": 5000, "learning_rate": 0.1}, "batch_size is 5000"),
        ("training", RATE | {"learning_rate": "fast"}, "learning_rate is 'fast'"),
        ("training", RATE | {"learning_rate": None}, "learning_rate is None"),
        ("training", RATE | {"learning_rate": float("nan")}, "learning_rate is nan"),
        ("training", RATE | {"momentum": 5}, "momentum is 5; .* below 1"),
        ("training", RATE | {"boundaries": (-1,)}, "integers of 1 or more"),
        ("training", RATE | {"boundaries": ("a",)}, "integers of 1 or more"),
        ("training", RATE | {"boundaries": (0.5,)}, "integers of 1 or more"),
        ("training", RATE | {"augment": "no"}, "augment is 'no'"),
        ("retraining", {"regime": "fine_tuning", "learning_rate": float("nan")}, "is nan"),
        ("statistics_examples", 0, "statistics_examples"),
        ("validation", 10**6, "1000000"),
        ("training", {"epochs": 1, "batch_sise": 3}, "batch_size"),
        ("retraining", {"regime": "rewinding"}, "original_schedule"),
    ],
)
def test_a_bad_value_is_refused_before_anything_runs(field, value, named):
    config = digits.get_config("smoke").to_dict()
    config["workload"][field] = value
    with pytest.raises(ValueError, match=named):
        studies.find("comparison").build(config)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("tuning_seeds", (1,), "share a seed"),
        ("early_epochs", (2, 99), "has 99; training has"),
        ("early_epochs", (0,), "early_epochs is 0; it must be an integer of 1 or more"),
        ("stages", (), "stages is empty"),
        ("step_penalties", (-1.0,), "step_penalties is -1.0; it must be a finite number"),
        ("retrained", ("magnitud",), "criterion of retrained 'magnitud' .did you mean 'magnitude'"),
        ("thresholds", {"exces": 0.1}, "field of thresholds 'exces' .did you mean 'excess'"),
    ],
)
def test_a_bad_value_of_loss_modelling_is_refused_before_anything_runs(field, value, named):
    config = loss_modelling.get_config("smoke").to_dict()
    config["workloads"]["mlp_digits"][field] = value
    with pytest.raises(ValueError, match=named):
        studies.find("loss_modelling").build(config)


@pytest.mark.parametrize("module", [digits, loss_modelling])
def test_an_unknown_variant_is_refused_with_the_valid_ones(module):
    with pytest.raises(ValueError, match="smoke"):
        module.get_config("nope")


def test_every_variant_of_the_loss_modelling_study_describes_networks_that_exist():
    for variant in loss_modelling.VARIANTS:
        config = loss_modelling.get_config(variant).to_dict()
        for values in config["workloads"].values():
            if values["dataset"] != "digits":
                values["dataset"] = f"stand_ins:{values['dataset']}"
        plan = studies.find("loss_modelling").build(config)
        assert [workload.name for workload in plan] == list(config["workloads"])
        json.dumps(config)


def test_a_diverging_run_stops_and_says_where(tmp_path):
    process = start(
        tmp_path / "run", "configs/digits.py:smoke", "--config.workload.training.learning_rate=1e9"
    )
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "at step" in output and "Traceback" not in output


def test_a_full_disk_ends_the_run_with_a_message_and_it_continues_later(tmp_path):
    mount = tmp_path / "disk"
    mount.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        process = start(mount / "run", "configs/digits.py:smoke")
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 1
        assert "free some space" in output and "Traceback" not in output
        shutil.copytree(mount / "run", tmp_path / "run")
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    finish(tmp_path / "run", "configs/digits.py:smoke")
    assert len(results.read(tmp_path / "run").results) == 1 + 4 * len(WEIGHT_CRITERIA)
