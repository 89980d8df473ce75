"""How do the layers of a model come to be computed by polyconv, with the arrays that they hold?

A layer is converted where it stands: it is given another class, made from its own
(`converted_classes.py`). All that hold the layer hold the converted one. Its parameters, names and
flags are not touched.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import mlx.core as mx
import mlx.nn as nn

from polyconv.execution.identity import Held
from polyconv.execution.locking import ALONE
from polyconv.execution.modules import modules
from polyconv.models.block_diagonal import blocks_of
from polyconv.models.converted_classes import (
    give_class,
    is_candidate,
    original_class,
    register,
    restore_class,
)
from polyconv.problem import arguments
from polyconv.problem.spec import INT32_MAX

Predicate: TypeAlias = "Callable[[str, nn.Module], bool]"


@dataclass(frozen=True)
class Converted:
    """A layer that was converted, or why it was not.

    `path` is where the model has it, or several paths if it is shared. `saving` is how many times
    fewer multiply-accumulates it needs than with zeros between its inputs, None if its stride is
    not known before it runs. `left_alone` says why it was not converted, and is empty if it was.
    `note` says what else a user should know.
    """

    path: str
    layer: str
    saving: float | None = None
    left_alone: str = ""
    note: str = ""

    def __str__(self) -> str:
        saving = f", {self.saving:.3g} times fewer multiply-accumulates" if self.saving else ""
        done = f"left alone: {self.left_alone}" if self.left_alone else f"converted{saving}"
        return f"{self.path}: {self.layer} {done}{f'; {self.note}' if self.note else ''}"


class Conversion(tuple[Converted, ...]):
    """What `convert` did: a `Converted` for each layer. It prints a line for each."""

    __slots__ = ()

    @property
    def converted(self) -> list[Converted]:
        return [each for each in self if not each.left_alone]

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "nothing converted"


def convert(
    model: nn.Module, predicate: Predicate | None = None, *, exploit_sparsity: bool = False
) -> Conversion:
    """Has polyconv compute the transposed convolutions of a model, in place.

    It converts `mlx.nn.ConvTranspose1d/2d/3d` and their subclasses. It also converts every other
    module whose own methods call ``mx.conv_transpose1d/2d/3d``, or ``mx.conv_general`` with
    ``input_dilation`` passed by name, such as the layers with weight norm of many audio models.
    Layers may be in lists and dicts, be shared, or have children. Layers that are polyconv's
    already are not mentioned.

    Args:
        model (nn.Module): The model, or a single layer.
        predicate (callable, optional): Given path and layer, whether to convert it. Default: all.
        exploit_sparsity (bool, optional): Compute a dense weight by groups if it has only zeros
            outside of blocks on its diagonal. Such weights are reported in any case. A weight that
            was replaced or changed later is computed densely, with a warning. Default: ``False``.

    Returns:
        Conversion: What was done, by layer.

    Raises:
        ValueError: If `model` is no `nn.Module`.
    """
    _check(model, predicate, exploit_sparsity)
    found = _with_paths(model)
    with ALONE:
        told = [_converted(*each, predicate, exploit_sparsity) for each in found]
    layers = [each for each in told if each is not None]
    if not any(original_class(module) for module, _ in found):  # neither now nor before
        _warn_of_nothing(model, layers, [module for module, _ in found])
    return Conversion(layers)


def _check(model: object, predicate: object, exploit_sparsity: bool) -> None:
    if not isinstance(model, nn.Module):
        arguments.refuse("convert", "model must be an mlx.nn.Module", arguments.shown(model))
    if predicate is not None and not callable(predicate):
        must = "predicate must be callable, given path and layer"
        arguments.refuse("convert", must, arguments.shown(predicate))
    arguments.switch("convert", "exploit_sparsity", exploit_sparsity)


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
    """
    if not isinstance(model, nn.Module):
        arguments.refuse("revert", "model must be an mlx.nn.Module", arguments.shown(model))
    with ALONE:
        converted = [(path, module) for path, module in modules(model) if original_class(module)]
        for _, module in converted:
            restore_class(module)  # a shared layer is met again, reverted already
    return [path or "(model)" for path, _ in converted]


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


def _converted(
    module: nn.Module, paths: list[str], predicate: Predicate | None, exploit_sparsity: bool
) -> Converted | None:
    """Converts a layer and tells of it; None if there is nothing to convert."""
    if original_class(module) and exploit_sparsity:
        restore_class(module)  # to be converted again, for the weights of now
    if original_class(module) or not is_candidate(type(module)):
        return None
    path, name = ", ".join(paths), type(module).__name__
    if predicate is not None and not any(predicate(each, module) for each in paths):
        return Converted(path, name, None, "the predicate says so")
    blocks = [(Held(w), n) for w, n in _weights(module) if n > 1]
    note = _note_of(blocks[0][1], exploit_sparsity) if blocks else ""
    exploited = blocks if exploit_sparsity else []
    try:
        give_class(module, exploited)
    except TypeError as error:  # another layout in memory, of a class from C++ for example
        return Converted(path, name, None, f"its class cannot be exchanged: {error}", note)
    saving = _saving(module)
    if saving and exploited:
        saving *= blocks[0][1]
    return Converted(path, name, saving, "", note)


def _note_of(n_blocks: int, exploit_sparsity: bool) -> str:
    how = "computed so" if exploit_sparsity else "exploit_sparsity=True would compute it so"
    return f"its dense weight is block-diagonal, as of {n_blocks} groups; {how}"


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


def _weights(module: nn.Module) -> Iterator[tuple[mx.array, int]]:
    """The arrays of a module that may be weights, and how many blocks each has."""
    for value in module.values():
        if (
            isinstance(value, mx.array)
            and value.ndim > 2
            and min(value.shape[0], value.shape[-1]) > 1
        ):
            yield value, blocks_of(value)


def _warn_of_nothing(model: nn.Module, left: list[Converted], modules: Iterable[nn.Module]) -> None:
    kinds = Counter(type(module).__name__ for module in modules)
    most = ", ".join(f"{n} {name}" for name, n in kinds.most_common(5))
    why = "; ".join(f"{each.path}: {each.left_alone}" for each in left)
    if not why:
        why = (
            f"none of its {sum(kinds.values())} modules ({most}) is a transposed convolution that "
            "is not polyconv's already, or calls one itself; `patched()` reaches calls by functions"
        )
    warnings.warn(f"[convert] nothing of {type(model).__name__} converted: {why}", stacklevel=3)
