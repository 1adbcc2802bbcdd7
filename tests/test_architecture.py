"""The house's rules, read from the files: which way imports point, how large a room may grow."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the bottom up: a module imports its own group and the groups above it in this list.
GROUPS = (
    {"types", "trees", "choices", "tables", "tensorfiles", "lab.processes", "analysis.statistics"},
    {"losses", "recipes", "lab.meshes", "lab.replicates"},
    {"tracing", "units", "data", "selection", "masks", "layouts", "schedules"}
    | {"lab.blocks", "lab.sweeps"},
    {"curvature", "criteria", "replacement", "methods", "models", "saving", "exporting", "onnx"},
    {"pruning", "training", "evaluation"},
    {"retraining", "analysis"},
    {"lab.jobs", "lab.trainings"},
    {"studies"},
    {"launch"},
)
WRITING = {
    f"lab.{name}" for name in ("results", "tables", "records", "locks", "status", "environment")
}
OUTPUT = WRITING | {"lab.checkpointing", "measurements", "figures"}
OUTPUT_READ = GROUPS[0] | OUTPUT
LAB = len(GROUPS) - 3
ONLY_IN = {
    "flax": "pruning_jax/models",
    "orbax": "pruning_jax/lab/checkpointing",
    "matplotlib": "pruning_jax/figures",
    "plotly": "pruning_jax/figures",
}
MODULE_LINES = 500
BODY_LINES = 50

SOURCES = sorted(
    path.relative_to(ROOT)
    for package in ("pruning_jax", "launch")
    for path in (ROOT / package).rglob("*.py")
)


CONFIGS = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").glob("*.py"))


def module_name(path):
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in SOURCES}


def package_of(path):
    parts = module_name(path).split(".")
    return parts if path.name == "__init__.py" else parts[:-1]


def imported_names(tree, package):
    """Every absolute dotted name that the import statements of `tree` could mean."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *filter(None, [node.module])]
            yield from (".".join([*base, alias.name]) for alias in node.names)


@functools.cache
def parsed(path):
    return ast.parse((ROOT / path).read_text("utf-8"))


def imports(path):
    """The dotted names that a file imports, an attribute counted as the module that holds it."""
    found = set()
    for name in imported_names(parsed(path), package_of(path)):
        owner = name.rpartition(".")[0]
        found.add(owner if name not in MODULES and owner in MODULES else name)
    return found


def room(name):
    """``pruning_jax.criteria.weights`` -> ``criteria``; everything in launch -> ``launch``.

    The rooms of ``lab`` are on several floors, so each counts by itself, and so does statistics.
    """
    parts = name.split(".")
    if parts[0] == "launch":
        return parts[0]
    alone = parts[1:2] == ["lab"] or parts[1:] == ["analysis", "statistics"]
    return ".".join(parts[1 : 3 if alone else 2]).removesuffix("lab")


def rank(a_room):
    ranks = [i for i, group in enumerate(GROUPS) if a_room in group]
    assert ranks, f"{a_room!r} has no place: add it to GROUPS or OUTPUT in {Path(__file__).name}"
    return ranks[0]


def project_imports(path):
    own = room(module_name(path))
    rooms = {room(name) for name in imports(path) if name in MODULES}
    return own, rooms - {own, ""}


def forbidden(own, rooms):
    """The rooms among `rooms` that a module of `own` must not import."""
    if own in OUTPUT:
        return rooms - OUTPUT_READ
    above = {a for a in rooms - OUTPUT if rank(a) > rank(own)}
    return above | (rooms & OUTPUT if rank(own) < LAB else set())


def rooms_with_modules():
    return [path for path in SOURCES if room(module_name(path))]


def test_the_sources_are_found():
    assert {"pruning_jax.types", "pruning_jax.trees", "launch.claims"} <= MODULES.keys()


@pytest.mark.parametrize("path", rooms_with_modules(), ids=str)
def test_imports_point_one_way(path):
    assert not forbidden(*project_imports(path))


def test_modules_import_each_other_in_no_circle():
    graph = {name: imports(path) & MODULES.keys() - {name} for name, path in MODULES.items()}
    while free := {name for name, needs in graph.items() if not needs & graph.keys()}:
        graph = {name: needs for name, needs in graph.items() if name not in free}
    assert not sorted(graph), "modules in a circle, or above one"


@pytest.mark.parametrize("library, home", ONLY_IN.items())
def test_a_library_is_imported_in_its_one_place(library, home):
    users = [
        str(path)
        for path in SOURCES
        if any(name.split(".")[0] == library for name in imports(path))
        and not path.is_relative_to(home)
    ]
    assert not users


def test_figures_reach_no_training_code():
    reached, front = set(), {name for name in MODULES if room(name) == "figures"}
    while front:
        reached |= front
        front = {m for name in front for m in imports(MODULES[name]) if m in MODULES} - reached
    assert {room(name) for name in reached} <= OUTPUT_READ


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_configs_hold_values_and_read_no_more_than_tables(path):
    names = imports(path)
    assert {name.split(".")[0] for name in names} <= {"ml_collections", "pruning_jax", "configs"}
    assert all(rank(room(name)) <= rank("criteria") for name in names & MODULES.keys())


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_module_stays_short(path):
    lines = (ROOT / path).read_text("utf-8").count("\n")
    assert lines <= MODULE_LINES


def body_lines(function):
    first, *rest = function.body
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    start = rest[0] if documented and rest else first
    return function.end_lineno - start.lineno + 1


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_functions_stay_short(path):
    long = {
        node.name: body_lines(node)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and body_lines(node) > BODY_LINES
    }
    assert not long


def test_every_package_can_be_installed():
    assert not {
        str(path.parent) for path in SOURCES if not (ROOT / path.parent / "__init__.py").exists()
    }


def test_no_room_is_called_utils():
    assert not [path for path in SOURCES if path.stem in {"utils", "util", "helpers", "misc"}]


@pytest.mark.parametrize(
    "own, rooms, wrong",
    [
        ("masks", {"trees", "selection"}, set()),
        ("masks", {"pruning"}, {"pruning"}),
        ("training", {"lab.results"}, {"lab.results"}),
        ("figures", {"training", "lab.results"}, {"training"}),
        ("launch", {"studies", "lab.results"}, set()),
    ],
)
def test_the_order_itself_refuses_what_it_should(own, rooms, wrong):
    assert forbidden(own, rooms) == wrong


def test_relative_and_aliased_imports_are_read():
    tree = ast.parse("from . import masks as m\nfrom .criteria import weights\nimport flax.linen")
    found = set(imported_names(tree, ["pruning_jax"]))
    assert found == {"pruning_jax.masks", "pruning_jax.criteria.weights", "flax.linen"}
