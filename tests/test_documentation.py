"""What `pj` offers is documented: shapes, errors, sources, and an example that runs."""

import ast
import doctest
import importlib
import inspect
import re
import textwrap
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import pruning_jax as pj

NAMES = {"jax": jax, "jnp": jnp, "pj": pj}
"""What examples suppose to be imported."""

ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "pruning_jax").rglob("*.py"))
    if ">>>" in path.read_text("utf-8")
]


def names_of(room):
    """What a room offers: its `__all__`, or else what is of it and has no underscore."""
    if hasattr(room, "__all__"):
        return {name: getattr(room, name) for name in room.__all__}
    return {
        name: thing
        for name, thing in vars(room).items()
        if not name.startswith("_")
        and (getattr(thing, "__module__", None) or "").startswith(room.__name__)
    }


def offered(room, name, found):
    """Every function and class that a room offers, and the rooms in it, by its dotted name."""
    for own, thing in names_of(room).items():
        if inspect.ismodule(thing):
            offered(thing, f"{name}.{own}", found)
        elif isinstance(thing, types.FunctionType | type):
            found.setdefault(thing, f"{name}.{own}")
    return {name: thing for thing, name in found.items()}


OFFERED = offered(pj, "pj", {})
FUNCTIONS = {name: thing for name, thing in OFFERED.items() if inspect.isfunction(thing)}
TABLES = (
    pj.criteria.WEIGHT_CRITERIA,
    pj.criteria.UNIT_CRITERIA,
    pj.schedules.SCHEDULES,
    pj.methods.METHODS,
)
SOURCED = {
    name
    for name, function in FUNCTIONS.items()
    if name.startswith("pj.replacement.") or any(function in table.values() for table in TABLES)
}


def section(text, title):
    """The indented lines under a title of a docstring."""
    found = re.search(rf"^{title}:(.*?)(?=^\S|\Z)", text, flags=re.DOTALL | re.MULTILINE)
    return found and found[1]


def takes_arrays(annotation):
    """Whether a parameter or a result is an array of a shape; random keys are `Array | None`."""
    arrays = (jax.Array, float | jax.Array)
    return annotation in arrays or jax.Array in getattr(annotation, "__args__", ())[1:2]


def raises(function):
    """Whether a function raises, or checks what it is given, in its own body."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    called = {ast.unparse(n.func).split(".")[-1] for n in ast.walk(tree) if isinstance(n, ast.Call)}
    checks = any(name.lstrip("_").startswith("check") for name in called)
    return checks or any(isinstance(node, ast.Raise) for node in ast.walk(tree))


def test_what_is_offered_is_found():
    expected = {"pj.prune", "pj.masks.hold", "pj.criteria.units.mrs", "pj.units.graph", "pj.Batch"}
    assert expected <= OFFERED.keys() and len(FUNCTIONS) > 50


@pytest.mark.parametrize("name", OFFERED)
def test_a_public_name_has_a_docstring(name):
    text = inspect.getdoc(OFFERED[name]) or ""
    assert re.match(r"[A-Z`].*\.$", text.partition("\n\n")[0], flags=re.DOTALL), "no first sentence"
    if hasattr(OFFERED[name], "_fields"):
        listed = section(text, "Attributes") or text
        assert all(re.search(rf"\b{field}\b", listed) for field in OFFERED[name]._fields)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_says_what_it_takes_returns_and_refuses_and_where_it_is_from(name):
    function, text = FUNCTIONS[name], inspect.getdoc(FUNCTIONS[name])
    signature, arguments = inspect.signature(function), section(text, "Args") or ""
    shaped = [p.annotation for p in signature.parameters.values() if p.name != "key"]
    missing = [p for p in signature.parameters if not re.search(rf"\b{p}(,.*)?:", arguments)]
    assert not missing, "not under Args"
    assert signature.return_annotation is None or section(text, "Returns"), "no Returns"
    returned = takes_arrays(signature.return_annotation)
    told = re.search("shape|as in `", arguments)
    assert told or not any(map(takes_arrays, shaped)), "no shapes under Args"
    assert not returned or "shape" in section(text, "Returns"), "no shapes under Returns"
    assert not raises(function) or section(text, "Raises"), "no Raises"
    assert name not in SOURCED or section(text, "Source"), "no Source"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_has_an_example(name):
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(FUNCTIONS[name]))
    assert any(f"{name}(" in example.source for example in examples)


@pytest.mark.parametrize("module", MODULES)
def test_examples_give_what_they_say(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if module == "pruning_jax.onnx":
        pytest.importorskip("jax2onnx", reason="jax2onnx is not installed: extra 'onnx'")
    module, report = importlib.import_module(module), []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(module, extraglobs=NAMES):
        runner.run(test, out=report.append)
    assert runner.tries and not runner.failures, "".join(report)
