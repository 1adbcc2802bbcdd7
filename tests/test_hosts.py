"""A job of several processes: how it is found, joined and ended, and its result."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from launch import hosts
from pruning_jax.lab import checkpointing, processes, results

ROOT = pathlib.Path(__file__).parents[1]

EAGER = """
import sys
from absl import app
from launch import main
from pruning_jax.lab import jobs
jobs.SECONDS_BETWEEN_CHECKPOINTS = 0.0
app.run(main.main, flags_parser=main.parse)
"""

CONFIG = (
    "--config=configs/digits.py:smoke",
    "--config.workload.seeds=(1,2,3)",
    "--config.workload.criteria=('magnitude',)",
    "--config.workload.sparsities=(0.5,)",
    "--config.workload.training.epochs=6",
    "--config.workload.training.batch_size=20",  # two pieces of steps in an epoch
)


def own(address="host:1", processes="2", process="1"):
    return dict(zip(hosts.OWN, (address, processes, process), strict=True))


def slurm(nodes, tasks="2", process="1", job="70000"):
    return dict(zip((*hosts.SLURM, "SLURM_JOB_ID"), (nodes, tasks, process, job), strict=True))


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, None),
        (own(), ("host:1", 2, 1)),
        (own(processes="1", process="0"), None),
        (slurm("alone"), ("alone:61808", 2, 1)),
        (slurm("a,b"), ("a:61808", 2, 1)),
        (slurm("n[003-007,9],b"), ("n003:61808", 2, 1)),
        (slurm("gpu-[12,14]"), ("gpu-12:61808", 2, 1)),
        (slurm("alone", tasks="1", process="0"), None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, None),
        (own() | slurm("alone"), ("host:1", 2, 1)),
    ],
)
def test_the_job_is_the_one_that_the_environment_describes(environment, job):
    assert hosts.find(environment) == job


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        (own() | {hosts.OWN[1]: ""}, "JAX_NUM_PROCESSES is not set"),
        ({hosts.OWN[2]: "1"}, "JAX_COORDINATOR_ADDRESS is not set"),
        (own(address="host"), "'host'; it must be HOST:PORT"),
        (own(processes="two"), "JAX_NUM_PROCESSES is 'two'"),
        (own(process="2"), "JAX_PROCESS_ID is 2; it must be 0 to 1"),
        (slurm("alone", process="-1"), "SLURM_PROCID is '-1'"),
    ],
)
def test_a_bad_environment_is_refused(environment, named):
    with pytest.raises(ValueError, match=named):
        hosts.find(environment)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("process", [0, 1])
def test_a_job_that_does_not_come_together_ends_with_a_message(process):
    address = f"localhost:{free_port()}"
    code = f"""
from launch import hosts
with hosts.joined({own(address, "2", str(process))}, seconds=1):
    raise AssertionError
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert f"error: process {process}: the coordinator, {address}" in ended.stderr
    assert "Traceback" not in ended.stderr


def start(
    workdir: pathlib.Path, *, count: int, last: tuple[str, ...] = ()
) -> list[subprocess.Popen]:
    """The processes of one job, of two devices each; `last` is for the last one alone."""
    port = free_port()
    started = []
    for process in range(count):
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
        environment |= own(f"localhost:{port}", str(count), str(process))
        more = last if process == count - 1 else ()
        with open(workdir.with_suffix(f".{process}"), "w") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-c", EAGER, *CONFIG, f"--workdir={workdir}", *more],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return started


def finish(workdir: pathlib.Path, *, count: int) -> None:
    for process, one in enumerate(start(workdir, count=count)):
        assert one.wait(timeout=200) == 0, workdir.with_suffix(f".{process}").read_text()


def wait_for(workdir: pathlib.Path, starts: int, records: int) -> None:
    """Until a job has been started so often and so many records are there."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            found = results.read(workdir)
            if len(found.provenance.get("started", ())) >= starts and len(found.metrics) >= records:
                return
        time.sleep(0.02)
    raise AssertionError("the job did not train in time")


def test_two_processes_give_the_result_of_one_through_the_death_of_each(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    finish(one, count=1)
    job = start(two, count=2)
    for starts, dies, records in [(1, 1, 4), (2, 0, 10)]:
        wait_for(two, starts, records)
        job[dies].kill()
        job[dies].wait()
        died = time.monotonic()
        assert job[1 - dies].wait(timeout=90) not in (0, None)
        assert time.monotonic() - died < hosts.DEAD_AFTER_SECONDS + 30
        assert "another" in two.with_suffix(f".{1 - dies}").read_text()
        assert list((two / "checkpoints" / "training").rglob("CHECKSUMS.json"))
        if dies == 1:
            job = start(two, count=2)
    finish(two, count=2)
    assert (two / "results.jsonl").read_text() == (one / "results.jsonl").read_text()
    found, wanted = (sorted(map(str, results.read(path).metrics)) for path in (two, one))
    assert found == wanted
    for path in sorted((one / "checkpoints").glob("*trained/*/*")):
        place = path.relative_to(one)
        np.testing.assert_equal(checkpointing.load(two / place), checkpointing.load(path))
    assert len(results.read(two).provenance["started"]) == 3
    assert "criterion" not in two.with_suffix(".1").read_text(), "the first process alone tells"


@pytest.mark.parametrize(
    ("last", "named"),
    [
        ("--config.workload.training.learning_rate=0.5", "config"),
        ("--devices=2", "mesh"),
        ("--workdir=elsewhere", "workdir"),
    ],
)
def test_processes_that_were_started_differently_end_with_a_message(tmp_path, last, named):
    workdir = tmp_path / "run"
    for process, one in enumerate(start(workdir, count=2, last=(last,))):
        assert one.wait(timeout=100) == 1
        told = workdir.with_suffix(f".{process}").read_text()
        assert f"error: the processes of the job differ in {named}; " in told
    assert not workdir.exists()


def test_what_is_this_process_s_own_error_is_not_another_s_death(monkeypatch):
    def error(text):
        return jax.errors.JaxRuntimeError(text)

    assert not processes.is_lost(error("UNKNOWN: Gloo all-reduce failed"))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert processes.is_lost(error("UNKNOWN: Gloo all-reduce failed"))
    assert not processes.is_lost(error("RESOURCE_EXHAUSTED: Out of memory"))
    assert not processes.is_lost(ValueError("UNKNOWN"))
