"""Do the shapes of input and weight suit each other? Standard library only."""

from __future__ import annotations

from polyconv.problem.arguments import positive, refuse

_LAYOUTS = {1: "(N, L, C)", 2: "(N, H, W, C)", 3: "(N, D, H, W, C)"}
_WEIGHT_LAYOUTS = {
    1: "(O, K, C / groups)",
    2: "(O, KH, KW, C / groups)",
    3: "(O, KD, KH, KW, C / groups)",
}


def spatial_ndim(op: str, x_shape: tuple[int, ...]) -> int:
    """The number of spatial axes of `x`, for the op of any rank."""
    if len(x_shape) not in (3, 4, 5):
        refuse(op, "x must have 3, 4 or 5 dimensions, (N, *S, C)", f"shape {x_shape}")
    return len(x_shape) - 2


def check_shapes(
    op: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], ndim: int, groups: int
) -> None:
    """Refuses an input or a weight that has not the axes, channels or taps that it must have."""
    if len(x_shape) != ndim + 2:
        refuse(op, f"x must have {ndim + 2} dimensions, {_LAYOUTS[ndim]}", f"shape {x_shape}")
    if len(w_shape) != ndim + 2:
        layout = _WEIGHT_LAYOUTS[ndim]
        refuse(op, f"weight must have {ndim + 2} dimensions, {layout}", f"shape {w_shape}")
    channels = x_shape[-1]
    check_groups(op, channels, w_shape[0], groups)
    if w_shape[-1] != channels // groups:
        must = f"weight's last axis must be {channels} input channels / {groups} groups"
        must = f"{must} = {channels // groups}, channels last, {_WEIGHT_LAYOUTS[ndim]}"
        refuse(op, must, f"shape {w_shape} with x of shape {x_shape}")
    if 0 in w_shape[1:-1]:
        refuse(op, "weight must have at least one tap on every axis", f"shape {w_shape}")


def check_groups(
    op: str,
    in_channels: int,
    out_channels: int,
    groups: int,
    names: tuple[str, str] = ("channels of x", "output channels of weight"),
) -> None:
    """Refuses groups that do not divide the channels, under the names that the caller knows."""
    for name, channels in zip(names, (in_channels, out_channels)):
        if channels % groups:
            refuse(op, f"{name} must be divisible by groups={groups}", str(channels))


def check_positive(op: str, **options: tuple[int, ...]) -> None:
    """Refuses steps below 1, each option with one per axis."""
    for name, values in options.items():
        positive(op, name, min(values))
