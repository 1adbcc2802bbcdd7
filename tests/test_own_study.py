"""A study on a model and data of the user's own, from a package outside this repository."""

import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from configs import digits
from launch import overrides
from pruning_jax import studies
from pruning_jax.lab import results
from pruning_jax.lab.jobs import Lab
from pruning_jax.studies import workloads

PACKAGE = """
import flax.linen as nn
import numpy as np


class Own(nn.Module):
    classes: int
    width: int

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(self.classes)(nn.relu(nn.Dense(self.width)(x.reshape(len(x), -1))))


def build(classes, width=7):
    return Own(classes, width)


def load():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 120).astype(np.int32)
    images = draw.normal(size=(120, 4, 4, 1)) + labels[:, None, None, None]
    return (images[:90], labels[:90]), (images[90:], labels[90:]), 3


number, wrong = 3, lambda: 5
"""


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    (tmp_path / "own_package.py").write_text(textwrap.dedent(PACKAGE))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_package", None)


def config(**changes):
    found = digits.get_config("smoke").to_dict()
    found["workload"] |= {"dataset": "own_package:load", "validation": 20, "seeds": (1, 2)}
    found["workload"] |= {"model": {"name": "own_package:build", "width": 5}, "stages": 1}
    found["workload"] |= {"criteria": ("magnitude",), "sparsities": (0.5,)}
    found["workload"] |= {"statistics_examples": 20}
    found["workload"]["training"] |= {"epochs": 2, "batch_size": 10}
    found["workload"]["retraining"] |= {"epochs": 1}
    found["workload"] |= changes
    return found


def test_a_study_runs_on_a_model_and_data_of_an_installed_package(tmp_path):
    study, asked = studies.find("comparison"), config()
    with results.open_run(tmp_path / "run", asked, study="comparison") as run:
        study.run(study.build(asked), Lab(run, lambda *_: None))
    table = results.read(tmp_path / "run").table
    assert table.groupby("phase").size().to_dict() == {"pretrained": 2, "pruned": 2, "retrained": 2}
    assert set(table.prunable.dropna()) == {16 * 5 + 5 * 3}


def test_a_run_keeps_a_digest_of_the_user_s_data_and_code(tmp_path):
    found = workloads.surroundings(config())
    assert set(found["code"]) == {"own_package:load", "own_package:build"}
    asked = {"study": "comparison", "surroundings": found}
    results.open_run(tmp_path / "run", config(), **asked).close()
    other = found | {"code": dict.fromkeys(found["code"], "0123")}
    with pytest.raises(ValueError, match="surroundings.code.own_package:build: .* '0123' now"):
        results.open_run(tmp_path / "run", config(), **asked | {"surroundings": other})


def test_a_split_is_fixed_apart_from_the_seed():
    own, fixed = (studies.find("comparison").build(config(**of)) for of in CHANGES)
    first, second = ([w.load(seed).train.inputs for seed in (1, 2)] for w in (own, fixed))
    assert (np.asarray(first[0]) != np.asarray(first[1])).any()
    np.testing.assert_array_equal(*second)


CHANGES = ({}, {"split_seed": 7})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "own_package:lod"}, "'own_package:lod' cannot be imported: AttributeError"),
        ({"dataset": "no_package:load"}, "No module named 'no_package'"),
        ({"dataset": "own_package:number"}, "is a int; give a function"),
        ({"dataset": "own_package:wrong"}, r"returns a int; it must return \(train, test"),
        ({"model": {"name": "own_package:build", "wdth": 5}}, "cannot be built: .*'wdth'"),
        ({"split_seed": -1}, "split_seed is -1; it must be an integer from 0"),
    ],
)
def test_what_cannot_be_imported_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        studies.find("comparison").build(config(**changes))


def test_the_study_of_the_contributor_s_page_runs_from_its_file_and_config(tmp_path, capsys):
    page = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    page = page[page.index("## How to add a study") : page.index("## The layout")]
    study, config, *_ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "norms.py").write_text(study)
    (tmp_path / "norms_config.py").write_text(config)
    _, asked = overrides.load(str(tmp_path / "norms_config.py"))
    module, asked = studies.find(asked.study), asked.to_dict()
    for _ in range(2):  # the second time everything is there
        with results.open_run(tmp_path / "run", asked, study=asked["study"]) as run:
            module.run(module.build(asked), Lab(run, lambda *_: None))
    table = results.read(tmp_path / "run").table
    assert table.groupby("phase").size().to_dict() == {"norm": 10, "pretrained": 5}
    assert "**N1, MLP, digits: " in capsys.readouterr().out
    assert [*workloads.surroundings(asked)["code"]] == ["my_package.norms"]
    asked["workload"]["epoch"] = (1,)
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        module.build(asked)
    sys.modules.pop("my_package.norms")


def test_a_study_that_cannot_be_imported_is_named():
    with pytest.raises(ValueError, match="'no_package.study' cannot be imported"):
        studies.find("no_package.study")
