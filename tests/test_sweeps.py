"""Sweeps: their combinators, the runs they name, and what becomes of the runs in a folder."""

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import submitit  # noqa: F401  (it sets up logging, which within a test would close pytest's streams)

from configs import digits, loss_modelling, mean_replacement, pruning_mechanism
from launch import overrides, sweep
from launch.sweeping import actions, commands, folders, slurm, tasks
from pruning_jax import studies
from pruning_jax.lab import locks, records, results, status, sweeps
from pruning_jax.lab.jobs import Lab
from pruning_jax.studies.mean_replacement import grid

ROOT = Path(__file__).resolve().parents[1]
FILE = f"{ROOT / 'configs' / 'digits.py'}:smoke"
TINY = {
    "workload.training.epochs": 1,
    "workload.retraining.epochs": 1,
    "workload.criteria": ("magnitude",),
    "workload.sparsities": (0.5,),
    "workload.model.widths": (16,),
    "workload.statistics_examples": 50,
    "workload.seeds": (1, 2),
}


def tiny(**changes):
    return sweeps.apply(digits.get_config("smoke"), TINY | changes)


def options(folder, **changes):
    given = {"folder": folder, "file": FILE, "config": tiny(), "sweep": "seeds"}
    return actions.Options(**given | changes)


# The combinators.


def test_combinators_are_those_of_itertools():
    letters, numbers = sweeps.each("a", "xyz"), sweeps.each("b", (1, 2, 3))
    pairs = [tuple(run.values()) for run in sweeps.product(letters, numbers)]
    assert pairs == list(itertools.product("xyz", (1, 2, 3)))
    assert [tuple(run.values()) for run in sweeps.zipped(letters, numbers)] == list(
        zip("xyz", (1, 2, 3), strict=True)
    )
    assert sweeps.chain(letters, numbers) == list(itertools.chain(letters, numbers))
    assert sweeps.seeds("s", (4, 5)) == [{"s": (4,)}, {"s": (5,)}]
    assert sweeps.product() == [{}] and sweeps.zipped() == sweeps.chain() == []


def test_a_field_may_be_set_twice_to_one_value_but_not_to_two():
    one, two = sweeps.each("a", [1]), sweeps.each("a", [2])
    assert sweeps.product(one, one) == sweeps.zipped(one, one) == one
    for combine in (sweeps.product, sweeps.zipped):
        with pytest.raises(ValueError, match="sets a twice in one run, to 1 and to 2"):
            combine(one, two)


def test_sweeps_of_other_lengths_are_not_zipped():
    with pytest.raises(ValueError, match=r"\[1, 2\] runs"):
        sweeps.zipped([{}], [{}, {}])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workload.sedes": (1,)}, "'sedes' .did you mean 'seeds'"),
        ({"worklod.seeds": (1,)}, "'worklod' .did you mean 'workload'"),
        ({"study.name": 1}, "study is a value and has no field 'name'"),
        ({"workload.stages": "many"}, "workload.stages cannot be 'many'"),
    ],
)
def test_an_override_of_nothing_is_refused_with_what_there_is(changes, message):
    with pytest.raises(ValueError, match=message):
        sweeps.apply(digits.get_config("smoke"), changes)


def test_overrides_change_a_copy():
    config = digits.get_config("smoke")
    changed = sweeps.apply(config, {"workload.seeds": [5], "workload.data_dir": "x"})
    assert changed.workload.seeds == (5,) and changed.workload.data_dir == "x"
    assert config.to_dict() == digits.get_config("smoke").to_dict()


# Names.


def test_a_name_is_the_hash_of_the_config_s_canonical_json():
    config = tiny().to_dict()
    text = json.dumps(records.encode(config), sort_keys=True, separators=(",", ":"))
    assert sweeps.name(tiny()) == hashlib.sha256(text.encode()).hexdigest()[:12]
    backwards = json.loads(json.dumps(dict(reversed(config.items()))))
    assert sweeps.name(backwards) == sweeps.name(config)


def test_different_values_have_different_names():
    values = [1, 1.0, True, "1", None, (1,), (1, 1), {"a": 1}, {"b": 1}, float("inf")]
    assert len({sweeps.name({"field": value}) for value in values}) == len(values)
    with pytest.raises(ValueError, match="JSON"):
        sweeps.name({"field": object()})


def test_two_runs_of_one_name_are_refused_with_both():
    twice = [{"workload.stages": 2}, {"workload.stages": 2, "workload.seeds": (1, 2)}]
    with pytest.raises(ValueError, match=r"workload.stages=2 and workload.stages=2 workload.seeds"):
        sweeps.resolve(tiny(), twice)
    with pytest.raises(ValueError, match="no runs"):
        sweeps.resolve(tiny(), [])


# The configs' sweeps.

STUDIES = [digits, loss_modelling, mean_replacement, pruning_mechanism]


def swept(module, variant, name):
    config = module.get_config(variant)
    return config, sweeps.resolve(config, module.SWEEPS[name](config))


def test_table_2_of_s4_is_720_runs_of_one_setting_each():
    _, runs = swept(mean_replacement, "paper", "table2")
    settings = set()
    for run in runs:
        (name,) = run.config.only
        own = run.config.workloads[name]
        assert own.fine_tuning.probes == ()
        ((seed,), (fraction,), (layers,)) = own.seeds, own.fractions, own.probed
        settings.add((name, seed, fraction, layers))
    assert len(runs) == len(settings) == 6 * 8 * 3 * 5 == 720
    assert [len(set(column)) for column in zip(*settings, strict=True)] == [3, 8, 6, 5]


@pytest.mark.parametrize(
    ("module", "name", "variant", "count"),
    [
        (digits, "grid", "cpu", 30),
        (loss_modelling, "claims", "paper", 3),
        (mean_replacement, "claims", "paper", 24),
        (pruning_mechanism, "claims", "cpu", 18),
    ],
)
def test_claims_are_few_runs_that_cover_the_base(module, name, variant, count):
    config, runs = swept(module, variant, name)
    assert len(runs) == count
    if name == "claims":
        covered = {(w, s) for run in runs for w in run.config.only for s in own(run.config, w)}
        assert covered == {(w, s) for w in config.workloads for s in own(config, w)}


@pytest.mark.parametrize("module", [loss_modelling, mean_replacement, pruning_mechanism])
def test_a_sweep_of_some_workloads_is_of_those_alone(module):
    config = module.get_config("paper")
    name, *_ = config.workloads
    config.only = (name,)
    for function in module.SWEEPS.values():
        assert {run.config.only for run in sweeps.resolve(config, function(config))} == {(name,)}


def own(config, workload):
    return config.workloads[workload].seeds


def test_planes_are_drawn_of_the_seeds_of_the_base():
    _, runs = swept(pruning_mechanism, "cpu", "claims")
    drawn = []
    for run in runs:
        (name,) = run.config.only
        shown = run.config.workloads[name].surfaces.get("seeds", 0)
        drawn += [(name, seed) for seed in own(run.config, name)[:shown]]
    assert drawn == [("resnet8", 1111)]


@pytest.mark.parametrize("module", STUDIES)
def test_every_run_of_a_sweep_comes_back_from_the_file_that_fixes_it(module, tmp_path):
    for name in module.SWEEPS:
        _, runs = swept(module, "smoke", name)
        commands.write(tmp_path / name, runs)
        for job, run in zip(commands.jobs(tmp_path / name, runs), runs, strict=True):
            _, read = overrides.load(job.arguments[0].partition("=")[2])
            assert read.to_dict() == run.config.to_dict() and sweeps.name(read) == job.name


def test_a_config_that_was_edited_under_a_sweep_changes_no_run(tmp_path):
    """Neither the config file, nor what the sweep keeps of it."""
    runs = sweeps.resolve(tiny(), digits.SWEEPS["seeds"](tiny()))
    commands.write(tmp_path, runs)
    (file,) = {job.arguments[0].partition("=")[2] for job in commands.jobs(tmp_path, runs[:1])}
    path = tmp_path / "configs" / f"{runs[0].name}.json"
    path.write_text(path.read_text().replace('"learning_rate": 0.02', '"learning_rate": 0.2'))
    with pytest.raises(ValueError, match="not as the sweep wrote it"):
        overrides.load(file)
    ended = subprocess.run(
        [sys.executable, "-m", "launch.main", f"--config={file}", f"--workdir={tmp_path / 'run'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1 and "not as the sweep wrote it" in ended.stderr
    assert "Traceback" not in ended.stderr and not (tmp_path / "run").exists()


def test_a_new_sweep_of_a_config_at_fault_starts_no_run(tmp_path):
    wrong = tiny(**{"workload.dataset": "digit"})
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        actions.run(options(tmp_path / "sweep", config=wrong), threading.Event())
    assert not (tmp_path / "sweep").exists()


def test_a_run_of_table_2_measures_its_setting_alone():
    _, runs = swept(mean_replacement, "smoke", "table2")
    (plan,) = studies.find("mean_replacement").build(runs[-1].config.to_dict())
    (seed,), (fraction,), (layers,) = (runs[-1].config.workloads[plan.name][key] for key in VARIED)
    units = list(grid.probed_jobs(plan, seed, 30))
    assert {(unit["seed"], unit["fraction"], unit["layers"]) for unit in units} == {
        (seed, fraction, layers)
    }
    assert len(units) == 2 and plan.settings.selection.layers == "midconv"


VARIED = ("seeds", "fractions", "probed")


def test_probed_names_layer_sets_there_are():
    config = mean_replacement.get_config("smoke").to_dict()
    config["workloads"]["small_conv_digits"]["probed"] = ("midcnv",)
    with pytest.raises(ValueError, match="did you mean 'midconv'"):
        studies.find("mean_replacement").build(config)


@pytest.mark.parametrize(("only", "message"), [(("x",), "small_conv"), (("resnet8",) * 2, "twice")])
def test_only_names_workloads_there_are(only, message):
    config = pruning_mechanism.get_config("smoke").to_dict() | {"only": only}
    with pytest.raises(ValueError, match=message):
        studies.find("pruning_mechanism").build(config)


# A sweep of real runs, and what is gathered from them.


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of a sweep over two seeds, and the directory of one run of both."""
    folder, whole = tmp_path_factory.mktemp("sweep"), tmp_path_factory.mktemp("whole")
    assert actions.run(options(folder), threading.Event()) == 0
    config, study = tiny().to_dict(), studies.find("comparison")
    with results.open_run(whole, config, study="comparison") as run:
        study.run(study.build(config), Lab(run, lambda *_: None))
    return folder, whole


def lines(path):
    return path.read_text().splitlines()


def test_runs_are_named_by_the_hash_of_the_config_they_had(ran):
    folder, _ = ran
    names = [run["name"] for run in folders.read(folder)["runs"]]
    assert sorted(names) == sorted(path.name for path in (folder / "runs").iterdir())
    for name in names:
        assert sweeps.name(results.read(folder / "runs" / name).config) == name


def test_gathered_rows_are_those_of_one_run_to_the_bit(ran):
    folder, whole = ran
    gathered = folder / "gathered"
    rows = lines(gathered / "results.jsonl")
    assert sorted(rows) == sorted(lines(whole / "results.jsonl")) and len(rows) == 2 * 3
    assert [json.loads(row)["job"]["seed"] for row in rows] == [1, 1, 1, 2, 2, 2]
    assert results.read(gathered).config == results.read(whole).config
    for name in ("claims.json", "figures/accuracy_by_sparsity.png"):
        assert (gathered / name).read_bytes() == (whole / name).read_bytes()
    assert status.read(gathered).state == "finished"


def test_what_is_finished_is_left_alone(ran, capsys):
    folder, _ = ran
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert actions.run(options(folder), threading.Event()) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert "2 runs: 2 finished" in capsys.readouterr().out


def test_a_config_file_is_found_by_runs_that_begin_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sweep._absolute("own.py:smoke") == f"{tmp_path / 'own.py'}:smoke"
    assert sweep._absolute(FILE) == FILE


def test_what_was_done_again_is_gathered_again(ran, tmp_path):
    folder = shutil.copytree(ran[0], tmp_path / "sweep")
    path = folder / "runs" / folders.read(folder)["runs"][1]["name"] / "results.jsonl"
    changed = [json.loads(line) for line in lines(path)]
    for row in changed:
        row["found"]["test_accuracy"] = 0.5
    path.write_text("".join(json.dumps(row) + "\n" for row in changed))
    assert actions.run(options(folder), threading.Event()) == 0
    rows = results.read(folder / "gathered").results
    assert [row["test_accuracy"] == 0.5 for row in rows] == [False] * 3 + [True] * 3


def test_a_damaged_status_file_fails_its_run_alone(ran, tmp_path, capsys):
    folder = shutil.copytree(ran[0], tmp_path / "sweep")
    first, _ = (run["name"] for run in folders.read(folder)["runs"])
    (folder / "runs" / first / status.FILE).write_text("{")
    assert actions.show(actions.Options(folder), threading.Event()) == 0
    told = capsys.readouterr().out
    assert "2 runs: 1 finished, 1 failed" in told and "is damaged" in told


def test_gathering_goes_on_without_what_is_not_finished(ran, tmp_path, capsys):
    folder = shutil.copytree(ran[0], tmp_path / "sweep")
    first, second = (run["name"] for run in folders.read(folder)["runs"])
    status.write(folder / "runs" / first, "stopped")
    assert actions.gather(options(folder), threading.Event()) == 0
    told = capsys.readouterr().out
    assert f"without 1 unfinished runs: {first}" in told and "magnitude (1)" in told
    assert lines(folder / "gathered/results.jsonl") == lines(
        folder / f"runs/{second}/results.jsonl"
    )
    status.write(folder / "runs" / second, "failed", "because")
    with pytest.raises(ValueError, match="no run"):
        actions.gather(options(folder), threading.Event())


def test_the_status_view_names_every_run(ran, capsys):
    folder, _ = ran
    assert actions.show(actions.Options(folder), threading.Event()) == 0
    told = capsys.readouterr().out
    for run in folders.read(folder)["runs"]:
        (line,) = [line for line in told.splitlines() if line.startswith(run["name"])]
        assert "finished" in line and "3 rows" in line and "workload.seeds=(" in line


@pytest.mark.parametrize("module", STUDIES[1:])
def test_a_committed_run_can_be_continued_by_the_committed_config(module):
    """And no two of its rows are of one job, which `read` refuses."""
    run = results.read(ROOT / "notebooks" / "results" / module.__name__.split(".")[1])
    assert run.results
    assert run.config == records.decode(records.encode(module.get_config("cpu").to_dict()))


# A sweep of stand-ins for runs, which end as a file beside the runs says.

STAND_IN = """
import fcntl, json, os, pathlib, signal, sys, time
(workdir,) = [word.split("=", 1)[1] for word in sys.argv if word.startswith("--workdir=")]
path = pathlib.Path(workdir)
folder = path.parents[1]
with open(folder / "starts", "a") as starts:
    starts.write(path.name + "\\n")
behaviour = (folder / path.name).read_text() if (folder / path.name).exists() else "finish"
if behaviour == "refuse":
    sys.exit("error: the dataset is not here")
path.mkdir(parents=True, exist_ok=True)
lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
def tell(state, error=None):
    text = json.dumps({"state": state, "error": error, "time": "now"})
    (path / "writing").write_text(text)
    os.replace(path / "writing", path / "status.json")
def stop(*_):
    tell("stopped")
    os._exit(75)
signal.signal(signal.SIGTERM, stop)
tell("running")
if behaviour == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if behaviour == "fail":
    tell("failed", "no luck")
    sys.exit("error: no luck")
if behaviour == "hang":
    time.sleep(60)
    sys.exit("error: nobody stopped this")
tell("finished")
"""


@pytest.fixture
def stood_in(tmp_path, monkeypatch):
    """A folder in which stand-ins run instead of `launch.main`, and what they gather."""
    gathered = []
    monkeypatch.setattr(
        commands.Job, "command", lambda job: [sys.executable, "-c", STAND_IN, *words(job)]
    )
    monkeypatch.setattr(actions, "gather", lambda options, _: gathered.append(options.folder))
    folder = tmp_path / "sweep"
    folder.mkdir()
    return folder, gathered


def words(job):
    return [f"--workdir={job.workdir}"]


def names(seeds=(1, 2)):
    config = tiny(**{"workload.seeds": seeds})
    return [run.name for run in sweeps.resolve(config, digits.SWEEPS["seeds"](config))]


def behave(folder, **behaviours):
    """Says how runs are to end; the files are no sweep's, so the sweep must be there before."""
    for name, behaviour in behaviours.items():
        (folder / name.removeprefix("_")).write_text(behaviour)


def begin(folder, **behaviours):
    """A folder that holds the sweep already, as after a first call that started nothing."""
    config = tiny()
    runs = sweeps.resolve(config, digits.SWEEPS["seeds"](config))
    with folders.held(folder, folders.record(FILE, "seeds", config, runs)):
        behave(folder, **{f"_{name}": value for name, value in behaviours.items()})


def states(folder):
    found = folders.standings(folder, folders.read(folder))
    return {standing.name: (standing.state, standing.error) for standing in found}


def test_failed_runs_are_listed_with_their_errors_and_retried_on_request(stood_in, capsys):
    folder, gathered = stood_in
    first, second = names()
    begin(folder, **{first: "fail", second: "refuse"})
    assert actions.run(options(folder), threading.Event()) == 1
    told = {first: ("failed", "no luck"), second: ("failed", "the dataset is not here")}
    assert states(folder) == told
    assert "no luck" in capsys.readouterr().out
    assert actions.run(options(folder), threading.Event()) == 1
    assert sorted(lines(folder / "starts")) == sorted([first, second])
    begin(folder, **{first: "finish", second: "fail"})
    assert actions.run(options(folder, retry=True), threading.Event()) == 1
    assert states(folder) == {first: ("finished", None), second: ("failed", "no luck")}
    begin(folder, **{second: "finish"})
    assert actions.run(options(folder, retry=True), threading.Event()) == 0
    assert lines(folder / "starts").count(first) == 2 and gathered == [folder]


def test_a_dead_run_is_started_again_and_a_finished_one_is_not(stood_in):
    folder, gathered = stood_in
    first, second = names()
    begin(folder, **{first: "die"})
    assert actions.run(options(folder), threading.Event()) == commands.STOPPED
    assert states(folder) == {first: ("dead", None), second: ("finished", None)}
    begin(folder, **{first: "finish"})
    assert actions.run(options(folder), threading.Event()) == 0
    assert lines(folder / "starts").count(first) == 2
    assert lines(folder / "starts").count(second) == 1 and gathered == [folder]


def test_a_run_that_another_process_goes_on_with_is_waited_for(stood_in):
    folder, _ = stood_in
    first, second = names()
    begin(folder)
    status.write(folder / "runs" / first, "running")
    lock = locks.take(folder / "runs" / first, "it is taken")

    def end():
        status.write(folder / "runs" / first, "finished")
        os.close(lock)

    threading.Timer(0.5, end).start()
    assert actions.run(options(folder), threading.Event()) == 0
    assert lines(folder / "starts") == [second]


CLI = f"""
import sys
from absl import app, flags
from launch import sweep
from launch.sweeping import commands
stand_in = {STAND_IN!r}
commands.Job.command = lambda job: [sys.executable, "-c", stand_in, f"--workdir={{job.workdir}}"]
flags.FLAGS.set_gnu_getopt(True)
app.run(sweep.main, flags_parser=sweep.parse)
"""


def test_a_sweep_that_is_asked_to_end_ends_its_runs_first(tmp_path):
    folder = tmp_path / "sweep"
    first, second, third = names((1, 2, 3))
    line = [f"--config={FILE}", "--sweep=seeds", f"--folder={folder}", "run"]
    changes = TINY | {"workload.seeds": (1, 2, 3)}
    line += [f"--config.{field}={value}" for field, value in changes.items()]
    process = subprocess.Popen(
        [sys.executable, "-c", CLI.replace('else "finish"', 'else "hang"'), *line],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    runs, last = [folder / "runs" / name for name in (first, second)], time.monotonic() + 60
    while any(status.read(run).state != "running" for run in runs):
        assert process.poll() is None and time.monotonic() < last, process.communicate()[0]
        time.sleep(0.05)
    with pytest.raises(OSError, match="another sweep process"):
        held = folders.read(folder)
        with folders.held(folder, held):
            pass
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == commands.STOPPED, output
    assert "3 runs: 2 stopped, 1 absent" in output
    assert states(folder)[third][0] == "absent"


# What is refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sweep": "seed"}, "did you mean 'seeds'"),
        ({"sweep": None}, "--sweep"),
        ({"config": None}, "--config"),
        ({"processes": 0}, "processes is 0"),
        ({"on": "slrum"}, "did you mean 'slurm'"),
        ({"slurm": "partition=x"}, "--on=slurm"),
        ({"config": tiny(**{"workload.seeds": (1, 1)})}, "two runs of the sweep have the same"),
        ({"config": tiny(**{"workload.seeds": ()})}, "no runs"),
    ],
)
def test_what_cannot_be_run_is_refused_and_nothing_is_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        actions.run(options(tmp_path / "sweep", **changes), threading.Event())
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(("given", "message"), [(["rum"], "'run'"), (["run", "x"], "'x'")])
def test_an_unknown_action_is_refused_with_those_there_are(given, message):
    with pytest.raises(ValueError, match=message):
        actions.find(given)


def test_a_folder_of_another_sweep_is_refused_naming_what_differs(stood_in):
    folder, _ = stood_in
    begin(folder)
    before = (folder / "sweep.json").read_bytes()
    other = options(folder, config=tiny(**{"workload.stages": 3}))
    with pytest.raises(ValueError, match="config.workload.stages is 1 there, 3 now"):
        actions.run(other, threading.Event())
    fewer = options(folder, sweep="grid")
    with pytest.raises(ValueError, match=f"run {names()[0]} is workload.seeds=.1,. there, absent"):
        actions.run(fewer, threading.Event())
    assert (folder / "sweep.json").read_bytes() == before and not (folder / "runs").exists()


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="'thesis.tex' and no sweep.json"):
        actions.run(options(tmp_path), threading.Event())
    with pytest.raises(OSError, match="a file"):
        actions.run(options(tmp_path / "thesis.tex"), threading.Event())
    with pytest.raises(FileNotFoundError, match="no sweep"):
        actions.show(options(tmp_path), threading.Event())
    assert os.listdir(tmp_path) == ["thesis.tex"]


# Slurm, without one: what is asked of its commands.


@pytest.fixture
def commands_of_slurm(tmp_path, monkeypatch):
    """Stand-ins for Slurm's commands; the folder in which they write what they were given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        "srun": "exit 1",
        "sbatch": f"cp $1 {folder}/batch; echo >> {folder}/calls; "
        f"echo Submitted batch job $((6 + $(wc -l < {folder}/calls)))",
        "squeue": f"echo $@ > {folder}/asked; cat {folder}/queue",
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_a_sweep_is_submitted_as_one_array_and_not_twice(commands_of_slurm, tmp_path, capsys):
    folder, given = tmp_path / "sweep", "partition=main,timeout_min=30,gpus_per_node=1"
    asked = options(folder, on="slurm", slurm=given)
    (commands_of_slurm / "queue").write_text("7_0\n7_1\n8_0\n")
    assert actions.run(asked, threading.Event()) == commands.STOPPED
    assert "2 runs: 2 queued" in capsys.readouterr().out
    batch = (commands_of_slurm / "batch").read_text()
    for line in ("array=0-1%2", "partition=main", "time=30", "gpus-per-node=1", "requeue"):
        assert f"#SBATCH --{line}\n" in batch
    (commands_of_slurm / "batch").unlink()
    assert actions.run(asked, threading.Event()) == commands.STOPPED
    assert not (commands_of_slurm / "batch").exists()
    (commands_of_slurm / "queue").write_text("7_1\n")
    assert slurm.queued(folder) == {names()[1]}
    status.write(folder / "runs" / names()[1], "finished")
    actions.run(asked, threading.Event())
    assert "#SBATCH --array" not in (commands_of_slurm / "batch").read_text()
    assert folders.read(folder)["runs"][0]["name"] == names()[0]


def test_a_sweep_of_more_runs_than_an_array_holds_is_several(
    commands_of_slurm, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(slurm, "ARRAY", 2)
    asked = options(tmp_path / "sweep", on="slurm", config=tiny(**{"workload.seeds": (1, 2, 3)}))
    (commands_of_slurm / "queue").write_text("7_0\n7_1\n8\n")
    for _ in range(2):
        assert actions.run(asked, threading.Event()) == commands.STOPPED
        assert "3 runs: 3 queued" in capsys.readouterr().out
    jobs = records.read_json(tmp_path / "sweep" / "submitit" / "jobs.json", {})
    assert sorted(jobs.values()) == ["7_0", "7_1", "8"] and {*jobs} == {*names((1, 2, 3))}


def test_a_submitted_run_is_not_started_where_slurm_does_not_answer(commands_of_slurm, tmp_path):
    records.write_whole(tmp_path / "sweep/submitit/jobs.json", '{"a": "7_0"}')
    with pytest.raises(ValueError, match="does not answer"):
        slurm.queued(tmp_path / "sweep")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("partition=a,timeout_min=5", {"partition": "a", "timeout_min": 5}),
        ("mem_gb=2.5,nodelist=n[1,2],qos=x", {"mem_gb": 2.5, "nodelist": "n[1,2]", "qos": "x"}),
        ("setup=['a b', 'c=d'],exclusive=True", {"setup": ["a b", "c=d"], "exclusive": True}),
    ],
)
def test_what_slurm_is_asked_for_is_read(text, found):
    assert slurm.parameters(text) == found


@pytest.mark.parametrize("text", ["partition", "=3", "a=1,a=2", "a="])
def test_what_slurm_cannot_be_asked_for_is_refused(text):
    with pytest.raises(ValueError, match="NAME=VALUE"):
        slurm.parameters(text)


def test_a_parameter_that_submitit_does_not_know_is_refused(commands_of_slurm, tmp_path):
    for given, message in [({"partion": "x"}, "partion"), ({"timeout_min": "x"}, "timeout_min")]:
        with pytest.raises(ValueError, match=message):
            slurm.executor(tmp_path / "sweep", given)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(("code", "put_back"), [(75, True), (-9, True), (0, False), (1, False)])
def test_a_job_whose_time_is_up_goes_back_into_the_queue_unless_it_ended(
    monkeypatch, tmp_path, code, put_back
):
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    asked = []

    def execute(job, stopping):
        os.kill(os.getpid(), signal.SIGUSR2)
        assert stopping.wait(5)
        return code

    monkeypatch.setattr(commands, "execute", execute)
    try:
        signal.signal(signal.SIGUSR2, lambda number, _: asked.append(number))
        assert tasks.Task(("name", tmp_path, tmp_path / "log", ()))() == code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert asked == [signal.SIGUSR2] * put_back


# How a run stands.


def test_a_run_s_status_says_whether_it_is_alive(tmp_path):
    assert status.read(tmp_path / "run").state == "absent"
    with results.open_run(tmp_path / "run", {"a": 1}, study="s") as run:
        assert status.read(run.path).state == "running"
        status.write(run.path, "running")
        assert status.read(run.path).state == "running"
    assert status.read(run.path).state == "dead"
    status.write(run.path, "failed", "two\nlines")
    assert status.read(run.path)[:2] == ("failed", "two lines")
    with pytest.raises(ValueError, match="finished"):
        status.write(run.path, "finisched")


def test_to_look_at_a_run_is_not_to_hold_it(tmp_path):
    results.open_run(tmp_path, {"a": 1}, study="s").close()
    looking = threading.Event()

    def look():
        while not looking.is_set():
            status.read(tmp_path)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(20):
            results.open_run(tmp_path, {"a": 1}, study="s").close()
    finally:
        looking.set()
        thread.join()


def test_a_run_that_failed_before_it_began_can_begin(tmp_path):
    status.write(tmp_path, "failed", "the dataset is not here")
    with results.open_run(tmp_path, {"a": 1}, study="s") as run:
        assert sorted(os.listdir(run.path)) == [".lock", "config.json", "status.json"]
