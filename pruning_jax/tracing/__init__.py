"""A model read once: one example's equations, and the layers in them."""

from pruning_jax.tracing.checking import check as check
from pruning_jax.tracing.checking import check_examples as check_examples
from pruning_jax.tracing.checking import check_shapes as check_shapes
from pruning_jax.tracing.checking import check_variables as check_variables
from pruning_jax.tracing.checking import same_constant as same_constant
from pruning_jax.tracing.equations import Equation as Equation
from pruning_jax.tracing.equations import Equations as Equations
from pruning_jax.tracing.equations import Handler as Handler
from pruning_jax.tracing.equations import bind as bind
from pruning_jax.tracing.equations import evaluate as evaluate
from pruning_jax.tracing.equations import merged as merged
from pruning_jax.tracing.equations import over_examples as over_examples
from pruning_jax.tracing.equations import read as read
from pruning_jax.tracing.equations import run as run
from pruning_jax.tracing.layers import LINEAR as LINEAR
from pruning_jax.tracing.layers import REARRANGING as REARRANGING
from pruning_jax.tracing.layers import SCALING as SCALING
from pruning_jax.tracing.layers import Axes as Axes
from pruning_jax.tracing.layers import Use as Use
from pruning_jax.tracing.layers import View as View
from pruning_jax.tracing.products import macs as macs
from pruning_jax.tracing.traces import Layer as Layer
from pruning_jax.tracing.traces import Trace as Trace
from pruning_jax.tracing.traces import trace as trace
from pruning_jax.tracing.traces import trace_of as trace_of
from pruning_jax.tracing.traces import traced as traced
