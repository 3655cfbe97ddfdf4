"""Traced programs as plain data, so that a small evaluator outside of Python, such as a script in a page, can run them.

Calls are replaced by the programs that they call. Arrays are in numbered places, and every place has one shape. The
arrays that a program closes over, such as a network's weights, are its constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, cast

import numpy as np
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal
from jax.lax import RoundingMethod

from functional_nn.core.errors import InputError
from functional_nn.core.layer import MARK
from functional_nn.core.shapes import Shape
from functional_nn.jaxprs.evaluate import bind
from functional_nn.jaxprs.walk import Place, Step, array_type, flattened, joined, layer_of, scan_parts

Value: TypeAlias = int | np.ndarray
"""The number of a place, which is filled when the program runs; or an array that is known already."""

PlainStep: TypeAlias = tuple[str, list[int], list[int], dict[str, object]]
"""An operation: its name, the places that it reads, the places that it fills, and its parameters."""


class LayerOutput(NamedTuple):
    """The output of a layer: the scope of the layer, and the place of the array."""

    scope: str
    place: int


@dataclass
class PortableProgram:
    """A program as plain data.

    Args:
        shapes: the shape of each place.
        constants: the arrays that are in their places before the program runs.
        inputs: the places of the arguments.
        steps: the operations in order.
        outputs: the places of the results.
        layers: the outputs of the layers that are not inside a loop, in the order in which they are computed.
    """

    shapes: list[Shape] = field(default_factory=list)
    constants: dict[int, np.ndarray] = field(default_factory=dict)
    inputs: list[int] = field(default_factory=list)
    steps: list[PlainStep] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    layers: list[LayerOutput] = field(default_factory=list)


def portable(program: ClosedJaxpr) -> PortableProgram:
    """Converts a traced program to plain data.

    An operation that is not in ``OPERATIONS`` is computed here, if its operands are known. Others are left to the
    evaluator, which can compute those on constants once.

    Raises:
        InputError: if the program has another operation, or numbers of another type than float32, int32 and bool.

    >>> import jax, jax.numpy as jnp
    >>> weight = jnp.ones((2, 3))
    >>> portable(jax.make_jaxpr(lambda x: x @ weight)(jnp.ones((1, 2)))).steps
    [('dot_general', [0, 1], [2], {'contracting': [[1], [0]], 'batch': [[], []]})]
    """
    converted = PortableProgram()
    conversion = _Conversion(converted)
    converted.inputs = [conversion.new_place(array_type(variable)) for variable in program.jaxpr.invars]
    results = conversion.lay(program, "", list(converted.inputs), converted.steps)
    converted.outputs = [conversion.place_of(value) for value in results]
    return converted


class _Conversion:
    """Fills a ``PortableProgram``, step by step."""

    def __init__(self, program: PortableProgram):
        self.program = program
        self.constant_places: dict[int, tuple[int, np.ndarray]] = {}

    def new_place(self, array: ShapedArray | np.ndarray) -> int:
        if array.dtype not in (np.float32, np.int32, np.bool_):
            raise InputError("net", "numbers of type float32, int32 or bool", f"{array.dtype}")
        self.program.shapes.append(tuple(array.shape))
        return len(self.program.shapes) - 1

    def place_of(self, value: Value) -> int:
        """The place of a value. A known array gets one when it is first read, and keeps it."""
        if isinstance(value, int):
            return value
        if id(value) not in self.constant_places:
            place = self.new_place(value)
            self.program.constants[place] = value
            self.constant_places[id(value)] = place, value  # the array is kept, so that its id stays its own
        return self.constant_places[id(value)][0]

    def lay(self, program: ClosedJaxpr, scope: str, inputs: Sequence[Value], steps: list[PlainStep]) -> list[Value]:
        """Adds the steps of a traced program with these inputs; returns its results."""
        flat = flattened(program)
        values: dict[int, Value] = dict(zip(flat.inputs, inputs, strict=True))
        values |= {place: np.asarray(constant) for place, constant in flat.constants.items()}

        def read(place: Place) -> Value:
            if isinstance(place, Literal):
                return np.asarray(place.val, array_type(place).dtype)
            return values[place]

        for step in flat.steps:
            operands = [read(place) for place in step.inputs]
            results = self.step(step._replace(scope=layer_of(joined(scope, step.scope))[0]), operands, steps)
            values.update(zip(step.outputs, results, strict=True))
        return [read(place) for place in flat.outputs]

    def step(self, step: Step, operands: list[Value], steps: list[PlainStep]) -> list[Value]:
        """Adds one step, or computes it if its operands are known; returns its results."""
        equation, name = step.equation, step.equation.primitive.name
        known = [operand for operand in operands if isinstance(operand, np.ndarray)]
        if name in UNCHANGED:
            if str(equation.params.get("name", "")).startswith(MARK):
                self.program.layers.append(LayerOutput(step.scope, self.place_of(operands[0])))
            return operands
        are_floats = all(array_type(variable).dtype == np.float32 for variable in equation.invars)
        # The evaluator can compute such an operation, which saves compiling a program for it here.
        if len(known) == len(operands) and not (name in OPERATIONS and are_floats):
            return [np.asarray(result) for result in bind(equation, known)]
        if name == "scan":
            return self.scan(step, operands, steps)
        if name not in OPERATIONS:
            raise _refused(f"{name!r} in {step.scope}", "The operations are in functional_nn.reports.portable.")
        reads = [self.place_of(operand) for operand in operands]
        fills = [self.new_place(array_type(variable)) for variable in equation.outvars]
        steps.append((name, reads, fills, OPERATIONS[name](equation)))
        return list(fills)

    def scan(self, step: Step, operands: list[Value], steps: list[PlainStep]) -> list[Value]:
        """Adds a loop."""
        scan = scan_parts(step.equation)
        constants, carry, inputs = scan.split_operands(operands)
        # The body reads its constants where they are. Only the carry and the inputs of a step get places in the body.
        arguments = [array_type(variable) for variable in scan.body.jaxpr.invars[len(constants) :]]
        places = [self.new_place(argument) for argument in arguments]
        body: list[PlainStep] = []
        layers = list(self.program.layers)
        results = [self.place_of(value) for value in self.lay(scan.body, step.scope, [*constants, *places], body)]
        self.program.layers = layers  # without those inside the loop, whose outputs change at each step
        fills = [self.new_place(array_type(variable)) for variable in step.equation.outvars]
        reads = [self.place_of(operand) for operand in (*carry, *inputs)]
        parameters = {"length": scan.length, "reverse": scan.reverse, "carried": scan.carried, "arguments": places}
        steps.append(("scan", reads, fills, parameters | {"steps": body, "results": results}))
        return list(fills)


def _refused(given: str, remedy: str = "") -> InputError:
    return InputError("net", "operations that the page can compute", given, remedy)


def _plain(value: object) -> object:
    """Integers in lists of any depth, without types of NumPy or JAX."""
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else int(cast(int, value))


def _dot_general(equation: JaxprEqn) -> dict[str, object]:
    contracting, batch = equation.params["dimension_numbers"]
    return {"contracting": _plain(contracting), "batch": _plain(batch)}


def _convolution(equation: JaxprEqn) -> dict[str, object]:
    parameters = equation.params
    spec = parameters["dimension_numbers"]
    spatial = len(parameters["window_strides"])
    if parameters["batch_group_count"] != 1 or spatial > 2:
        raise _refused(f"convolutions of {spatial} axes, with {parameters['batch_group_count']} groups of the batch")
    orders = {"image": spec.lhs_spec, "kernel": spec.rhs_spec, "result": spec.out_spec}
    return {name: _plain(order) for name, order in orders.items()} | CONVOLUTION(equation)


def _slice(equation: JaxprEqn) -> dict[str, object]:
    start = equation.params["start_indices"]
    return {"start": _plain(start), "strides": _plain(equation.params["strides"] or [1] * len(start))}


def _nothing(equation: JaxprEqn) -> dict[str, object]:
    return {}


def _parameters(**names: str) -> Callable[[JaxprEqn], dict[str, object]]:
    """Takes parameters of an equation under other names."""

    return lambda equation: {ours: _plain(equation.params[name]) for ours, name in names.items()}


CONVOLUTION = _parameters(
    strides="window_strides",
    padding="padding",
    image_dilation="lhs_dilation",
    kernel_dilation="rhs_dilation",
    groups="feature_group_count",
)


def _type(equation: JaxprEqn) -> dict[str, object]:
    return {"to": np.dtype(equation.params["new_dtype"]).name}


def _rounding(equation: JaxprEqn) -> dict[str, object]:
    """The evaluator rounds halves to the even number."""
    if equation.params["rounding_method"] != RoundingMethod.TO_NEAREST_EVEN:
        raise _refused("round that rounds halves away from 0")
    return {}


def _bits_to_number(equation: JaxprEqn) -> dict[str, object]:
    if array_type(equation.invars[0]).dtype != np.int32 or equation.params["new_dtype"] != np.float32:
        raise _refused("bitcast_convert_type but from int32 to float32")
    return {}


def _no_integers(equation: JaxprEqn) -> dict[str, object]:
    """Integers are divided with truncation and combined bit by bit, which the evaluator does not do."""
    if any(array_type(variable).dtype == np.int32 for variable in equation.invars):
        raise _refused(f"{equation.primitive.name} of integers")
    return {}


def _two_cases(equation: JaxprEqn) -> dict[str, object]:
    """The evaluator chooses between two arrays."""
    which, *cases = equation.invars
    if array_type(which).dtype != np.bool_ or len(cases) != 2:
        raise _refused(f"{equation.primitive.name} with {len(cases)} cases, chosen by {array_type(which).dtype}")
    return {}


UNCHANGED = frozenset(("name", "stop_gradient", "copy", "copy_p", "optimization_barrier"))
"""Operations that return their operands."""

ELEMENTWISE = (
    *("abs", "ceil", "cos", "erf", "erfc", "exp", "exp2", "expm1", "floor", "is_finite", "log", "log1p", "logistic"),
    *("neg", "rsqrt", "sign", "sin", "sqrt", "square", "tan", "tanh"),
    *("add", "eq", "ge", "gt", "le", "lt", "max", "min", "mul", "ne", "pow", "shift_left", "sub", "clamp"),
)
REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin")

OPERATIONS: Mapping[str, Callable[[JaxprEqn], dict[str, object]]] = {
    **dict.fromkeys((*ELEMENTWISE, "reshape", "squeeze"), _nothing),
    **dict.fromkeys(("div", "not", "and", "or"), _no_integers),
    "select_n": _two_cases,
    "round": _rounding,
    "bitcast_convert_type": _bits_to_number,
    "reduce_precision": _parameters(bits="mantissa_bits"),
    "integer_pow": _parameters(exponent="y"),
    "convert_element_type": _type,
    "broadcast_in_dim": _parameters(axes="broadcast_dimensions"),
    "transpose": _parameters(axes="permutation"),
    "slice": _slice,
    "split": _parameters(axis="axis"),
    "pad": _parameters(config="padding_config"),
    "rev": _parameters(axes="dimensions"),
    "concatenate": _parameters(axis="dimension"),
    **dict.fromkeys(REDUCTIONS, _parameters(axes="axes")),
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
}
"""The operations of portable programs besides ``scan``: for each, a function that reads the parameters it needs.

Sizes are not among the parameters where the shapes of the places tell them.
"""
