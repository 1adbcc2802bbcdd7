"""A sweep that is killed a few times; `python -m tests.soak` kills one 50 times."""

import random
import sys
import threading
from pathlib import Path

import pytest
import soak

from launch import overrides
from launch.sweeping import actions, commands
from pruning_jax import studies
from pruning_jax.lab import results, status
from pruning_jax.lab.jobs import Lab

KILLS = 3


def run_here(job, _):
    """Runs a job in this process, as `commands.execute` does in one of its own."""
    config = overrides.load(job.arguments[0].partition("=")[2])[1].to_dict()
    study = studies.find(config["study"])
    with results.open_run(job.workdir, config, study=config["study"]) as run:
        status.write(run.path, "running")
        study.run(study.build(config), Lab(run, lambda *_: None))
        status.write(run.path, "finished")
    return commands.FINISHED


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are found in /proc")
def test_a_sweep_killed_at_random_ends_like_an_uninterrupted_one(tmp_path, monkeypatch):
    killed = tmp_path / "killed"
    kills, _ = soak.killed(killed, "few", KILLS, 2.0, random.Random(0), processes=1, begun=True)
    assert len(kills) == KILLS, kills
    monkeypatch.setattr(commands, "execute", run_here)
    file, whole = f"{Path(soak.__file__)}:few", tmp_path / "whole"
    config = overrides.load(file)[1]
    options = actions.Options(whole, file, config, "seeds", processes=1)
    assert actions.run(options, threading.Event()) == commands.FINISHED
    assert soak.compare(whole, killed) == 2 * 3
