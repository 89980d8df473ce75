"""How do the layers of a model come to be computed by polyconv, with the arrays that they hold?

A layer is converted where it stands: it is given another class, made from its own
(`converted_classes.py`). All that hold the layer hold the converted one. Its parameters, names and
flags are not touched. All is decided before anything is done: an error leaves the model as it was.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple, TypeAlias

import mlx.core as mx
import mlx.nn as nn

from polyconv.execution.locking import ALONE
from polyconv.execution.modules import modules
from polyconv.models.block_diagonal import blocks_of
from polyconv.models.calls_in_code import kept_functions
from polyconv.models.conversion import Conversion, Converted
from polyconv.models.converted_classes import (
    give_class,
    is_candidate,
    is_converted,
    is_plain,
    original_class,
    register,
    restore_class,
    runs_methods,
)
from polyconv.models.known_weights import KnownWeight
from polyconv.problem import arguments
from polyconv.problem.spec import INT32_MAX

Predicate: TypeAlias = "Callable[[str, nn.Module], bool]"

_EXCLUDED = "the predicate says so"
_PACKED = (
    "a weight that it holds and calls with is packed for inference; under a gradient of the "
    "weight, or if it is exchanged, it is computed unpacked, with a warning"
)


class _Options(NamedTuple):
    sparse: bool
    packed: bool
    cpu_convs: bool


def convert(
    model: nn.Module,
    predicate: Predicate | None = None,
    *,
    exploit_sparsity: bool = False,
    packed: bool = False,
    cpu_convs: bool = False,
) -> Conversion:
    """Has polyconv compute the transposed convolutions of a model, in place.

    It converts `mlx.nn.ConvTranspose1d/2d/3d` and their subclasses. It also converts every other
    module whose own methods call ``mx.conv_transpose1d/2d/3d``, or ``mx.conv_general`` with
    ``input_dilation`` passed by name, such as the layers with weight norm of many audio models.
    While such a module runs, all that it calls in Python is reached. Its code is not touched.
    Layers may be in lists and dicts, be shared, or have children. Layers that are polyconv's
    already are not mentioned.

    Args:
        model (nn.Module): The model, or a single layer.
        predicate (callable, optional): Given path and layer, whether to convert it. Default: all.
        exploit_sparsity (bool, optional): Compute a dense weight by groups if it has only zeros
            outside of blocks on its diagonal. Such weights are reported in any case. A weight that
            was replaced or changed later is computed densely, with a warning. Default: ``False``.
        packed (bool, optional): Cut each weight that a layer holds into taps once, for inference.
            It takes memory beside the weight. A weight that was replaced or changed later, also by
            training, is computed unpacked, with a warning. Default: ``False``.
        cpu_convs (bool, optional): Convert `mlx.nn.Conv1d/2d/3d` too. On a CPU polyconv computes
            them from then on, as MLX is slow there where a kernel is dilated. On an NVIDIA GPU it
            does so in training mode, as the gradient of a weight is slow in MLX. All others are
            left to MLX. Default: ``False``.

    Returns:
        Conversion: What was done, by layer.

    Raises:
        ValueError: If `model` is no `nn.Module`.
    """
    options = _Options(exploit_sparsity, packed, cpu_convs)
    _check(model, predicate, options)
    with ALONE:
        found = _with_paths(model)
        decided = list(filter(None, (_decided(*each, predicate, options) for each in found)))
        layers = [_done(each) for each in decided]
        _shield(decided, [module for module, _ in found])
    if not any(is_converted(module) for module, _ in found):  # neither now nor before
        _warn_of_nothing(model, layers, [module for module, _ in found])
    return Conversion(layers)


def _check(model: object, predicate: object, options: _Options) -> None:
    if not isinstance(model, nn.Module):
        arguments.refuse("convert", "model must be an mlx.nn.Module", arguments.shown(model))
    if predicate is not None and not callable(predicate):
        must = "predicate must be callable, given path and layer"
        arguments.refuse("convert", must, arguments.shown(predicate))
    arguments.switch("convert", "exploit_sparsity", options.sparse)
    arguments.switch("convert", "packed", options.packed)
    arguments.switch("convert", "cpu_convs", options.cpu_convs)


def _with_paths(model: nn.Module) -> list[tuple[nn.Module, list[str]]]:
    """Each module of a model once, with all its paths."""
    found: dict[int, tuple[nn.Module, list[str]]] = {}
    for path, module in modules(model):
        found.setdefault(id(module), (module, []))[1].append(path or "(model)")
    return list(found.values())


def revert(model: nn.Module) -> list[str]:
    """Undoes `convert`.

    Args:
        model (nn.Module): A model, converted or not.

    Returns:
        list(str): The paths of the layers that were converted.

    Raises:
        ValueError: If `model` is no module.
    """
    if not isinstance(model, nn.Module):
        arguments.refuse("revert", "model must be an mlx.nn.Module", arguments.shown(model))
    with ALONE:
        exchanged = [(path, module) for path, module in modules(model) if original_class(module)]
        converted = [path or "(model)" for path, module in exchanged if is_converted(module)]
        for _, module in exchanged:
            restore_class(module)  # a shared layer is met again, reverted already
    return converted


def register_converter(layer_type: type, call: Callable[..., Any]) -> None:
    """Tells `convert` how layers of a type, or of subclasses of it, are to be called.

    Args:
        layer_type (type): A subclass of `mlx.nn.Module`.
        call (callable): What replaces their ``__call__``, given the layer and the arguments.

    Raises:
        ValueError: If `layer_type` is no such type, or `call` cannot be called.
    """
    if not (isinstance(layer_type, type) and issubclass(layer_type, nn.Module)):
        must = "layer_type must be a subclass of mlx.nn.Module"
        arguments.refuse("register_converter", must, arguments.shown(layer_type))
    if not callable(call):
        arguments.refuse("register_converter", "call must be callable", arguments.shown(call))
    register(layer_type, call)


class _Decision(NamedTuple):
    """What is to be done with a layer."""

    module: nn.Module
    told: Converted
    known: Sequence[KnownWeight] = ()


def _decided(
    module: nn.Module, paths: list[str], predicate: Predicate | None, options: _Options
) -> _Decision | None:
    """What to do with a layer, None if there is nothing to convert. Nothing is done yet."""
    if is_converted(module) and not any(options):  # else again, for the weights of now
        return None
    cls = original_class(module) or type(module)
    is_ours = is_candidate(cls) or (options.cpu_convs and is_plain(cls))
    kept = kept_functions(module, cls)
    if not (kept or is_ours):
        return None
    told = Converted(", ".join(paths), cls.__name__)
    where = f"MLX's own function is kept in {', '.join(f'`{name}`' for name in kept)}"
    if not is_ours:
        return _Decision(module, replace(told, left_alone=f"{where}, which is not reached"))
    if predicate is not None and not any(predicate(each, module) for each in paths):
        return _Decision(module, replace(told, left_alone=_EXCLUDED))
    known, notes = _known_weights(module, options)
    if kept:
        notes.append(f"{where}, and what is called by that stays MLX's")
    saving = None if is_plain(cls) else _saving(module)
    if saving and known:
        saving *= max(each.n_blocks for each in known)
    return _Decision(module, replace(told, saving=saving, note="; ".join(notes)), known)


def _done(decision: _Decision) -> Converted:
    """Converts a layer, if that is what was decided."""
    module, told, known = decision
    if original_class(module):
        restore_class(module)
    if told.left_alone:
        return told
    try:
        return replace(told, count=give_class(module, known))
    except TypeError as error:  # another layout in memory, of a class from C++ for example
        return replace(told, saving=None, left_alone=f"its class cannot be exchanged: {error}")


def _shield(decided: list[_Decision], found: list[nn.Module]) -> None:
    """Has MLX compute what the predicate excluded, also inside of converted modules."""
    if any(is_converted(each) and runs_methods(each) for each in found):
        for module, told, _ in decided:
            if told.left_alone == _EXCLUDED:
                with suppress(TypeError):
                    give_class(module, is_answered=False)


def _known_weights(module: nn.Module, options: _Options) -> tuple[list[KnownWeight], list[str]]:
    """The weights of a layer that are computed in another form, and what to tell of them."""
    known, notes = [], []
    try:
        weights = list(_weights(module))
        n_blocks = next((n for _, n in weights if n > 1), 1)
        if n_blocks > 1:
            how = "computed so" if options.sparse else "exploit_sparsity=True would compute it so"
            notes.append(f"its dense weight is block-diagonal, as of {n_blocks} groups; {how}")
        for weight, n in weights:
            if options.packed or (options.sparse and n > 1):
                known.append(KnownWeight(weight, n if options.sparse else 1, options.packed))
        if known and options.packed:
            notes.append(_PACKED)
    except (RuntimeError, ValueError):  # lazy, of another thread, or traced
        if any(options):
            notes.append("its weights cannot be looked at here; evaluate them with mx.eval before")
        return [], notes
    return known, notes


def _weights(module: nn.Module) -> Iterator[tuple[mx.array, int]]:
    """The arrays of a module that may be weights, and how many blocks each has."""
    for value in module.values():
        if isinstance(value, mx.array) and value.ndim > 2:
            yield value, blocks_of(value) if min(value.shape[0], value.shape[-1]) > 1 else 1


def _saving(module: nn.Module) -> float | None:
    """How many times fewer multiply-accumulates a layer needs: the product of its strides.

    It is None for a module without a weight, which may wrap a layer and repeat its stride.
    """
    if not any(isinstance(value, mx.array) and value.ndim > 2 for value in module.values()):
        return None
    try:
        stride = module.stride if hasattr(module, "stride") else getattr(module, "_stride", None)
    except Exception:  # a property or `__getattr__` of the module may raise anything
        return None
    strides = stride if isinstance(stride, (tuple, list)) else (stride,)
    if not all(type(step) is int and 0 < step <= INT32_MAX for step in strides):
        return None
    return float(prod(strides))


def _warn_of_nothing(model: nn.Module, left: list[Converted], modules: list[nn.Module]) -> None:
    kinds = Counter(type(module).__name__ for module in modules)
    most = ", ".join(f"{n} {name}" for name, n in kinds.most_common(5))
    why = "; ".join(f"{each.path}: {each.left_alone}" for each in left)
    if not why:
        why = (
            f"none of its {sum(kinds.values())} modules ({most}) is a transposed convolution that "
            "is not polyconv's already, or calls one itself; `patched()` reaches calls by functions"
        )
        if any(is_plain(type(module)) for module in modules):
            why += ", and `cpu_convs=True` converts ordinary convolutions too"
    warnings.warn(f"[convert] nothing of {type(model).__name__} converted: {why}", stacklevel=3)
