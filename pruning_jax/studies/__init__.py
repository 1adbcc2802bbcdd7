"""The studies, a module each, over the networks they share: dense, pruned, trained again."""

import importlib
from types import ModuleType

from pruning_jax import choices

STUDIES = ("comparison", "loss_modelling", "mean_replacement", "pruning_mechanism")
"""A study is a module with ``build(config) -> plan``, which checks and computes nothing;
``run(plan, lab)``, which measures what has no row yet; and ``conclude(plan, lab)``, which
writes claims and figures from the rows there are, few or all, and from several runs as from one."""


def find(name: str) -> ModuleType:
    """The study of a name, imported when it is asked for.

    Raises:
      ValueError: there is none.
    """
    choices.check("study", name, STUDIES)
    return importlib.import_module(f"{__name__}.{name}")
