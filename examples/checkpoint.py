"""Loads a published HiFi-GAN checkpoint into the MLX generator.

Answers: do the authors' weights fit this model, and which tensor does not? Finds the
generator in the file, folds weight normalisation (Salimans and Kingma 2016,
arXiv:1602.07868), and moves each weight from PyTorch's layout to MLX's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from hifigan import Generator
from mlx.utils import tree_flatten
from torch_file import load_torch_file

# torch.nn.utils.weight_norm, then torch.nn.utils.parametrizations.weight_norm: (g, v).
_WEIGHT_NORM_SUFFIXES = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)

Arrays = dict[str, np.ndarray]


def load_checkpoint(generator: Generator, path: Path) -> None:
    """Fill a generator with the weights of a checkpoint, in place.

    Args:
        generator: model of the variant that the file was trained as.
        path: ``.safetensors``, or a PyTorch file with any other suffix or none.

    Raises:
        ValueError: if the file cannot be read safely, or a tensor is missing, unexpected,
            not finite in float32 or of the wrong shape; the sentence names the file and the key.
        OSError: if the file cannot be opened.
    """
    raw = _read_safetensors(path) if path.suffix == ".safetensors" else load_torch_file(path)
    try:
        tensors = fold_weight_norm(_find_generator(raw))
        generator.load_weights(_to_mlx(generator, tensors))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def fold_weight_norm(tensors: Arrays) -> Arrays:
    """Replace every pair (g, v) by the weight ``g * v / ||v||``.

    Args:
        tensors: state_dict; the norm of ``v`` runs over all axes but the first, which is
            PyTorch's ``dim=0`` for convolutions and transposed convolutions alike.

    Returns:
        State_dict with plain ``weight`` keys.

    Raises:
        ValueError: if one half of a pair is missing, or the shapes of a pair do not match.
    """
    folded = dict(tensors)
    for g_suffix, v_suffix in _WEIGHT_NORM_SUFFIXES:
        for key in [key for key in tensors if key.endswith((f".{g_suffix}", f".{v_suffix}"))]:
            layer = key.removesuffix(g_suffix).removesuffix(v_suffix)
            g_key, v_key = layer + g_suffix, layer + v_suffix
            for needed in (g_key, v_key):
                if needed not in tensors:
                    raise ValueError(f"{key} is there, but {needed} is missing")
            if key == v_key:
                folded[f"{layer}weight"] = _normalised(folded.pop(g_key), folded.pop(v_key), g_key)
    return folded


def _normalised(g: np.ndarray, v: np.ndarray, g_key: str) -> np.ndarray:
    per_row = (v.shape[0],) + (1,) * (v.ndim - 1) if v.ndim else ()
    if g.shape != per_row:
        raise ValueError(f"{g_key} has shape {g.shape} where {per_row} was expected")
    rest = tuple(range(1, v.ndim))
    with np.errstate(over="ignore"):
        norm = np.sqrt(np.sum(np.square(v, dtype=np.float64), axis=rest, keepdims=True))
    if not norm.all():
        raise ValueError(f"{g_key} scales a direction of length zero")
    if np.isinf(norm).any():
        raise ValueError(f"{g_key} scales a direction of a length that is not finite")
    return _as_float32(f"{g_key} times its direction", g * (v / norm))


def _as_float32(name: str, tensor: np.ndarray) -> np.ndarray:
    """What is loaded must be finite, and a float64 may be so and too large for a float32."""
    with np.errstate(over="ignore"):
        cast: np.ndarray = tensor.astype(np.float32)
    if not np.isfinite(cast).all():
        raise ValueError(f"{name} holds values that are not finite in float32")
    return cast


def _read_safetensors(path: Path) -> Any:
    # mx.load reports a missing file as it does a damaged one; opening it tells them apart.
    path.open("rb").close()
    try:
        # NumPy has no bfloat16, and every tensor of a generator is a float anyway.
        arrays: Any = mx.load(str(path), format="safetensors")
        for key, value in arrays.items():
            if value.dtype == mx.complex64:
                raise ValueError(f"{key} is complex")
        return {key: np.array(value.astype(mx.float32)) for key, value in arrays.items()}
    except (RuntimeError, ValueError) as error:  # MLX's, or that of a name that is no text
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: damaged or not a safetensors file ({reason})") from error


def _find_generator(raw: Any) -> Arrays:
    """The state_dict itself, or the one under 'generator' as train.py of jik876/hifi-gan saves."""
    if isinstance(raw, dict):
        raw = next((raw[key] for key in ("generator", "state_dict") if key in raw), raw)
    if not isinstance(raw, dict) or not raw:
        raise ValueError("holds no state_dict")
    for key, value in raw.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray):
            raise ValueError(f"holds no generator: {key!r} is not a tensor")
    return {key.removeprefix("module."): value for key, value in raw.items()}


def _to_mlx(generator: Generator, tensors: Arrays) -> list[tuple[str, mx.array]]:
    flat: Any = tree_flatten(generator.parameters())
    expected = {name: value.shape for name, value in flat}
    for name, shape in expected.items():
        if name not in tensors:
            raise ValueError(f"{name} of shape {_torch_shape(name, shape)} is missing")
    for name, tensor in tensors.items():
        if name not in expected:
            raise ValueError(f"{' '.join(name.split())[:80]} of shape {tensor.shape} is unexpected")
        wanted = _torch_shape(name, expected[name])
        if tensor.shape != wanted:
            raise ValueError(f"{name} has shape {tensor.shape} where {wanted} was expected")
    cast = {name: _as_float32(name, tensor) for name, tensor in tensors.items()}
    return [(name, mx.array(_to_mlx_layout(name, tensor))) for name, tensor in cast.items()]


def _torch_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) != 3:
        return tuple(shape)
    out, taps, into = shape
    return (into, out, taps) if name.startswith("ups.") else (out, into, taps)


def _to_mlx_layout(name: str, tensor: np.ndarray) -> np.ndarray:
    """Conv1d (O, C, K) to (O, K, C); ConvTranspose1d (C, O, K) to (O, K, C)."""
    if tensor.ndim != 3:
        return tensor
    axes = (1, 2, 0) if name.startswith("ups.") else (0, 2, 1)
    return np.ascontiguousarray(tensor.transpose(axes))
