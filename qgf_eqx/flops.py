"""The floating point operations of a call, counted from its jaxpr.

`jit(f).lower(...).cost_analysis()` counts the body of a `scan` once, whatever its
length, and with it a flow of ten steps as one. This counter multiplies by the length.
"""

from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

# What XLA inlines: the body's products are the call's.
_CALLS = set(
    """
    closed_call composite core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr
    custom_vmap_call jit pjit
    """.split()
)
_CHECKPOINTS = {"checkpoint", "remat2"}
_CONTROL = {"scan", "cond", "while"} | _CHECKPOINTS

# Everything that is known to hold no product of matrices. What is in none of these sets is
# an error: a new or foreign operation must not count as nothing.
_FREE = set(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    bitcast_convert_type cbrt ceil clamp clz complex conj convert_element_type cos cosh
    digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a
    igammac imag integer_pow is_finite le le_to lgamma log log1p log2 logistic lt lt_to max
    min mul mulhi ne neg nextafter not one_minus_square or polygamma polynomial population_count
    pow real reciprocal reduce_precision regularized_incomplete_beta rem round rsqrt select_n
    shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
    stochastic_round sub tan tanh xor zeta

    broadcast_in_dim concatenate copy dynamic_slice dynamic_update_slice empty empty2 gather
    iota pad reshape rev scatter scatter-add scatter-max scatter-min scatter-mul scatter-sub
    scatter_add scatter_max scatter_min scatter_mul scatter_sub slice split squeeze stack
    tile transpose unstack

    approx_top_k argmax argmin cumlogsumexp cummax cummin cumprod cumsum reduce reduce_and
    reduce_max reduce_min reduce_or reduce_prod reduce_sum reduce_window reduce_window_max
    reduce_window_min reduce_window_sum reduce_xor select_and_gather_add select_and_scatter
    select_and_scatter_add sort top_k

    iota_2x32_shape philox2x32 philox4x32 random_bits random_clone random_fold_in random_gamma
    random_gamma_grad random_seed random_split random_unwrap random_wrap rng_bit_generator
    rng_uniform threefry2x32 threefry4x32

    debug_callback debug_print device_put from_edtype layout_constraint name
    optimization_barrier platform_index pmax pmin psum reshard sharding_constraint
    stop_gradient to_edtype

    maybe_set nonbatchable nondifferentiable_backward nontraceable select_if_vmap unvmap_all
    unvmap_any unvmap_max
    """.split()
)


def count(fn: Callable, *args: Any, **kwargs: Any) -> int:
    """The floating point operations of `fn(*args, **kwargs)`, as XLA would run them.

    It counts matrix products and convolutions, times the lengths of the scans they are in,
    and the most expensive branch of a `cond`. A multiply-add is two operations,
    and eight if an operand is complex. A convolution does not multiply the zeros of its
    padding and of its dilations, as in XLA's own count.

    It leaves out elementwise work (a few percent of a wide network) and what the compiler
    removes: unused results, repeated computations with the same inputs, such as the velocity
    that the sampler and an estimator both need. Work that does not change between rounds of
    a loop, such as the observation's share of the first layer, counts once; on CPUs XLA does
    so since JAX 0.10.2. The second forward pass of a `jax.checkpoint` counts.

    Nothing is computed, and nothing is compiled.

    **Arguments:**

    - `fn`: any function or callable PyTree, not jitted or jitted.
    - `args`, `kwargs`: of the call. `jax.ShapeDtypeStruct`s can stand in for arrays;
        anything else is static.

    **Returns:** an exact integer. Divide by 1e9 for GFLOP.

    **Raises:** `ValueError` that names the operation, for what cannot be counted: a `while`
    loop with a product inside, whose number of rounds is not known, and every operation
    that is not known to be free of products, such as decompositions, sparse and scaled
    products, kernels, callbacks and `shard_map`.
    """
    is_array = lambda x: eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct)  # noqa: E731
    arrays, static = eqx.partition((fn, args, kwargs), is_array)

    def call(arrays):
        fn, args, kwargs = eqx.combine(arrays, static)
        return eqx.filter(fn(*args, **kwargs), eqx.is_array)

    closed = jax.make_jaxpr(call)(arrays)
    return _Region(closed.jaxpr, closed.consts).total()


class _Node:
    """One operation: what it reads, and the regions inside it if it is control flow."""

    def __init__(self, eqn, reads: list):
        self.eqn, self.reads, self.name = eqn, reads, eqn.primitive.name
        bodies = _bodies(eqn) if self.name in _CONTROL else []
        same = {}
        if self.name == "scan":
            # An input from the sequence loses an axis inside, a stacked output gains one.
            ranks = lambda xs: [x.aval.ndim for x in xs]  # noqa: E731
            (body, _), equal = bodies[0], lambda a, b: sum(map(int.__eq__, ranks(a), ranks(b)))
            self.carried = equal(eqn.outvars, body.outvars)
            self.consts = equal(eqn.invars, body.invars) - self.carried
            # What is the same value outside of the loop is the same inside.
            shared = reads[: self.consts]
            same = {i: shared.index(value) for i, value in enumerate(shared)}
        self.regions = [_Region(*body, same) for body in bodies]

    def needs(self, outputs: set[int]) -> set[int]:
        """The operands that these outputs need."""
        if self.name == "scan":
            _, inputs = self.rounds(outputs)
            return inputs
        if self.name in _CHECKPOINTS:
            return self.regions[0].live(outputs)[1]
        if self.name == "cond":  # the first operand chooses the branch
            return {0}.union(*({1 + i for i in r.live(outputs)[1]} for r in self.regions))
        return set(range(len(self.reads)))

    def rounds(self, outputs: set[int]) -> tuple[set[int], set[int]]:
        """Of a scan: its outputs that are needed, in the end or for the next round, and its
        operands that are."""
        (region,), wanted = self.regions, set(outputs)
        first, last = self.consts, self.consts + self.carried
        while True:
            _, inputs = region.live(wanted)
            again = wanted | {i - first for i in inputs if first <= i < last}
            if again == wanted:
                return wanted, inputs | {first + i for i in wanted if i < self.carried}
            wanted = again


class _Region:
    """The operations of a jaxpr with all plain calls inlined, equal ones merged.

    A value is `(node, index of its output)`, or `(None, name)` if it comes from outside.
    """

    def __init__(self, jaxpr: Jaxpr, consts: Iterable = (), same: dict[int, int] | None = None):
        self._merged: dict = {}
        self._effects: list[_Node] = []  # printing, say: live though nobody uses them
        same = same or {}
        inputs = [(None, same.get(i, i)) for i in range(len(jaxpr.invars))]
        self.outputs = self._inline(jaxpr, consts, inputs)

    def _inline(self, jaxpr, consts, inputs) -> list:
        values = dict(zip(jaxpr.invars, inputs, strict=True))
        constants = zip(jaxpr.constvars, consts, strict=True)
        values |= {var: (None, _constant(value, var.aval)) for var, value in constants}

        def read(x):
            return (None, _constant(x.val, x.aval)) if isinstance(x, Literal) else values[x]

        for eqn in jaxpr.eqns:
            reads = [read(x) for x in eqn.invars]
            body = _plain_call(eqn)
            if body is not None:
                found = self._inline(*body, reads)
            else:
                node = self._merge(eqn, reads)
                found = [(node, i) for i in range(len(eqn.outvars))]
            values |= dict(zip(eqn.outvars, found, strict=True))
        return [read(x) for x in jaxpr.outvars]

    def _merge(self, eqn, reads) -> _Node:
        node = _Node(eqn, reads)
        if eqn.effects:
            self._effects.append(node)
        if eqn.effects or node.regions:
            return node
        try:
            params = tuple(sorted((k, _hashable(v)) for k, v in eqn.params.items()))
            return self._merged.setdefault((node.name, params, tuple(reads)), node)
        except TypeError:
            return node

    def live(self, wanted: Iterable[int]) -> tuple[dict[_Node, set[int]], set[int]]:
        """The operations that the wanted outputs need, with the outputs of each that are used;
        and the inputs."""
        used: dict[_Node, set[int]] = {node: set() for node in self._effects}
        inputs, todo = set(), [self.outputs[i] for i in wanted]
        todo += [node.reads[i] for node in self._effects for i in node.needs(set())]
        while todo:
            node, index = todo.pop()
            if node is None:
                inputs |= {index} if isinstance(index, int) else set()
            elif index not in used.setdefault(node, set()):
                used[node].add(index)
                todo += [node.reads[i] for i in node.needs(used[node])]
        return used, inputs

    def cost(self, wanted: Iterable[int], fixed: set[int]) -> tuple[int, int]:
        """What depends on the `fixed` inputs alone, which a loop around computes once; and the
        rest."""
        known: dict = {}

        def is_fixed(value) -> bool:
            node, index = value
            if node is None:
                return not isinstance(index, int) or index in fixed
            if node not in known:
                known[node] = all(map(is_fixed, node.reads))
            return known[node]

        once = each = 0
        for node, outputs in self.live(wanted)[0].items():
            of_fixed, of_rest = _cost(node, outputs, [is_fixed(x) for x in node.reads])
            once, each = once + of_fixed, each + of_rest
        return once, each

    def total(self, wanted: Iterable[int] | None = None) -> int:
        return sum(self.cost(range(len(self.outputs)) if wanted is None else wanted, set()))


def _plain_call(eqn) -> tuple[Jaxpr, Iterable] | None:
    """The body of a call that XLA inlines, with its constants; `None` for anything else."""
    name = eqn.primitive.name
    # The second forward pass of a checkpoint is there to be computed again.
    again = name in _CHECKPOINTS and eqn.params["differentiated"] and eqn.params["prevent_cse"]
    if name not in _CALLS | _CHECKPOINTS or again:
        return None
    (body,) = _bodies(eqn)
    return body


def _bodies(eqn) -> list[tuple[Jaxpr, Iterable]]:
    found = []
    for value in eqn.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr):
                found.append((part.jaxpr, part.consts))
            elif isinstance(part, Jaxpr):
                found.append((part, ()))
    return found


def _cost(node: _Node, outputs: set[int], fixed: list[bool]) -> tuple[int, int]:
    """Of one operation: the part that depends on fixed operands alone, and the rest."""
    if node.name != "scan":
        whole = _whole_cost(node, outputs)
        return (whole, 0) if all(fixed) else (0, whole)
    (region,), (wanted, _) = node.regions, node.rounds(outputs)
    once, _ = region.cost(wanted, {i for i in range(node.consts) if fixed[i]})
    hoisted, each = region.cost(wanted, set(range(node.consts)))
    if node.eqn.params["length"] == 0:
        return 0, 0
    return once, hoisted - once + node.eqn.params["length"] * each


def _whole_cost(node: _Node, outputs: set[int]) -> int:
    if node.name == "dot_general":
        return _product(node.eqn)
    if node.name == "conv_general_dilated":
        return _convolution(node.eqn)
    if node.name == "cond" or node.name in _CHECKPOINTS:
        return max(region.total(outputs) for region in node.regions)
    if node.name == "while" and any(region.total() for region in node.regions):
        raise ValueError(
            "`while` cannot be counted: its number of iterations is not known. Use a "
            "`jax.lax.scan` of fixed length (`guided_flow`, not an adaptive or Diffrax solver)."
        )
    if node.name not in _FREE | {"while"}:
        raise ValueError(
            f"`{node.name}` cannot be counted: it is not known to be free of products. Count "
            "the parts of the call around it."
        )
    return 0


def _product(eqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    depth = prod(eqn.invars[0].aval.shape[i] for i in contracted)
    return _multiply_add(eqn) * depth * prod(eqn.outvars[0].aval.shape)


def _convolution(eqn) -> int:
    """For each axis of the window, the pairs of an output and a kernel entry that meet at an
    entry of the input, not at a zero of the padding or between dilated entries."""
    (image, kernel), params = (x.aval.shape for x in eqn.invars), eqn.params
    out, spec = eqn.outvars[0].aval.shape, params["dimension_numbers"]
    batch, features, *places = spec.out_spec
    products = out[batch] * out[features] * kernel[spec.rhs_spec[1]]
    for i, (place, source, entry) in enumerate(
        zip(places, spec.lhs_spec[2:], spec.rhs_spec[2:], strict=True)
    ):
        at = np.arange(out[place])[:, None] * params["window_strides"][i]
        at = at + np.arange(kernel[entry]) * params["rhs_dilation"][i] - params["padding"][i][0]
        entries, gaps = np.divmod(at, params["lhs_dilation"][i])
        products *= int(np.sum((gaps == 0) & (0 <= entries) & (entries < image[source])))
    return _multiply_add(eqn) * products


def _multiply_add(eqn) -> int:
    """The real operations of one; XLA makes a real operand complex if the other is."""
    return 8 if any(jnp.iscomplexobj(x.aval) for x in eqn.invars) else 2


def _constant(value, aval):
    """A small constant by what it holds, a large one by identity."""
    if prod(aval.shape) > 1024 or jnp.issubdtype(aval.dtype, jax.dtypes.extended):  # a key
        return ("constant", id(value))
    return ("constant", str(aval.dtype), aval.shape, np.asarray(value).tobytes())


def _hashable(value):
    hash(value)
    return repr(value) if isinstance(value, float) else value
