"""Products that are computed in several ways: the gradient of a weight matrix, and one program for each platform."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import Saveable
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, JaxprEqn, Primitive, Var, jaxpr_as_fun, primitives
from jax.interpreters import ad, batching, mlir, partial_eval


def summed_product(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Computes Σ rowsᵀ columns over all axes except the last, as one matrix product.

    XLA's products on a CPU read a transposed copy of their first factor. ``rows`` are often the results of an
    activation, and XLA computes its last operations anew for each number of the copy. For GELU this took longer than
    the product itself. If it moves fewer numbers, columnsᵀ rows is computed instead, and its result is transposed.
    """
    axes = tuple(range(rows.ndim - 1))
    result_size = rows.shape[-1] * columns.shape[-1]
    # An exported program can have a batch whose size is not known yet. It cannot be compared.
    size_is_known = isinstance(rows.size, int)
    if not size_is_known or rows.size <= columns.size + result_size:
        return jnp.tensordot(rows, columns, axes=(axes, axes))
    product = jnp.tensordot(columns, rows, axes=(axes, axes))
    # The barrier keeps XLA from undoing this. It is put around a vector: XLA would put the transpose of a matrix into
    # the product later, and under vmap, where the product has three axes, this ended the process (jaxlib 0.10).
    return lax.optimization_barrier(product.ravel()).reshape(product.shape).T


Bilinear: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
"""A function of two arrays that is linear in each of them. Two that compute the same must be equal and have one hash:
a function of a module, or a frozen dataclass."""

Setting: TypeAlias = str | bool | None
"""The value of one of JAX's settings."""


@dataclass(frozen=True)
class PlatformPrograms:
    """A bilinear function, written in several ways that differ in speed and rounding only.

    Args:
        formula: the plain way. Its operations are what the function counts as.
        cpu: what CPUs compute.
        others: what all other platforms compute.
        precision: JAX's default precision of products where the function was called.
    """

    formula: Bilinear
    cpu: Bilinear
    others: Bilinear
    precision: Setting = None

    def on(self, platform: str) -> Bilinear:
        """What a platform computes."""
        return self.cpu if platform == "cpu" else self.others

    def changed(self, change: Callable[[Bilinear], Bilinear]) -> PlatformPrograms:
        """The same change of every way of computing."""
        return PlatformPrograms(change(self.formula), change(self.cpu), change(self.others), self.precision)


def bilinear(first: jax.Array, second: jax.Array, programs: PlatformPrograms) -> jax.Array:
    """Computes a bilinear function by the program for the platform that is compiled for.

    ``lax.platform_dependent`` would choose as well. But it traces, differentiates and transposes both programs: the
    train step of a ``resnet`` takes 1.2 times as long to trace. Here one equation stands for all of them, and only the
    program that is needed is traced, when it is lowered. JAX derives its derivatives from that program.
    """
    dtype = jnp.result_type(first, second)
    first, second = jnp.asarray(first, dtype), jnp.asarray(second, dtype)
    if programs.formula == programs.cpu == programs.others:
        return programs.formula(first, second)
    programs = replace(programs, precision=_setting("jax_default_matmul_precision"))
    return bilinear_p.bind(first, second, programs=programs)


@dataclass(frozen=True)
class _Mapped:
    """A bilinear function of arrays with one more axis, or None where an argument has no such axis."""

    program: Bilinear
    axes: tuple[int | None, int | None]

    def __call__(self, first: jax.Array, second: jax.Array) -> jax.Array:
        return jax.vmap(self.program, in_axes=self.axes)(first, second)


@dataclass(frozen=True)
class _Transposed:
    """The transpose of ``argument -> program(argument, other)``, as JAX derives it: bilinear in (y_bar, other).

    Args:
        program: the bilinear function.
        position: which of its two arguments is the linear one.
        argument: the shape and type of this argument.
    """

    program: Bilinear
    position: int
    argument: ShapedArray

    def __call__(self, y_bar: jax.Array, other: jax.Array) -> jax.Array:
        def in_order(argument, other):
            return (argument, other) if self.position == 0 else (other, argument)

        # The program is traced once for both transposes and for what it computes itself.
        precision = _setting("jax_default_matmul_precision")
        traced = _traced(self.program, precision, *in_order(self.argument, jax.typeof(other)))

        def linear(argument: jax.Array) -> jax.Array:
            (y,) = jaxpr_as_fun(traced)(*in_order(argument, other))
            return y

        (argument_bar,) = jax.linear_transpose(linear, self.argument)(y_bar)
        return argument_bar


def traced_formula(equation: JaxprEqn) -> ClosedJaxpr:
    """The program whose operations an equation of ``bilinear`` counts as."""
    return _traced_for_reading(equation, equation.params["programs"].formula)


def traced_for(equation: JaxprEqn, platform: str) -> ClosedJaxpr:
    """The program by which a platform computes an equation of ``bilinear``."""
    return _traced_for_reading(equation, equation.params["programs"].on(platform))


def _traced_for_reading(equation: JaxprEqn, program: Bilinear) -> ClosedJaxpr:
    operands = [_on_one_device(cast(ShapedArray, variable.aval)) for variable in equation.invars]
    return _traced(_program_on_one_device(program), equation.params["programs"].precision, *operands)


def _on_one_device(array: ShapedArray) -> ShapedArray:
    """The shape and type, without the devices that the array is divided among.

    JAX knows these devices only where the equation was made, and not where a program is read.
    """
    return array if array.sharding.mesh.empty else ShapedArray(array.shape, array.dtype)


def _program_on_one_device(program: Bilinear) -> Bilinear:
    if isinstance(program, _Mapped):
        return _Mapped(_program_on_one_device(program.program), program.axes)
    if isinstance(program, _Transposed):
        return _Transposed(_program_on_one_device(program.program), program.position, _on_one_device(program.argument))
    return program


def _setting(name: str) -> Setting:
    """A setting of JAX, as it is inside the context managers that change it."""
    return getattr(jax.config, name)


def _traced(program: Bilinear, precision: Setting, *arguments: ShapedArray) -> ClosedJaxpr:
    mesh = jax.sharding.get_abstract_mesh()
    return _traced_once(program, precision, arguments, _setting("jax_enable_x64"), mesh)


@functools.lru_cache(maxsize=1024)
def _traced_once(
    program: Bilinear,
    precision: Setting,
    arguments: tuple[ShapedArray, ...],
    x64: Setting,
    mesh: jax.sharding.AbstractMesh,
) -> ClosedJaxpr:
    """``x64`` and ``mesh`` are settings of JAX that tracing depends on."""
    with jax.default_matmul_precision(precision):
        return jax.make_jaxpr(program)(*arguments)


bilinear_p = Primitive("bilinear")


def _compute_now(first: jax.Array, second: jax.Array, *, programs: PlatformPrograms) -> jax.Array:
    """Outside of ``jax.jit`` the platform is that of the arrays, which may be NumPy's."""
    first, second = jnp.asarray(first), jnp.asarray(second)
    (platform,) = {device.platform for device in first.devices()}
    with jax.default_matmul_precision(programs.precision):
        return programs.on(platform)(first, second)


def _shape(first: ShapedArray, second: ShapedArray, *, programs: PlatformPrograms) -> ShapedArray:
    # The transpose of a function of an argument has the shape of that argument. Nothing is traced for it.
    if isinstance(programs.formula, _Transposed):
        return programs.formula.argument
    (shape,) = _traced(programs.formula, programs.precision, first, second).out_avals
    return shape


def _lower_for(platform: str):
    def lower(context: mlir.LoweringRuleContext, *operands, programs: PlatformPrograms):
        operand_types = cast(list[ShapedArray], context.avals_in)
        traced = _traced(programs.on(platform), programs.precision, *operand_types)
        return mlir.lower_fun(jaxpr_as_fun(traced))(context, *operands)

    return lower


def _map(operands, axes, *, programs: PlatformPrograms):
    # ``_Mapped`` puts the new axis first, which is the 0 that is returned.
    mapped = programs.changed(lambda program: _Mapped(program, tuple(axes)))
    return bilinear_p.bind(*operands, programs=mapped), 0


def _jvp(primals, tangents, *, programs: PlatformPrograms):
    """The product rule. The transpose runs in the reverse order of the terms.

    With this order, XLA compiles a train step to the same program as if the program for the platform had been traced.
    """
    first, second = primals
    first_dot, second_dot = tangents
    terms = []
    if not isinstance(second_dot, ad.Zero):
        terms.append(bilinear_p.bind(first, second_dot, programs=programs))
    if not isinstance(first_dot, ad.Zero):
        terms.append(bilinear_p.bind(first_dot, second, programs=programs))
    return bilinear_p.bind(first, second, programs=programs), functools.reduce(ad.add_tangents, terms)


def _transpose_first(y_bar, first, second, *, programs: PlatformPrograms):
    # ``first`` is the linear argument. JAX gives a placeholder for it, which has a shape and a type (``aval``) only.
    return bilinear_p.bind(
        y_bar, second, programs=programs.changed(lambda program: _Transposed(program, 0, first.aval))
    )


def _transpose_second(y_bar, first, second, *, programs: PlatformPrograms):
    return bilinear_p.bind(
        y_bar, first, programs=programs.changed(lambda program: _Transposed(program, 1, second.aval))
    )


def _divide(saveable, unknown, instantiated, equation: JaxprEqn):
    """Which part of a checkpointed function computes an equation: the forward pass, the backward pass, or both.

    A policy that keeps products, such as ``jax.checkpoint_policies.dots_saveable``, is asked as for a convolution.

    Returns:
        the equations of the forward and of the backward pass, whether the result is unknown in the forward pass,
        whether the backward pass has it, and the operands that it still needs.
    """
    operands = zip(equation.invars, instantiated, strict=True)
    needed = [variable for variable, is_there in operands if isinstance(variable, Var) and not is_there]
    if any(unknown):
        return None, equation, [True], [True], needed
    types = [variable.aval for variable in equation.invars]
    answer = saveable(primitives.conv_general_dilated_p, *types, **equation.params)
    if answer is True or answer is Saveable:
        return equation, None, [False], [False], []
    return equation, equation, [False], [True], needed


bilinear_p.def_impl(_compute_now)
bilinear_p.def_abstract_eval(_shape)
mlir.register_lowering(bilinear_p, _lower_for("others"))
mlir.register_lowering(bilinear_p, _lower_for("cpu"), platform="cpu")
batching.primitive_batchers[bilinear_p] = _map
partial_eval.partial_eval_jaxpr_custom_rules[bilinear_p] = _divide
# The transposes of ``defbilinear``, with another order of terms in the rule for JVPs.
ad.defbilinear(bilinear_p, _transpose_first, _transpose_second)
ad.primitive_jvps[bilinear_p] = _jvp
