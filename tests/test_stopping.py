"""Runs that are asked to end: by a signal, in the middle of everything, and continued after it."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from configs import digits
from launch import stopping
from pruning_jax import studies
from pruning_jax.lab import checkpointing, jobs, results, status, sweeps

ROOT = Path(__file__).parents[1]
FILES = ("results.jsonl", "metrics.jsonl", "claims.json")
STUDY = studies.find("comparison")


def config_of():
    """Epochs of many steps: 12 pieces of each can be stopped between."""
    config = digits.get_config("smoke").to_dict()
    config["workload"] |= {"criteria": ("linear",), "sparsities": (0.5,), "stages": 3}
    config["workload"]["model"] |= {"widths": (40, 20)}
    config["workload"]["training"] |= {"epochs": 1, "batch_size": 2}
    config["workload"]["retraining"] |= {"epochs": 1}
    return config


def run_in(workdir, config, stopping=jobs.never):
    with results.open_run(workdir, config, study="comparison") as run:
        STUDY.run(STUDY.build(config), jobs.Lab(run, lambda *_: None, stopping))


def files(workdir):
    return {name: (workdir / name).read_text() for name in FILES}


def networks(workdir):
    folder = workdir / "checkpoints"
    paths = sorted(folder.glob("*ed/*/*"))
    return {str(path.relative_to(folder)): checkpointing.load(path) for path in paths}


def assert_same(one, other):
    """Two finished run directories hold the same files and networks, bit for bit."""
    assert files(one) == files(other)
    assert {name.split("/")[0] for name in networks(one)} == {"pretrained", "pruned", "retrained"}
    np.testing.assert_equal(networks(one), networks(other))


class Asked:
    """Asks for a stop at its n-th question."""

    def __init__(self, questions):
        self.left = questions

    def __call__(self):
        self.left -= 1
        return self.left < 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The directory of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("stopping") / "whole"
    run_in(workdir, config_of())
    return workdir


def test_a_study_stopped_at_any_question_ends_like_an_uninterrupted_one(whole, tmp_path):
    stopped, chance = tmp_path / "stopped", random.Random(0)
    places, finished = [], False
    while not finished:
        try:
            run_in(stopped, config_of(), Asked(chance.randint(3, 9)))
            finished = True
        except jobs.Stopped as stop:
            places.append(str(stop))
    assert_same(stopped, whole)
    assert {place.split()[0] for place in places} == {"pretrained", "pruned", "retrained"}
    assert [place for place in places if re.search(r"step [1-9]\d*/", place)], places


ON_OTHER_DEVICES = """
import contextlib, json, pathlib, sys
from pruning_jax.lab import meshes
from pruning_jax.lab import jobs, trainings
from tests.test_stopping import Asked, config_of, run_in

folder, config, begun = pathlib.Path(sys.argv[1]), config_of(), []
config["workload"] |= {"seeds": (1, 2, 3), "stages": 1}
with meshes.use(meshes.make(1)):
    run_in(folder / "whole", config)

def reached(lab, held, members, starts, real=trainings.reached):
    step, progress = real(lab, held, members, starts)
    begun[-1].append([len(members), step])
    return step, progress

trainings.reached = reached
for devices, questions in [(4, 8), (1, 3), (2, 9999)]:
    begun.append([])
    with meshes.use(meshes.make(devices)), contextlib.suppress(jobs.Stopped):
        run_in(folder / "moved", config, Asked(questions))
print(json.dumps(begun))
"""


def test_a_training_goes_on_with_another_number_of_devices(tmp_path):
    """Three replicates, together on four devices, then the first alone, then the others as two."""
    ended = subprocess.run(
        [sys.executable, "-c", ON_OTHER_DEVICES, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "4"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    four, one, two = json.loads(ended.stdout.splitlines()[-1])
    assert four == [[3, 0]]
    assert one[0][0] == 1 and one[0][1] > 0
    assert [count for count, _ in two] == [1, 2, 2, 1] and two[0][1] > two[1][1] > 0
    moved, whole = tmp_path / "moved", tmp_path / "whole"
    lines = [files(run)["results.jsonl"].splitlines() for run in (moved, whole)]
    assert sorted(lines[0]) == sorted(lines[1])
    np.testing.assert_equal(networks(moved), networks(whole))


LONG_EPOCHS = """
import time
from absl import app
from launch import main
from pruning_jax.training import pieces
check = pieces._check_finite
def slow(*arguments):
    check(*arguments)
    print("a piece", flush=True)
    time.sleep(0.5)
pieces._check_finite = slow
app.run(main.main, flags_parser=main.parse)
"""


def test_sigterm_ends_a_run_within_an_epoch_and_it_continues(whole, tmp_path):
    config, workdir = config_of(), tmp_path / "stopped"
    file = tmp_path / f"{sweeps.name(config)}.json"
    file.write_text(json.dumps(config))
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_EPOCHS, f"--config=launch/written.py:{file}"]
        + [f"--workdir={workdir}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert [process.stdout.readline() for _ in range(2)] == ["a piece\n"] * 2
    assert status.read(workdir).state == "running"
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == stopping.STOPPED == 75 and time.monotonic() - asked < 10
    *_, line = errors.splitlines()
    told = re.fullmatch(r"stopped after .*: step (\d+)/(\d+); the same command continues", line)
    step, last = map(int, told.groups())
    assert step in range(1, last) and status.read(workdir).state == "stopped"
    (kept,) = (workdir / "checkpoints").glob("training/*/*/*/[0-9]*")
    assert int(kept.name) == step
    run_in(workdir, config)
    assert_same(workdir, whole)


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_becomes_a_request_and_handlers_come_back(number):
    def own(*_):
        """A handler that is there before."""

    before = signal.signal(number, own)
    try:
        with stopping.requested() as asked:
            assert not asked()
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
            deadline = time.monotonic() + 5
            while not asked() and time.monotonic() < deadline:
                time.sleep(0.001)
            assert asked()
        assert signal.getsignal(number) is own
        woken = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(woken)
        assert woken == -1
    finally:
        signal.signal(number, before)


def test_a_signal_while_importing_ends_a_run_that_has_not_begun(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "launch.main", "--workdir=x"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while "launch.stopping" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == stopping.STOPPED and "Traceback" not in errors
    assert (
        errors.splitlines()[-1] == "ended by SIGINT while nothing ran; the same command continues"
    )


STUCK = """
import ctypes
from launch import stopping
mutex = ctypes.create_string_buffer(256)
lock = ctypes.CDLL(None).pthread_mutex_lock
with stopping.requested(float(0.5)):
    print("ready", flush=True)
    lock(mutex), lock(mutex)
"""


def test_a_run_stuck_in_one_call_of_c_is_ended():
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75
    # Of signals that are pending at once the kernel delivers the lowest number first.
    assert re.match(rb"ended 0\.5 s after SIG(TERM|INT), [^\n]*\n$", errors), errors
    assert stopping.SECONDS < 10


def test_signals_are_left_to_the_main_thread():
    def elsewhere():
        with stopping.requested():
            pass

    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="main thread"):
        pool.submit(elsewhere).result()
