"""A real Slurm, started here: a sweep that is cut short and put back, and a job of two tasks."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from launch.sweeping import folders
from pruning_jax.lab import records, status

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "tests" / "slurm"
DAEMONS = ("munged", "slurmctld", "slurmd")


def absent() -> str:
    """Why there can be no cluster here, if so."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    missing = [name for name in (*DAEMONS, "sbatch") if not shutil.which(name, path=path)]
    if missing:
        return f"{', '.join(missing)} not installed; on Debian: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "only root can start Slurm's daemons"


pytestmark = pytest.mark.skipif(bool(absent()), reason=absent() or "it is there")

SEEDS = (1, 2, 3)
CONFIG = "configs/digits.py:smoke"
CHANGES = (
    "--config.workload.retraining.epochs=1",
    "--config.workload.criteria=('magnitude',)",
    "--config.workload.sparsities=(0.5,)",
    "--config.workload.model.widths=(16,)",
    "--config.workload.statistics_examples=50",
)
LONG = "--config.workload.training.epochs=800"  # some seconds, to be cut short within
TOGETHER = ("--config.workload.training.epochs=2", "--config.workload.seeds=(1, 2)")

# Runs one after the other in one process, without a sweep and without Slurm.
IN_TURN = """
import ast, json, sys
from launch import overrides
from pruning_jax import studies
from pruning_jax.lab import results, sweeps
from pruning_jax.lab.jobs import Lab

for folder, file, changes in json.loads(sys.argv[1]):
    pairs = (change.removeprefix("--config.").split("=", 1) for change in changes)
    values = {field: ast.literal_eval(value) for field, value in pairs}
    config = sweeps.apply(overrides.load(file)[1], values).to_dict()
    study = studies.find(config["study"])
    with results.open_run(folder, config, study=config["study"]) as run:
        study.run(study.build(config), Lab(run, lambda *_: None))
"""


class Cluster(NamedTuple):
    """A cluster that runs.

    Attributes:
      folder: its own.
      environment: in which commands speak to it.
    """

    folder: Path
    environment: dict[str, str]

    def logs(self) -> str:
        """The ends of its logs, for a failure's message."""
        ends = []
        for path in sorted((self.folder / "log").iterdir()):
            ends += [f"== {path}", *path.read_text(errors="replace").splitlines()[-25:]]
        return "\n".join(ends)

    def call(self, *command, codes=(0,), seconds: float = 180.0) -> str:
        """What a command prints, within bounded time and with one of some exit statuses."""
        ended = subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        output = f"{ended.args}: exit status {ended.returncode}\n{ended.stdout}"
        assert ended.returncode in codes, f"{output}\n{self.logs()}"
        return ended.stdout

    def wait_for(self, what: str, condition, seconds: float = 120.0, logs: Path | None = None):
        """The condition's value, once it is true; it is looked at until its time is up."""
        last = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > last:
                own = [path for path in (logs or self.folder).rglob("*") if path.suffix == ".log"]
                told = [f"== {path}\n{path.read_text(errors='replace')[-3000:]}" for path in own]
                queue = self.call("squeue", "--array")
                pytest.fail("\n".join([f"not in {seconds} s: {what}", queue, self.logs(), *told]))
            time.sleep(0.02)
        return value

    def queue(self) -> dict[str, str]:
        """The state of every job that has not ended."""
        lines = self.call("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def restarts(self, job: str) -> int:
        """How often a job was put back into the queue."""
        shown = self.call("scontrol", "--oneliner", "show", "job", job)
        return int(shown.split("Restarts=")[1].split()[0])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    outer = ("SLURM", "SBATCH", "SRUN")
    own = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    start = [SCRIPTS / "start", folder, str(os.getpid())]
    began = subprocess.run(start, env=own, capture_output=True, text=True, timeout=90)
    assert began.returncode == 0, began.stdout + began.stderr
    variable, _, path = began.stdout.splitlines()[-1].partition("=")
    try:
        yield Cluster(folder, own | {variable: path})
    finally:
        subprocess.run([SCRIPTS / "stop", folder], check=True, timeout=60)


@pytest.fixture(scope="module")
def alone(cluster, tmp_path_factory) -> Path:
    """Run directories of runs that nothing cut short: one for each seed, and `together`."""
    folder = tmp_path_factory.mktemp("alone")
    runs = {str(seed): (LONG, f"--config.workload.seeds=({seed},)") for seed in SEEDS}
    runs |= {"together": TOGETHER}
    order = [(str(folder / name), CONFIG, CHANGES + own) for name, own in runs.items()]
    cluster.call(sys.executable, "-c", IN_TURN, json.dumps(order))
    return folder


class Swept(NamedTuple):
    """What became of a sweep whose tasks were cut short.

    Attributes:
      folder: the sweep's.
      names: its runs, by seed.
      view: how the runs stood while two of them ran.
      jobs: the job of each run, after each of the three times that the sweep was called.
      kept: the checkpoints of the run that Slurm had warned, when it had stopped.
      restarts: how often Slurm put back the job of each run.
      said: what each of the three calls printed of the runs.
    """

    folder: Path
    names: list[str]
    view: str
    jobs: list[dict[str, str]]
    kept: list[str]
    restarts: list[int]
    said: list[str]


@pytest.fixture(scope="module")
def swept(cluster, alone, tmp_path_factory) -> Swept:
    """Three runs on two slots: one is cancelled and put back, one is warned, one never began."""
    folder = tmp_path_factory.mktemp("sweep") / "of_seeds"
    sweep = [sys.executable, "-m", "launch.sweep", f"--config={CONFIG}", *CHANGES, LONG]
    sweep += [f"--config.workload.seeds={SEEDS}", "--sweep=seeds", f"--folder={folder}"]
    sweep += ["--on=slurm", "--slurm=timeout_min=5"]

    def jobs() -> dict[str, str]:
        return json.loads((folder / "submitit" / "jobs.json").read_text())

    said = [cluster.call(*sweep, codes=(75,))]
    seen = [jobs()]
    names = [run["name"] for run in folders.read(folder)["runs"]]
    first, second, third = (seen[0][name] for name in names)
    running = {first: "RUNNING", second: "RUNNING", third: "PENDING"}
    cluster.wait_for("two tasks at once", lambda: cluster.queue() == running, logs=folder)
    cluster.call("scancel", third)
    cancelled, warned = (folder / "runs" / name for name in names[:2])
    middle = {cancelled: ("scancel", first), warned: ("scancel", "--signal=USR2", second)}
    view = cut_short(cluster, folder, middle)
    cluster.wait_for("a clean end", lambda: status.read(warned).state == "stopped", logs=folder)
    kept = sorted(path.name for path in (warned / "checkpoints" / "training").glob("*/*/*/[0-9]*"))
    requeue = ["scontrol", "requeue", first]  # refused for as long as the task is ending
    again = {"env": cluster.environment, "capture_output": True, "timeout": 60}
    cluster.wait_for(
        "the cancelled task can be put back",
        lambda: subprocess.run(requeue, **again).returncode == 0,
        logs=folder,
    )
    said.append(cluster.call(*sweep, codes=(75,)))
    seen.append(jobs())
    cluster.wait_for("an empty queue", lambda: not cluster.queue(), 180.0, logs=folder)
    said.append(cluster.call(*sweep))
    seen.append(jobs())
    restarts = [cluster.restarts(seen[-1][name]) for name in names]
    return Swept(folder, names, view, seen, kept, restarts, said)


def cut_short(cluster: Cluster, folder: Path, commands: dict[Path, tuple[str, ...]]) -> str:
    """Gives each run's command when the run trains; returns the status view at the first."""
    views, left = [], dict(commands)
    while left:
        run = cluster.wait_for(
            "a run in the middle of its training",
            lambda: next((run for run in left if lines(run / "metrics.jsonl") > 5), None),
            logs=folder,
        )
        views.append(folders.table(folders.standings(folder, folders.read(folder))))
        cluster.call(*left.pop(run))
    return views[0]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def rows(run: Path) -> list[records.Record]:
    return records.read_lines(run / "results.jsonl")


def test_every_result_is_there_once_and_as_if_nothing_had_happened(swept, alone):
    for seed, name in zip(SEEDS, swept.names, strict=True):
        run, undisturbed = swept.folder / "runs" / name, alone / str(seed)
        assert status.read(run).state == "finished"
        for file in ("results.jsonl", "metrics.jsonl"):
            assert (run / file).read_bytes() == (undisturbed / file).read_bytes(), run / file
    expected = [row for seed in SEEDS for row in rows(alone / str(seed))]
    assert sorted(map(repr, rows(swept.folder / "gathered"))) == sorted(map(repr, expected))
    assert swept.said[2].splitlines()[0] == "3 runs: 3 finished"


def test_the_status_view_shows_what_runs_and_what_waits(swept):
    counts, *table = swept.view.splitlines()
    assert counts.startswith("3 runs: ") and "running" in counts
    assert any(" running " in line and "pretrained" in line for line in table)
    assert all("queued" in output.splitlines()[0] for output in swept.said[:2])


def test_a_task_that_slurm_warns_keeps_its_state_and_goes_on(swept):
    assert swept.kept
    assert swept.restarts == [1, 1, 0]


def test_a_sweep_called_again_doubles_nothing(swept):
    first, second, third = swept.jobs
    assert second.keys() == first.keys() == set(swept.names)
    changed = [name for name in swept.names if second[name] != first[name]]
    assert changed == swept.names[2:]  # the one that was cancelled before it began
    assert third == second


def test_srun_makes_one_job_of_two_tasks(cluster, alone, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "launch.main", f"--config={CONFIG}", f"--workdir={run}"]
    cluster.call("srun", "--ntasks=2", *command, *CHANGES, *TOGETHER)
    assert rows(run) == rows(alone / "together")
