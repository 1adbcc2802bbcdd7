"""The studies, a module each, over the networks they share: dense, pruned, trained again."""

import importlib
from types import ModuleType

from pruning_jax import choices

STUDIES = ("comparison", "loss_modelling", "mean_replacement", "pruning_mechanism")
"""A study is a module with ``build(config) -> plan``, which checks and computes nothing;
``run(plan, lab)``, which measures what has no row yet; and ``conclude(plan, lab)``, which
writes claims and figures from the rows there are, few or all, and from several runs as from one."""


def find(name: str) -> ModuleType:
    """The study of a name, or of a module's import path, imported when it is asked for.

    Raises:
      ValueError: there is none.
    """
    own = isinstance(name, str) and "." in name
    if not own:
        choices.check("study", name, STUDIES)
    try:
        return importlib.import_module(name if own else f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if not own:
            raise
        raise ValueError(f"the study {name!r} cannot be imported: {error}") from error
