"""The run directory, through kills, refusals and full disks."""

import errno
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from pruning_jax.lab import records, results

CONFIG = {"seed": 0, "model": {"widths": (300, 100), "activation": "tanh"}, "rate": 0.1}


@pytest.fixture
def run(tmp_path):
    with results.open_run(tmp_path / "run", CONFIG, study="loss_modelling") as opened:
        yield opened


def run_python(program: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )


def test_config_says_what_ran(run):
    found = json.loads((run.path / "config.json").read_text())
    assert found["config"]["model"] == {"widths": [300, 100], "activation": "tanh"}
    assert found["study"] == "loss_modelling"
    wanted = {"python", "pruning_jax", "jax", "jaxlib", "flax", "optax", "orbax", "numpy"}
    assert found["versions"].keys() == wanted
    assert found["versions"]["numpy"] == np.__version__
    assert found["devices"] and len(found["git"]) == len(found["started"]) == 1
    assert found["git"][0].keys() == {"revision", "dirty"}


def test_same_config_continues(run):
    run.log(epoch=1)
    run.add([{"a": 1}])
    run.close()
    with results.open_run(run.path, CONFIG, study="loss_modelling") as again:
        again.add([{"a": 2}])
        assert again.rows() == [{"a": 1}, {"a": 2}]
    found = results.read(run.path)
    assert len(found.provenance["started"]) == len(found.provenance["git"]) == 2
    assert found.metrics == [{"epoch": 1}]
    assert again.checkpoints == run.path / "checkpoints"


def test_other_versions_are_recorded(run, monkeypatch):
    run.close()
    monkeypatch.setattr(results.environment, "versions", lambda: {"jax": "0"})
    results.open_run(run.path, CONFIG, study="loss_modelling").close()
    found = results.read(run.path).provenance
    assert found["versions"]["numpy"] == np.__version__
    assert found["started"][1]["versions"] == {"jax": "0"}


def test_another_config_is_refused_naming_every_field(run):
    run.close()
    before = (run.path / "config.json").read_bytes()
    other = {"seed": 1, "model": {"widths": (300, 100), "depth": 2}, "rate": 0.1}
    with pytest.raises(ValueError) as caught:
        results.open_run(run.path, other, study="pruning")
    lines = str(caught.value).splitlines()
    assert str(run.path) in lines[0] and "choose another directory" in lines[0]
    assert lines[1:] == [
        "  config.model.activation: 'tanh' there, absent now",
        "  config.model.depth: absent there, 2 now",
        "  config.seed: 0 there, 1 now",
        "  study: 'loss_modelling' there, 'pruning' now",
    ]
    assert (run.path / "config.json").read_bytes() == before


def test_the_lock_is_given_back_after_a_refusal(run):
    run.close()
    with pytest.raises(ValueError, match="another config"):
        results.open_run(run.path, {}, study="loss_modelling")
    results.open_run(run.path, CONFIG, study="loss_modelling").close()


def test_config_without_json_values_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        results.open_run(tmp_path / "run", {"a": object()}, study="s")
    assert not os.listdir(tmp_path)


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="'thesis.tex' and no config.json"):
        results.open_run(tmp_path, CONFIG, study="s")
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_start_that_was_killed_leaves_a_folder_that_can_be_used(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.json.1.writing").write_text("{")
    with results.open_run(tmp_path, CONFIG, study="s"):
        assert sorted(os.listdir(tmp_path)) == [".lock", "config.json"]


def test_a_file_is_no_work_directory(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="is a file"):
        results.open_run(tmp_path / "file", CONFIG, study="s")
    with pytest.raises(OSError, match="choose a folder"):
        results.open_run(tmp_path / "file" / "run", CONFIG, study="s")


def test_read_only_folder_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fails)
        with pytest.raises(OSError, match="Read-only.*can be written.*run"):
            results.open_run(tmp_path / "run", CONFIG, study="s")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails)
        with pytest.raises(OSError, match=r"Read-only.*config\.json"):
            results.open_run(tmp_path / "run", CONFIG, study="s")
    results.open_run(tmp_path / "run", CONFIG, study="s").close()


def test_damaged_config_is_named(run):
    run.close()
    os.truncate(run.path / "config.json", 20)
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        results.open_run(run.path, CONFIG, study="loss_modelling")


HOLDER = """
import sys, time
from pruning_jax.lab import results
run = results.open_run(sys.argv[1], {}, study="s")
print("open", flush=True)
time.sleep(60)
"""


def test_one_process_at_a_time_and_the_lock_dies_with_it(tmp_path):
    with run_python(HOLDER, str(tmp_path / "run")) as process:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(OSError, match="going on in this work directory"):
            results.open_run(tmp_path / "run", {}, study="s")
        assert results.read(tmp_path / "run").config == {}
        process.kill()
        process.wait()
        results.open_run(tmp_path / "run", {}, study="s").close()


def test_forgotten_runs_release_the_lock(tmp_path):
    run = results.open_run(tmp_path, {}, study="s")
    del run
    results.open_run(tmp_path, {}, study="s").close()


def test_values_come_back(run):
    record = {
        "phase": "pruned",
        "step": np.int64(3),
        "loss": np.float32(0.5),
        "metric": jnp.float32(2.0),
        "list": [1, (2.5, None)],
        "array": np.arange(3),
        "flag": np.bool_(True),
        "infinite": [math.inf, -math.inf],
        "third": 1 / 3,
    }
    run.log(**record, bad=math.nan)
    found = results.read(run.path).metrics[0]
    assert math.isnan(found.pop("bad"))
    assert found == {**record, "list": [1, [2.5, None]], "array": [0, 1, 2]}
    for line in (run.path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_what_json_cannot_hold_is_refused_and_nothing_written(run):
    with pytest.raises(ValueError, match="type object"):
        run.log(a=object())
    with pytest.raises(ValueError, match="type set"):
        run.add([{"a": 1}, {"a": {1}}])
    found = results.read(run.path)
    assert found.metrics == found.results == []


def test_forget(run):
    for epoch in range(5):
        run.log(epoch=epoch)
    assert run.forget(lambda record: record["epoch"] > 2) == 2
    assert [record["epoch"] for record in results.read(run.path).metrics] == [0, 1, 2]
    assert run.forget(lambda record: False) == 0


def test_torn_last_line_is_left_out_and_dropped(run):
    run.log(epoch=1)
    run.close()
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"epoch": 2')
    assert results.read(run.path).metrics == [{"epoch": 1}]
    with results.open_run(run.path, CONFIG, study="loss_modelling") as again:
        again.log(epoch=3)
    assert results.read(run.path).metrics == [{"epoch": 1}, {"epoch": 3}]


def test_damaged_line_is_named(run):
    (run.path / "results.jsonl").write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    with pytest.raises(ValueError, match=r"line 2 of the file .*results\.jsonl is damaged"):
        run.rows()


def test_claims_and_figures(run):
    pyplot = pytest.importorskip("matplotlib.figure")
    claims = [{"id": "L1", "ci": [0.1, math.inf], "verdict": "holds"}]
    run.write_claims(claims)
    figure = pyplot.Figure()
    figure.subplots().plot([1, 2])
    run.save_figure(figure, "gap")
    assert sorted(os.listdir(run.path / "figures")) == ["gap.png", "gap.svg"]
    assert run.figure_path("gap", "png").read_bytes().startswith(b"\x89PNG")
    assert results.read(run.path).claims == claims
    with pytest.raises(ValueError, match="without a folder"):
        run.figure_path("../gap", "png")


def test_reading_what_is_not_written_yet(tmp_path):
    assert results.read(tmp_path) == ({}, [], [], [], {})
    with pytest.raises(FileNotFoundError, match="no run directory"):
        results.read(tmp_path / "nowhere")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_failing_disk_leaves_the_file_as_it_was(run, monkeypatch, code):
    run.add([{"a": 1}])

    def fails(*_):
        raise OSError(code, os.strerror(code))

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fails)
            with pytest.raises(OSError, match=f"{os.strerror(code)}.*results") as caught:
                run.add([{"a": 2}])
            assert caught.value.errno == code
    assert run.rows() == [{"a": 1}]
    assert not records.leftovers(run.path)


FULL_DISK = """
import resource, signal, sys
from pruning_jax.lab import results
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = results.open_run(sys.argv[1], {}, study="s")
run.add([{"a": "x" * 500}])
run.log(a="x" * 500)
resource.setrlimit(resource.RLIMIT_FSIZE, (800, resource.RLIM_INFINITY))
for action in (lambda: run.add([{"a": "x" * 500}]), lambda: run.log(a="x" * 500)):
    try:
        action()
    except OSError as error:
        assert "free some space" in str(error) and ".jsonl" in str(error), error
    else:
        raise SystemExit("not refused")
run.log(a="short")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no file size limits here")
def test_disk_that_fills_in_the_middle_of_a_write(tmp_path):
    with run_python(FULL_DISK, str(tmp_path)) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found = results.read(tmp_path)
    assert found.results == [{"a": "x" * 500}]
    assert found.metrics == [{"a": "x" * 500}, {"a": "short"}]
    assert sorted(os.listdir(tmp_path)) == [
        ".lock",
        "config.json",
        "metrics.jsonl",
        "results.jsonl",
    ]


WRITER = """
import itertools, sys
from pruning_jax.lab import results
run = results.open_run(sys.argv[1], {"seed": 0}, study="s")
start = len(run.rows()) // 7
for call in itertools.count(start):
    run.log(call=call, padding="x" * 3000)
    run.forget(lambda record: record["call"] < call - 5)
    run.add([{"call": call, "row": row, "padding": "x" * 300} for row in range(7)])
    run.write_claims([{"call": call, "padding": "x" * 5000}])
    print(call, flush=True)
"""


def test_killed_at_any_moment(tmp_path):
    generator = random.Random(0)
    for _ in range(10):
        with run_python(WRITER, str(tmp_path / "run")) as process:
            for _ in range(generator.randint(1, 20)):
                written = int(process.stdout.readline())
            time.sleep(generator.uniform(0, 0.02))
            process.kill()
            rest = process.stdout.read().split()
            assert not process.stderr.read()
        written = int(rest[-1]) if rest else written
        found = results.read(tmp_path / "run")
        calls = len(found.results) // 7
        assert calls in (written + 1, written + 2)
        wanted = [(call, row) for call in range(calls) for row in range(7)]
        assert [(row["call"], row["row"]) for row in found.results] == wanted
        assert found.metrics[-1]["call"] in (written, written + 1)
        assert found.claims[0]["call"] in (written, written + 1)
        assert len(found.claims[0]["padding"]) == 5000
    with results.open_run(tmp_path / "run", {"seed": 0}, study="s"):
        assert not records.leftovers(tmp_path / "run")


def test_killed_while_starting(tmp_path):
    for delay in (0.0, 0.3, 0.6):
        with run_python(HOLDER, str(tmp_path / "run")) as process:
            time.sleep(delay)
            process.kill()
    results.open_run(tmp_path / "run", {}, study="s").close()


@pytest.mark.parametrize("name", ["metrics.jsonl", "results.jsonl"])
def test_a_torn_last_line_is_dropped_and_the_file_goes_on(tmp_path, name):
    with results.open_run(tmp_path / "run", {"a": 1}, study="s") as run:
        run.add([{"x": 1}, {"x": 2}])
        run.log(x=1)
        run.log(x=2)
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes()[:-3])
    with results.open_run(tmp_path / "run", {"a": 1}, study="s") as run:
        run.add([{"x": 3}])
        run.log(x=3)
    found = results.read(tmp_path / "run")
    torn = {"metrics.jsonl": found.metrics, "results.jsonl": found.results}[name]
    assert torn == [{"x": 1}, {"x": 3}]


@pytest.mark.parametrize(
    ("name", "content"),
    [("results.jsonl", "[1, 2]\n"), ("metrics.jsonl", "3\n"), ("config.json", "[]")],
)
def test_json_that_is_no_record_is_damage_named_by_its_file(tmp_path, name, content):
    results.open_run(tmp_path / "run", {"a": 1}, study="s").close()
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name} is damaged"):
        results.open_run(tmp_path / "run", {"a": 1}, study="s").rows()
        results.read(tmp_path / "run")
