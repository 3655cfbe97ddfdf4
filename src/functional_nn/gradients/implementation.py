"""Checks of a backward pass in any language, such as NumPy, PyTorch or C: both passes are called, not traced."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import compress
from typing import TypeAlias

import numpy as np
from jax.typing import ArrayLike

from functional_nn.core.errors import InputError, imported
from functional_nn.core.functions import argument_names
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import as_host_array, check_flag, check_function
from functional_nn.gradients.compare import passes
from functional_nn.gradients.compare.passes import Arrays, Implementation, Pass
from functional_nn.gradients.compare.report import Report, Verdict, has_failed
from functional_nn.gradients.mutation.planting import plant

Way: TypeAlias = tuple[str, dict[int, np.ndarray], Callable[[], dict[int, np.ndarray]]]
"""A way to ask for a gradient: in words, the right gradient by some arguments, and what gives that of this way."""

IN_PLACE = "if {} is changed in place before the backward pass. PyTorch sees this with ctx.save_for_backward"
CHANGED_GRAD = "The backward pass changes .grad of this tensor. Let it only return the gradient."


def check_implementation(
    forward: Pass,
    backward: Pass,
    *arrays: ArrayLike,
    reference: Pass | None = None,
    other_points: bool = True,
    mutants: bool = True,
    subject: str = "",
    seed: int = 0,
) -> Report:
    """Compares a backward pass in any language with differences of its forward pass, element by element.

    Both passes are only called, with NumPy arrays. So they may be written in NumPy, in PyTorch, or in C and CUDA behind
    ``ctypes``. The derivatives are extrapolated differences of ``forward``, with an estimate of their own error: the
    report says to how many digits the backward pass is right. It is called with cotangents of both signs and of
    several sizes, at other points (zeros, equal elements, large and small numbers), with other batch sizes, twice with
    the same arrays, and with arrays that are not contiguous, if ``forward`` takes them. Both passes are called in
    float64 if ``forward`` takes it, and in the type of the arrays. A point where ``forward`` is not finite, or raises
    an error, does not count.

    Args:
        forward: ``forward(*arrays) -> y``, an array or a tuple of arrays. If it takes only float32, a few digits are
            compared.
        backward: ``backward(*arrays, y_bar) -> bars``, one cotangent for each array, of its shape; None for integers.
            For a single array it may return the cotangent itself instead of a tuple.
        arrays: the point: arrays of real numbers. Small ones are enough. If axes have different lengths, the comparison
            finds more errors.
        reference: the same function in a few lines of ``jax.numpy``. Then the values of ``forward`` are judged too, all
            derivatives are computed in 50 digits, and errors are planted in the derivative of the reference.
        other_points: whether both passes may be called with other numbers and other shapes than those given.
        mutants: whether errors are planted, if there is a reference.
        subject: the name in the report; by default the name of ``forward``.
        seed: for drawing cotangents and points.

    Raises:
        InputError: the cotangents from ``backward`` do not have the shapes of the arrays, or ``backward`` raises an
            error for arrays that ``forward`` takes; or ``forward`` computes in a narrower type than that of the arrays.

    >>> import functional_nn as fnn, numpy as np
    >>> def softmax(x):
    ...     exps = np.exp(x - x.max(-1, keepdims=True))
    ...     return exps / exps.sum(-1, keepdims=True)
    >>> def softmax_backward(x, y_bar):
    ...     y = softmax(x)
    ...     return y * y_bar  # - y * (y * y_bar).sum(-1, keepdims=True) is missing
    >>> report = fnn.gradients.check_implementation(softmax, softmax_backward, np.array([[0.5, -1.0, 2.0]]))
    >>> report.passed, report.failures[0].leaf, report.failures[0].index
    (False, 'x', (0, 2))
    """
    check_function("forward", forward, "a function of arrays")
    check_function("backward", backward, "a function of arrays and a cotangent")
    point = [as_host_array("arrays", array) for array in arrays]
    name = subject or getattr(forward, "__name__", "forward").strip("<>")
    implementation = Implementation(name, argument_names(forward, len(arrays)), (forward, backward), point, seed, "vjp")
    return _report(implementation, None, reference, other_points, mutants)


def check_torch(
    function: Callable[..., PyTree],
    *tensors: PyTree,
    reference: Pass | None = None,
    second_order: bool = True,
    other_points: bool = True,
    mutants: bool = True,
    subject: str = "",
    seed: int = 0,
) -> Report:
    """Compares the gradient of a function of PyTorch, and the gradient of this gradient, with differences.

    The comparison is that of ``check_implementation``. The backward pass is the one that ``torch.autograd.grad`` runs.

    Args:
        function: ``MyFunction.apply``, or any function of tensors.
        tensors: the point. Derivatives are by the tensors that require a gradient; if none does, by all floating-point
            tensors. Other floating-point tensors are constants. Whole numbers, such as labels, change with the shapes.
        reference: the same function in ``jax.numpy``, of the tensors with a derivative and those of whole numbers;
            see ``check_implementation``.
        second_order: whether the second derivatives are compared, too: at the given point, at two others, and with
            287 in place of an axis's length.
        other_points, mutants, subject, seed: see ``check_implementation``.

    Raises:
        InputError: PyTorch is not installed, no result of the function depends on the tensors, or it computes in a
            narrower type than theirs.
    """
    torch = imported("torch", "check_torch")
    check_function("function", function, "a function of tensors")
    check_flag("second_order", second_order)
    places = [number for number, tensor in enumerate(tensors) if tensor.requires_grad]
    places = places or [number for number, tensor in enumerate(tensors) if tensor.is_floating_point()]
    # The passes take whole numbers, such as labels, too. Then these change their lengths together with the others.
    given = [n for n, t in enumerate(tensors) if n in places or not (t.is_floating_point() or t.is_complex())]
    # The signature of ``apply`` says nothing; that of ``forward`` does. Its first argument may be the context.
    source = getattr(getattr(function, "__self__", None), "forward", function)
    known = argument_names(source, len(tensors) + 1)
    names = known[1:] if known[0] == "ctx" else argument_names(source, len(tensors))
    qualified = getattr(source, "__qualname__", type(function).__name__)
    name = subject or qualified.removesuffix(".forward").split(".")[-1].strip("<>")

    def differentiable(variables: Sequence[PyTree]) -> list[PyTree]:
        return [variable for variable in variables if variable.requires_grad]

    def completed(*variables: PyTree) -> list[PyTree]:
        """All arguments of the function. Tensors that are no variables are constants."""
        dtype = differentiable(variables)[0].dtype
        arguments = [tensor.detach().to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors]
        for place, variable in zip(given, variables, strict=True):
            arguments[place] = variable
        return arguments

    def results(*arguments: PyTree) -> list[PyTree]:
        y = function(*arguments)
        return list(y) if isinstance(y, list | tuple) else [y]

    def outputs(*variables: PyTree) -> list[PyTree]:
        """The results that depend on the variables."""
        return differentiable(results(*completed(*variables)))

    def gradient(*variables: PyTree) -> list[PyTree]:
        """The gradient as a function of the variables and the cotangents."""
        inputs, y_bars = variables[: len(given)], variables[len(given) :]
        by = differentiable(inputs)
        found = torch.autograd.grad(outputs(*inputs), by, y_bars, create_graph=True, allow_unused=True)
        return [bar for bar in found if bar is not None]

    def of_numpy(array: np.ndarray) -> PyTree:
        tensor = torch.from_numpy(array).to(tensors[0].device)
        return tensor.requires_grad_() if tensor.is_floating_point() else tensor

    def implementation(
        function: Callable[..., list[PyTree]], names: list[str], arrays: Arrays, kind: str
    ) -> Implementation:
        def forward(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
            return tuple(part.numpy(force=True) for part in function(*map(of_numpy, arrays)))

        def backward(*arrays_and_bars: PyTree) -> tuple[np.ndarray | None, ...]:
            *arrays, y_bars = arrays_and_bars
            variables, bars_of_y = list(map(of_numpy, arrays)), [of_numpy(bar).detach() for bar in y_bars]
            by = differentiable(variables)
            bars = torch.autograd.grad(function(*variables), by, bars_of_y, allow_unused=True)
            if kind != "vjp" and bars[-1] is None:  # a gradient depends on its cotangent
                raise NotImplementedError("PyTorch cannot differentiate the backward pass")
            remaining = iter(torch.zeros_like(x) if bar is None else bar for x, bar in zip(by, bars, strict=True))
            return tuple(next(remaining).numpy(force=True) if x.requires_grad else None for x in variables)

        # Other constants are of no other length than the given one.
        fixed = {length for number, tensor in enumerate(tensors) if number not in given for length in tensor.shape}
        return Implementation(name, names, (forward, backward), arrays, seed, kind, fixed)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the arrays are small, and threads would wait for each other
    try:
        arrays = [tensors[place].numpy(force=True) for place in given]
        first = implementation(outputs, [names[place] for place in given], arrays, "vjp")
        random, y = np.random.default_rng(seed), first.outputs(first.arrays).leaves
        y_bars = [random.normal(size=part.shape).astype(part.dtype) for part in y]

        def second() -> Implementation:
            return implementation(gradient, first.names + ["y_bar"] * len(y), [*first.arrays, *y_bars], "second order")

        arguments = completed(*map(of_numpy, first.arrays))
        graphs = partial(_about_graphs, first.subject, names, results, arguments, y_bars)
        return _report(first, second if second_order else None, reference, other_points, mutants, graphs)
    finally:
        torch.set_num_threads(threads)


def _about_graphs(
    subject: str,
    names: Sequence[str],
    results: Callable[..., list[PyTree]],
    variables: list[PyTree],
    y_bars: Arrays,
    *,
    twice: bool = False,
) -> list[Verdict]:
    """Judges whether PyTorch gets the same gradient in each way in which it may ask for it.

    Args:
        subject: the name in the verdicts.
        names: the names of the arguments.
        results: the function.
        variables: its arguments. Those that require a gradient have a cotangent.
        y_bars: a cotangent for each result that depends on them.
        twice: whether second derivatives are judged, which may use some results, or some gradients, only.
    """
    torch = imported("torch", "check_torch")
    y, by = results(*variables), {place: x for place, x in enumerate(variables) if x.requires_grad}
    places = [place for place, part in enumerate(y) if part.requires_grad]
    before = [part.detach().clone() for part in y]
    bars = dict(zip(places, (torch.from_numpy(bar).to(y[0].device) for bar in y_bars), strict=True))

    def gradient(
        y: list[PyTree] | dict[int, PyTree], by: dict[int, PyTree], bars: dict[int, PyTree] = bars
    ) -> dict[int, np.ndarray]:
        used = [place for place in bars if y[place].requires_grad]
        pairs = [y[place] for place in used], list(by.values()), [bars[place] for place in used]
        found = dict(zip(by, torch.autograd.grad(*pairs, retain_graph=True, allow_unused=True), strict=True))
        return {n: np.zeros(by[n].shape) if bar is None else bar.numpy(force=True) for n, bar in found.items()}

    def again(factors: dict[int, PyTree], bars: dict[int, PyTree]) -> dict[int, np.ndarray]:
        """The gradient of the sum of the gradients times these factors, for these cotangents."""
        new = results(*variables)
        pairs = [new[place] for place in bars], list(by.values()), list(bars.values())
        found = dict(zip(by, torch.autograd.grad(*pairs, create_graph=True, allow_unused=True), strict=True))
        used = {n: factor for n, factor in factors.items() if found[n] is not None and found[n].requires_grad}
        return gradient(found, by, used) if used else {n: np.zeros(x.shape) for n, x in by.items()}

    def after_another() -> dict[int, np.ndarray]:
        first = results(*variables)
        others = [(0.5 * x.detach()).requires_grad_() if x.requires_grad else x for x in variables]
        y_of_others = results(*others)
        found = gradient(first, by)
        gradient(y_of_others, {place: others[place] for place in by})
        return found

    def after_change(place: int) -> dict[int, np.ndarray]:
        changed = results(*variables)
        changed[place].mul_(2)
        return gradient(changed, by, {place: bars[place]})

    def after_change_of_input(place: int) -> dict[int, np.ndarray]:
        copies = [1 * x if x.requires_grad else x.clone() for x in variables]
        changed = results(*copies)
        copies[place].copy_(copies[place] * (2 if place in by else 0))  # a doubled index may be too large
        return gradient(changed, by)

    def of_parts() -> dict[int, np.ndarray]:
        longer = [torch.cat([x.detach().flatten()[:1], x.detach().flatten()]) for x in variables]
        parts = [
            part[1:].view(x.shape).requires_grad_(x.requires_grad) for part, x in zip(longer, variables, strict=True)
        ]
        return gradient(results(*parts), {place: parts[place] for place in by})

    def of_some(some: Sequence[int]) -> dict[int, np.ndarray]:
        given = [variable if number in some else variable.detach() for number, variable in enumerate(variables)]
        return gradient(results(*given), {place: given[place] for place in some})

    def of_results(found: Callable[..., dict[int, np.ndarray]]) -> Iterator[Way]:
        for some in _subsets(places):
            way = f"if only these results are used: {', '.join(f'y[{place}]' for place in some)}"
            right = found({place: bar * (place in some) for place, bar in bars.items()})
            yield way, right, partial(found, {place: bars[place] for place in some})

    def of_first_order() -> Iterator[Way]:
        whole = {place: bar.copy() for place, bar in gradient(y, by).items()}  # a later call may write to its memory
        yield "if the same graph is used a second time", whole, partial(gradient, y, by)
        yield "if both passes are called with other numbers in between", whole, after_another
        yield "if the tensors are parts of longer ones", whole, of_parts
        for number, name in enumerate(names):
            yield IN_PLACE.format(f"the argument {name}"), whole, partial(after_change_of_input, number)
        for some in _subsets(list(by)):
            named = ", ".join(names[place] for place in some)
            yield f"if only these require a gradient: {named}", whole, partial(of_some, some)
        yield from of_results(lambda bars: gradient(results(*variables), by, bars))
        for place in places:
            doubled = {number: 2 * bar * (number == place) for number, bar in bars.items()}
            right = gradient(results(*variables), by, doubled)
            yield IN_PLACE.format("its result"), right, partial(after_change, place)

    def of_second_order() -> Iterator[Way]:
        random = np.random.default_rng(0)
        factors = {place: torch.from_numpy(random.normal(size=x.shape)).to(x) for place, x in by.items()}
        for some in _subsets(list(by)):
            named = ", ".join(names[place] for place in some)
            right = again({place: factor * (place in some) for place, factor in factors.items()}, bars)
            of_these = partial(again, {place: factors[place] for place in some}, bars)
            yield f"if only the gradients by these are used: {named}", right, of_these
        yield from of_results(partial(again, factors))

    what, ways = ("second derivative", of_second_order) if twice else ("gradient", of_first_order)
    notes: list[tuple[str, str]] = []
    for way, right, of_way in ways():
        try:
            for place, bar in of_way().items():
                if not np.allclose(right[place], bar, 1e-4, 1e-4 * np.max(np.abs(right[place]), initial=0)):
                    notes.append((names[place], f"The {what} is different {way}."))
        except Exception as error:
            if "in place" not in way or not isinstance(error, RuntimeError):  # PyTorch refuses or notices most changes
                notes.append(("", f"The backward pass raises {type(error).__name__}: {error}, {way}."))
    notes += [(names[place], CHANGED_GRAD) for place, x in by.items() if x.grad is not None]
    if not all(map(torch.equal, before, y)):
        notes.append(("y", "The backward pass changes the result of the forward pass. Let it compute with a copy."))
    return [Verdict(subject, name, "fail", np.inf, 0.0, kind="call", note=note) for name, note in notes[:1]]


def _subsets(places: Sequence[int]) -> list[list[int]]:
    """All subsets of at most five places, other than the empty one and the whole; of more places, some of these."""
    count = len(places)
    if count <= 5:
        chosen = np.indices((2,) * count).reshape(count, -1).T == 1
    else:  # a layer's parameters usually stand behind its inputs, so the last ones are also chosen together
        drawn = np.random.default_rng(0).integers(2, size=(6, count))
        some = np.concatenate([np.eye(count), np.tri(count), drawn]) == 1
        chosen = np.concatenate([some, ~some])
    return [list(compress(places, flags)) for flags in chosen if 0 < flags.sum() < count]


def _report(
    first: Implementation,
    second: Callable[[], Implementation] | None,
    reference: Pass | None,
    other_points: bool,
    mutants: bool,
    graphs: Callable[..., list[Verdict]] | None = None,
) -> Report:
    """The report about a backward pass, about its calls by PyTorch, and about the backward pass of this one."""
    check_flag("other_points", other_points)
    check_flag("mutants", mutants)
    started = time.perf_counter()
    verdicts, planted, survivors = first.verdicts(other_points), 0, ()
    if reference is not None:
        check_function("reference", reference, "a function of the arrays in jax.numpy")
        comparison = passes.ReferenceComparison(first, reference, other_points)
        # What differences could not tell, the reference can.
        verdicts = [verdict for verdict in verdicts if verdict.outcome != "inconclusive"]
        answered = passes.TOGETHER, passes.WITHOUT_REFERENCE
        first.skipped = [entry for entry in first.skipped if entry[1] not in answered]
        verdicts += comparison.verdicts()
        if mutants and not has_failed(verdicts):
            planted, survivors = plant(comparison)
    if graphs and not has_failed(verdicts):
        verdicts += graphs()
    skipped = list(first.skipped)
    if second and not has_failed(verdicts):
        try:
            derivative = second()
            verdicts += derivative.verdicts(other_points)
            skipped += derivative.skipped
            if graphs and not has_failed(verdicts):
                verdicts += graphs(twice=True)
        except InputError as error:
            note = f"not compared, because of {error.given}. If it is not needed, give second_order=False."
            missing = Verdict(first.subject, "", "inconclusive", np.nan, 0.0, kind="second order", note=note)
            verdicts.append(missing)
    return Report(tuple(verdicts), planted, survivors, tuple(skipped), time.perf_counter() - started, first.subject)
