"""How is a weight cut into the taps of the subconvs of a plan?

Letters in shape comments: O and C output and input channels, G groups, R phases of a block, T taps.
"""

from __future__ import annotations

import mlx.core as mx

from polyconv.execution.arrays import contiguous, cut, pad, pad_all, summed_in
from polyconv.execution.identity import handle_of, is_traced
from polyconv.planning.axis_plan import Block
from polyconv.planning.plan import ConvPlan, SubConv


class PackedWeight:
    """A weight that is cut into taps once, for functions that are called with it again and again.

    Made by :func:`polyconv.pack`. What is kept belongs to this object and to its `array`, which
    cannot be exchanged, so it cannot grow stale. It is evaluated when it is made, so that any
    thread may use it. Made from an array under a gradient of it, it has that gradient.
    """

    def __init__(self, w: mx.array) -> None:
        self._w = handle_of(w)
        self._taps: dict[object, list[mx.array]] = {}
        self._has_numbers = evaluate([self._w])
        self._is_constant = self._has_numbers and not is_traced([self._w])

    @property
    def array(self) -> mx.array:
        """The weight as it was given, in an array object for the caller, who may change it."""
        return mx.array(self._w)

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self._w.shape
        return shape

    @property
    def dtype(self) -> mx.Dtype:
        return self._w.dtype

    @property
    def has_numbers(self) -> bool:
        """Not if it was made where `mx.compile` or `mx.vmap` trace: then it is a weight as any."""
        return self._has_numbers

    @property
    def is_constant(self) -> bool:
        """Not if it was made where a gradient of it may be asked for."""
        return self._is_constant

    def taps_of(self, plan: ConvPlan) -> list[mx.array]:
        """`packed_for(plan, array)`, kept for all plans that cut alike, whatever their lengths.

        They have no gradient: who computes with them has a rule of its own for `array`.
        """
        if plan.is_zero:
            return []
        key = plan.packing_key
        found = self._taps.get(key)
        if found is None:  # by several threads at once, it may be: they find the same
            found = packed_for(plan, mx.stop_gradient(self._w))
            evaluate(found)
            self._taps[key] = found
        return found

    def __getstate__(self) -> dict[str, object]:
        """What is pickled and copied: the weight, to be cut up again."""
        return vars(self) | {"_taps": {}}

    def __repr__(self) -> str:
        return f"PackedWeight(shape={self.shape}, dtype={self.dtype})"


def evaluate(arrays: list[mx.array]) -> bool:
    """Evaluates them, unless MLX traces what they depend on, as for `mx.compile` or `mx.vmap`.

    From MLX 0.31.2 on only the thread that made an array can evaluate it. What is kept for all
    threads must so be evaluated before another sees it.
    """
    try:
        mx.eval(arrays)
    except ValueError:
        return False
    return True


def packed_for(plan: ConvPlan, w: mx.array, transposed: bool = False) -> list[mx.array]:
    """The weight as a plan's convolutions or products take it.

    For products halves are made float32, so that sums are rounded once. With `transposed`, where
    the output channels of `w` lie together in memory and not the input channels, the taps do too:
    products take either, and a copy that exchanges the two is many times slower than one that does
    not.
    """
    if plan.is_zero:
        return []
    dtype = getattr(mx, plan.problem.dtype)
    if plan.products:
        return pack_taps(plan, w.astype(summed_in(dtype)), transposed)
    return pack(plan, w.astype(dtype))


def pack(plan: ConvPlan, w: mx.array) -> list[mx.array]:
    """Cuts `(O, *K, C)` into the taps of each subconv: `(G * prod(R) * O / G, *T, C)`."""
    if plan.is_native:
        return [w]
    return [_pack(w, sub, plan.problem.groups, plan.problem.flip) for sub in plan.subconvs]


def pack_taps(plan: ConvPlan, w: mx.array, transposed: bool = False) -> list[mx.array]:
    """Cuts `(O, *K, C)` for products: per subconv `(prod(T), G, prod(R) * O / G, C)`."""
    groups, flip = plan.problem.groups, plan.problem.flip
    return [_pack_taps(w, sub, groups, flip, transposed) for sub in plan.subconvs]


def _pack(w: mx.array, sub: SubConv, groups: int, flip: bool) -> mx.array:
    if max(sub.n_phases) == 1:
        sizes = zip(sub.blocks, w.shape[1:])
        at = (slice(None), *[_slice_of(b.phases[0].taps, k, flip) for b, k in sizes])
        return contiguous(w[at])
    w = _cut_up(w, sub, groups, flip)
    ndim = len(sub.blocks)
    taps, channels = w.shape[2 : 2 + 2 * ndim : 2], w.shape[-1]
    # (G, O / G, T1, R1, T2, R2, ..., C) -> (G, R1, R2, ..., O / G, T1, T2, ..., C)
    order = [0, *range(3, 3 + 2 * ndim, 2), 1, *range(2, 2 + 2 * ndim, 2), 2 + 2 * ndim]
    packed = w.transpose(order).reshape(-1, *taps, channels)
    return contiguous(packed)  # with one output channel the reshape is a view


def _pack_taps(w: mx.array, sub: SubConv, groups: int, flip: bool, transposed: bool) -> mx.array:
    w = _cut_up(w, sub, groups, flip)
    ndim = len(sub.blocks)
    taps, phases = range(2, 2 + 2 * ndim, 2), range(3, 3 + 2 * ndim, 2)
    channels = 2 + 2 * ndim
    if not transposed:
        w = contiguous(w.transpose(*taps, 0, *phases, 1, channels).flatten(0, ndim - 1))
        return w.flatten(2, -2)
    w = contiguous(w.transpose(*taps, 0, channels, *phases, 1).flatten(0, ndim - 1))
    return w.flatten(3, -1).swapaxes(-1, -2)


def _cut_up(w: mx.array, sub: SubConv, groups: int, flip: bool) -> mx.array:
    """`(G, O / G, T1, R1, T2, R2, ..., C)`."""
    w = pad_all(w, [(0, 0), *[_fold_pads(block, flip) for block in sub.blocks], (0, 0)])
    for i, block in enumerate(sub.blocks):
        w = _taps(w, 1 + 2 * i, block, flip)
    return w.reshape(groups, w.shape[0] // groups, *w.shape[1:])


def _fold_pads(block: Block, flip: bool) -> tuple[int, int]:
    if block.fold is None:
        return 0, 0
    pad_lo, pad_hi, _ = block.fold
    return (pad_hi, pad_lo) if flip else (pad_lo, pad_hi)


def _taps(w: mx.array, axis: int, block: Block, flip: bool) -> mx.array:
    """Replaces the kernel axis K of `w` by the two axes (T, R) of a block."""
    if block.fold is not None:
        return _fold_taps(w, axis, block.fold.step, len(block.phases), flip)
    kernel_size = w.shape[axis]
    rows = []
    for phase, lead in zip(block.phases, block.leads, strict=True):
        taps = w[(slice(None),) * axis + (_slice_of(phase.taps, kernel_size, flip),)]
        tail = block.axis.kernel_size - lead - len(phase.taps)
        rows.append(pad(taps, axis, lead, tail))
    return mx.stack(rows, axis + 1) if len(rows) > 1 else mx.expand_dims(rows[0], axis + 1)


def _fold_taps(w: mx.array, axis: int, step: int, n: int, flip: bool) -> mx.array:
    """As `_taps`, for a padded fold of `n` phases. Flipped, the last tap comes first."""
    w = w.reshape(*w.shape[:axis], -1, step, *w.shape[axis + 1 :])
    if flip:
        w = cut(w, axis, None, None, -1)
        return cut(w, axis + 1, step - n, step, 1)
    return cut(w, axis + 1, n - 1, None, -1)


def _slice_of(taps: range, kernel_size: int, flip: bool) -> slice:
    """Taps of the kernel in correlation order, as a slice of the kernel as it is stored."""
    if not flip:
        return slice(taps.start, taps.stop, taps.step)
    first, last = kernel_size - 1 - taps[0], kernel_size - 1 - taps[-1]
    if first == last:  # MLX up to 0.32.3 cannot differentiate or map a reversed single item
        return slice(first, first + 1, 1)
    return slice(first, last - 1 if last else None, -taps.step)
