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

from pruning_jax.lab import records, results, status, tables
from pruning_jax.lab.tables import Row

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
    assert found["git"][0].keys() == {"revision", "dirty", "changes"}


def test_same_config_continues(run):
    run.log({"step": 1}, {"loss": 0.5})
    run.add([Row({"a": 1}, {"found": 2})])
    run.close()
    with results.open_run(run.path, CONFIG, study="loss_modelling") as again:
        again.add([Row({"a": 2}, {"found": 4})])
        assert again.rows() == [{"a": 1, "found": 2}, {"a": 2, "found": 4}]
    found = results.read(run.path)
    assert len(found.provenance["started"]) == len(found.provenance["git"]) == 2
    assert found.metrics == [{"step": 1, "loss": 0.5}]
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


def test_other_data_or_settings_are_refused_naming_them(tmp_path):
    there = {"data": {"w": "abc"}, "jax": {"jax_enable_x64": "False"}}
    results.open_run(tmp_path, CONFIG, study="s", surroundings=there).close()
    results.open_run(tmp_path, CONFIG, study="s", surroundings=there).close()
    results.open_run(tmp_path, CONFIG, study="s").close()
    for name, value, told in [("data", {"w": "abd"}, "data.w: 'abc' there, 'abd' now")] + [
        ("jax", {"jax_enable_x64": "True"}, "jax.jax_enable_x64: 'False' there, 'True' now")
    ]:
        with pytest.raises(ValueError, match=f"surroundings.{told}"):
            results.open_run(tmp_path, CONFIG, study="s", surroundings=there | {name: value})


def test_a_config_file_that_says_nothing_beside_rows_is_refused(run):
    run.add([Row({"a": 1}, {})])
    run.close()
    for content in ("{}", '{"config": {}, "study": "loss_modelling"}'):
        (run.path / "config.json").write_text(content)
        with pytest.raises(ValueError, match="does not say of what|another config"):
            results.open_run(run.path, CONFIG, study="loss_modelling")


def test_what_differs_from_the_start_before_is_noted(run, monkeypatch):
    assert run.notes == ()
    run.close()
    before = results.read(run.path).provenance["git"][-1]
    git = before | {"dirty": True, "changes": "0123"}
    monkeypatch.setattr(results.environment, "revision", lambda: git)
    monkeypatch.setattr(results.environment, "versions", lambda: {"jax": "0"})
    with results.open_run(run.path, CONFIG, study="loss_modelling") as again:
        source, package = again.notes
    assert "the source was at" in source and "with changes (0123) now" in source
    assert package.startswith("jax was ") and package.endswith("and is 0 now")
    with results.open_run(run.path, CONFIG, study="loss_modelling") as third:
        assert third.notes == ()


def test_a_finished_run_that_is_opened_again_changes_once_something_is_added(run):
    status.write(run.path, "finished")
    run.close()
    before = (run.path / "config.json").read_bytes()
    with results.open_run(run.path, CONFIG, study="loss_modelling") as again:
        assert again.is_unchanged
        again.write_claims([{"id": "a"}])
        assert (run.path / "config.json").read_bytes() == before
        again.add([Row({"a": 1}, {})])
        assert not again.is_unchanged
    assert len(results.read(run.path).provenance["started"]) == 2


def test_a_closed_run_takes_nothing(run):
    run.close()
    for action in (lambda: run.add([Row({"a": 1}, {})]), lambda: run.log({"a": 1}, {})):
        with pytest.raises(ValueError, match="closed; open it again"):
            action()
    assert results.read(run.path).results == results.read(run.path).metrics == []


def test_an_address_is_no_work_directory(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="gs://bucket/run is an address"):
        results.open_run("gs://bucket/run", CONFIG, study="s")
    monkeypatch.setenv("HOME", str(tmp_path))
    with results.open_run("~/run", CONFIG, study="s") as run:
        assert run.path == tmp_path / "run"


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
        "loss": np.float32(0.5),
        "metric": jnp.float32(2.0),
        "list": [1, (2.5, None)],
        "array": np.arange(3),
        "flag": np.bool_(True),
        "infinite": [math.inf, -math.inf],
        "third": 1 / 3,
        "words": ["NaN", "'Infinity", "it's"],
    }
    job = {"phase": "pruned", "step": np.int64(3)}
    run.log(job, record | {"bad": math.nan})
    found = results.read(run.path).metrics[0]
    assert math.isnan(found.pop("bad"))
    assert found == {**job, **record, "list": [1, [2.5, None]], "array": [0, 1, 2]}
    for line in (run.path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_what_json_cannot_hold_is_refused_and_nothing_written(run):
    with pytest.raises(ValueError, match="type object"):
        run.log({"a": 1}, {"b": object()})
    with pytest.raises(ValueError, match="type set"):
        run.add([Row({"a": 1}, {}), Row({"a": 2}, {"b": {1}})])
    found = results.read(run.path)
    assert found.metrics == found.results == [] and {"a": 1} not in run.table


@pytest.mark.parametrize("rows", [[{"a": 1}], [{"b": 2}, {"b": 2.0}], [{"b": 2, "found": 1}], [{}]])
def test_a_job_has_one_row_and_names_of_its_own(run, rows):
    run.add([Row({"a": 1}, {"found": 1})])
    before = (run.path / "results.jsonl").read_bytes()
    with pytest.raises(ValueError, match="row already|its own values|no job"):
        run.add([Row(job, {"found": 2}) for job in rows])
    assert (run.path / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize(("found", "said"), [(1, "the same as"), (2, "and differs from")])
def test_two_rows_of_one_job_are_refused_by_its_name(run, found, said):
    run.add([Row({"phase": "pruned", "seed": 1}, {"loss": 1})])
    run.close()
    with open(run.path / "results.jsonl", "a") as stream:
        second = {"job": {"seed": 1, "phase": "pruned"}, "found": {"loss": found}}
        stream.write(json.dumps(second) + "\n")
    for action in (lambda: results.read(run.path), lambda: reopened(run)):
        with pytest.raises(ValueError, match=rf"line 2 .*second row of .*pruned seed=1, {said}"):
            action()


def reopened(run):
    return results.open_run(run.path, CONFIG, study="loss_modelling")


def test_forget(run):
    for epoch in range(5):
        run.log({"epoch": epoch}, {"loss": epoch})
    before = (run.path / "metrics.jsonl").stat()
    run.forget({"epoch": epoch} for epoch in (7, 8))
    assert (run.path / "metrics.jsonl").stat() == before
    run.forget({"epoch": epoch} for epoch in (3, 4, 5))
    assert [record["epoch"] for record in results.read(run.path).metrics] == [0, 1, 2]
    run.log({"epoch": 3}, {"loss": 3})


def test_a_table_is_a_data_frame(run):
    assert results.read(run.path).table.empty
    run.add([Row({"phase": "pruned", "seed": s}, {"loss": s / 2, "units": [s]}) for s in range(3)])
    run.add([Row({"phase": "retrained", "seed": 0}, {"accuracy": 0.5})])
    table = results.read(run.path).table
    assert list(table.columns) == ["phase", "seed", "loss", "units", "accuracy"]
    assert table[table.phase == "pruned"].groupby("seed").loss.mean().to_list() == [0, 0.5, 1]


def test_tables_are_joined_once_in_any_order_and_differences_are_named(tmp_path):
    rows = [Row({"phase": "p", "seed": seed}, {"loss": 0.1 * seed, "x": 1}) for seed in range(4)]
    paths = {"a": tmp_path / "a", "b": tmp_path / "b", "none": tmp_path / "none"}
    tables.Table(paths["a"]).add(rows[:3])
    tables.Table(paths["b"]).add(rows[2:])
    both = tables.union(paths)
    assert sorted(both) == sorted(tables.union(dict(reversed(paths.items())))) and len(both) == 4
    whole = tables.Table(tmp_path / "whole")
    whole.replace(both)
    assert whole.rows() == [row.flat() for row in rows] and all(row.job in whole for row in rows)
    tables.Table(tmp_path / "c").add([Row(rows[2].job, {"loss": 0.3, "x": 1})])
    with pytest.raises(ValueError, match="runs a and c differ in loss of p seed=2"):
        tables.union(paths | {"c": tmp_path / "c"})


def test_torn_last_line_is_left_out_and_dropped(run):
    run.log({"epoch": 1}, {})
    run.close()
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"job": {"epoch": 2')
    assert results.read(run.path).metrics == [{"epoch": 1}]
    with reopened(run) as again:
        again.log({"epoch": 3}, {})
    assert results.read(run.path).metrics == [{"epoch": 1}, {"epoch": 3}]


def test_damaged_line_is_named(run):
    good = '{"job": {"a": 1}, "found": {}}\n'
    for bad in ('{"a"', '{"a": 1}', "[" * 100_000, '{"job": 1, "found": {}}'):
        (run.path / "results.jsonl").write_text(good + bad + "\n" + good)
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
    run.add([Row({"a": 1}, {})])

    def fails(*_):
        raise OSError(code, os.strerror(code))

    for name in ("fsync", "write"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fails)
            with pytest.raises(OSError, match=f"{os.strerror(code)}.*results") as caught:
                tables.Table(run.path / "results.jsonl").add([Row({"a": 2}, {})])
            assert caught.value.errno == code
    assert run.rows() == [{"a": 1}] and {"a": 2} not in run.table
    assert not records.leftovers(run.path)


FULL_DISK = """
import resource, signal, sys
from pruning_jax.lab import results
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = results.open_run(sys.argv[1], {}, study="s")
long = {"a": "x" * 500}
run.add([results.Row({"n": 1}, long)])
run.log({"n": 1}, long)
resource.setrlimit(resource.RLIMIT_FSIZE, (800, resource.RLIM_INFINITY))
for action in (lambda: run.add([results.Row({"n": 2}, long)]), lambda: run.log({"n": 2}, long)):
    try:
        action()
    except OSError as error:
        assert "free some space" in str(error) and ".jsonl" in str(error), error
    else:
        raise SystemExit("not refused")
run.log({"n": 2}, {"a": "short"})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no file size limits here")
def test_disk_that_fills_in_the_middle_of_a_write(tmp_path):
    with run_python(FULL_DISK, str(tmp_path)) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found = results.read(tmp_path)
    assert found.results == [{"n": 1, "a": "x" * 500}]
    assert found.metrics == [{"n": 1, "a": "x" * 500}, {"n": 2, "a": "short"}]
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
Row, start = results.Row, -(-len(run.rows()) // 7)
for call in itertools.count(start):
    run.forget({"call": call - back} for back in (0, 6))
    run.log({"call": call}, {"padding": "x" * 3000})
    jobs = [{"call": call, "row": row} for row in range(7)]
    run.add([Row(job, {"padding": "x" * 300}) for job in jobs if job not in run.table])
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
        count = len(found.results)
        assert 7 * (written + 1) <= count <= 7 * (written + 2)
        wanted = [divmod(number, 7) for number in range(count)]
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
        run.add([Row({"x": 1}, {}), Row({"x": 2}, {})])
        run.log({"x": 1}, {})
        run.log({"x": 2}, {})
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes()[:-3])
    with results.open_run(tmp_path / "run", {"a": 1}, study="s") as run:
        run.add([Row({"x": 3}, {})])
        run.log({"x": 3}, {})
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
