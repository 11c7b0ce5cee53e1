"""The floating point operations of a call, counted from its jaxpr.

`jit(f).lower(...).cost_analysis()` counts the body of a `scan` once, whatever its length, and with
it a flow of ten steps as one. This counter does not.
"""

from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

_UNCOUNTABLE = {
    "cholesky",
    "eig",
    "eigh",
    "fft",
    "ffi_call",
    "geqrf",
    "hessenberg",
    "householder_product",
    "io_callback",
    "lu",
    "pallas_call",
    "pure_callback",
    "qr",
    "ragged_dot_general",
    "schur",
    "svd",
    "triangular_solve",
    "tridiagonal",
}


def count(fn: Callable, *args: Any, **kwargs: Any) -> int:
    """The floating point operations of `fn(*args, **kwargs)`, as XLA would run them.

    Counted are matrix products and convolutions, at two operations per multiply-add, times the
    lengths of the scans they are in; of the branches of a `cond` the dearest. Not counted is
    elementwise work (some percent of a wide network), nor what the compiler removes: what nobody
    uses, what is computed twice from the same inputs, as the velocity that the sampler and an
    estimator both ask for, and what does not change from one round of a loop to the next, as the
    observation's share of the first layer, which is counted once.

    Nothing is computed, and nothing is compiled.

    **Arguments:**

    - `fn`: any function or callable PyTree, not jitted or jitted.
    - `args`, `kwargs`: of the call. `jax.ShapeDtypeStruct`s will do in the place of arrays; what is
      no array is static.

    **Returns:** an exact integer. Divide by 1e9 for GFLOP.

    **Raises:** `ValueError` that names the operation, for what cannot be counted: a `while` loop
    with a product inside, whose number of rounds is not known, and decompositions.
    """
    is_array = lambda x: eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct)  # noqa: E731
    arrays, static = eqx.partition((fn, args, kwargs), is_array)

    def call(arrays):
        fn, args, kwargs = eqx.combine(arrays, static)
        return eqx.filter(fn(*args, **kwargs), eqx.is_array)

    closed = jax.make_jaxpr(call)(arrays)
    region = _Region(closed.jaxpr, closed.consts)
    return sum(region.cost(range(len(region.outputs)), fixed=set()))


class _Node:
    """One operation: what it reads, and the region inside it if it has one."""

    def __init__(self, eqn, reads: list):
        self.eqn, self.reads = eqn, reads


class _Region:
    """The operations of a jaxpr with all plain calls inlined, equal ones merged.

    A value is `(node, index of its output)`, or `(None, name)` if it comes from outside.
    """

    def __init__(self, jaxpr: Jaxpr, consts: Iterable = (), same: dict[int, int] | None = None):
        self._merged: dict = {}
        same = same or {}
        inputs = [(None, same.get(i, i)) for i in range(len(jaxpr.invars))]
        self.outputs = self._inline(jaxpr, consts, inputs)

    def _inline(self, jaxpr, consts, inputs) -> list:
        values = dict(zip(jaxpr.invars, inputs, strict=True))
        constants = zip(jaxpr.constvars, consts, strict=True)
        values |= {var: (None, _constant(value)) for var, value in constants}
        read = lambda x: (None, _literal(x)) if isinstance(x, Literal) else values[x]  # noqa: E731
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
        if _bodies(eqn):
            return node
        try:
            params = tuple(sorted((k, _hashable(v)) for k, v in eqn.params.items()))
            return self._merged.setdefault((eqn.primitive.name, params, tuple(reads)), node)
        except TypeError:
            return node

    def live(self, wanted: Iterable[int]) -> tuple[dict[_Node, set[int]], set]:
        """The operations that the wanted outputs need, with the outputs of each that are used;
        and the inputs from outside."""
        used: dict[_Node, set[int]] = {}
        outside, todo = set(), [self.outputs[i] for i in wanted]
        while todo:
            node, index = todo.pop()
            if node is None:
                outside.add(index)
            elif index not in used.setdefault(node, set()):
                used[node].add(index)
                needs = _reads_of(node, used[node])
                todo += node.reads if needs is None else [node.reads[i] for i in needs]
        return used, outside

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


def _plain_call(eqn) -> tuple[Jaxpr, Iterable] | None:
    """The body of a call that XLA inlines, with its constants; `None` for anything else."""
    name = eqn.primitive.name
    if name == "checkpoint" and eqn.params["differentiated"] and eqn.params["prevent_cse"]:
        return None
    if name in ("scan", "while", "cond"):
        return None
    bodies = _bodies(eqn)
    if len(bodies) != 1 or len(bodies[0][0].invars) != len(eqn.invars):
        return None
    return bodies[0] if len(bodies[0][0].outvars) == len(eqn.outvars) else None


def _bodies(eqn) -> list[tuple[Jaxpr, Iterable]]:
    found = []
    for value in eqn.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr):
                found.append((part.jaxpr, part.consts))
            elif isinstance(part, Jaxpr):
                found.append((part, ()))
    return found


def _scan(node: _Node, outputs: set[int]):
    """The body of a scan, its outputs that are needed, in the end or for the next round, and its
    inputs that are."""
    carried, consts = node.eqn.params["num_carry"], node.eqn.params["num_consts"]
    closed, shared = node.eqn.params["jaxpr"], node.reads[:consts]
    # What is the same value outside of the loop is the same inside.
    same = {i: shared.index(value) for i, value in enumerate(shared)}
    region, wanted = _Region(closed.jaxpr, closed.consts, same), set(outputs)
    while True:
        _, outside = region.live(wanted)
        inputs = {i for i in outside if isinstance(i, int)}
        again = wanted | {i - consts for i in inputs if consts <= i < consts + carried}
        if again == wanted:
            return region, wanted, inputs
        wanted = again


def _reads_of(node: _Node, outputs: set[int]):
    """The operands that these outputs need, or `None` for all."""
    if node.eqn.primitive.name == "scan":
        _, wanted, inputs = _scan(node, outputs)
        first = node.eqn.params["num_consts"]
        return inputs | {first + i for i in wanted if i < node.eqn.params["num_carry"]}
    return None


def _cost(node: _Node, outputs: set[int], fixed: list[bool]) -> tuple[int, int]:
    """Of one operation: the part that depends on fixed operands alone, and the rest."""
    eqn = node.eqn
    if eqn.primitive.name == "scan":
        region, wanted, _ = _scan(node, outputs)
        consts = range(eqn.params["num_consts"])
        once, _ = region.cost(wanted, {i for i in consts if fixed[i]})
        hoisted, each = region.cost(wanted, set(consts))
        return once, hoisted - once + eqn.params["length"] * each
    whole = _whole_cost(eqn, outputs)
    return (whole, 0) if all(fixed) else (0, whole)


def _whole_cost(eqn, outputs: set[int]) -> int:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        return _product(eqn)
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        features = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2 * prod(eqn.outvars[0].aval.shape) * prod(kernel) // features
    if name in _UNCOUNTABLE:
        raise ValueError(
            f"the operations of `{name}` cannot be counted. Count the parts of the call around it."
        )
    regions = [_Region(*body) for body in _bodies(eqn)]
    if name == "checkpoint":
        return sum(regions[0].cost(outputs, set()))
    costs = [sum(region.cost(range(len(region.outputs)), set())) for region in regions]
    if name == "cond":
        return max(costs)
    if any(costs):
        raise ValueError(
            f"`{name}` cannot be counted: how often its body runs is not known before. Use a "
            "`jax.lax.scan` of fixed length (`guided_flow`, not an adaptive or Diffrax solver)."
        )
    return 0


def _product(eqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    depth = prod(eqn.invars[0].aval.shape[i] for i in contracted)
    return 2 * depth * prod(eqn.outvars[0].aval.shape)


def _literal(literal: Literal):
    return _constant(np.asarray(literal.val))


def _constant(value):
    """A small constant by what it holds, a large one by identity."""
    if isinstance(value, np.ndarray | jax.Array) and value.size <= 1024:
        if not jnp.issubdtype(value.dtype, jax.dtypes.extended):  # a key
            value = np.asarray(value)
            return ("constant", str(value.dtype), value.shape, value.tobytes())
    return ("constant", id(value))


def _hashable(value):
    hash(value)
    return value if not isinstance(value, float | np.ndarray) else repr(value)
