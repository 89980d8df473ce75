"""How many bytes does a plan allocate besides its input, its weight and its output, and for what?

The answer is an upper bound: what is freed on the way counts as if it were kept. Standard library
only.
"""

from __future__ import annotations

from collections import defaultdict
from math import prod

from polyconv.planning.plan import ConvPlan, SubConv
from polyconv.planning.weight_gradient import run_of
from polyconv.problem.phases import phase_stride
from polyconv.problem.spec import ITEMSIZE, ConvSpec

# Beyond this many, every subconv is counted as the largest one, which has a tap more than others.
MOST_SUBCONVS = 2048
# The same, for the bound of `temporaries`, which each call of a new shape asks for.
_MOST_BOUNDED = 64
# So many scaled copies MLX allocates ahead of time. It has up to `MAX_ACTIVE_TASKS` tasks of ten
# operations (`DISPATCHES_PER_TASK`), and each tap takes two operations.
_AHEAD = 55


def allocated(plan: ConvPlan, most: int = MOST_SUBCONVS) -> dict[str, int]:
    """Bytes by purpose.

    * `packed` are the weights, cut into taps, and `packing` what that takes on the way.
    * `padded` are copies of the input with aligned channels or explicit padding.
    * `convolved` are outputs of convolutions, before they are the plan's output.
    * `woven` are the copies that bring these into order.
    * `windows` are the samples that MLX's CPU convolution copies for each output.
    * All others are what MLX's kernels on Metal allocate, `unfold` first (`kernels.py`).
    """
    found: defaultdict[str, int] = defaultdict(int)
    spec = plan.problem
    if plan.is_zero:
        return {}
    if plan.products:
        return _by_products(plan, most)
    itemsize = ITEMSIZE[spec.dtype]
    for sub, n in _counted(plan, most):
        issued = sub.issued
        n_convs = n * issued.n_convs
        if not plan.is_native:
            packed = itemsize * issued.spec.n_weights * n_convs
            found["packed"] += packed
            found["packing"] += (_aligning_steps(sub) + _packing_steps(sub)) * packed
        outputs = ITEMSIZE[issued.spec.dtype] * issued.spec.n_outputs
        found["convolved"] += n * outputs * (2 * issued.n_convs - 1)
        if issued.form.extra_out or issued.spec.dtype != spec.dtype:
            found["woven"] += n * itemsize * sub.spec.n_outputs
        for purpose, size in _input_copies(sub).items():
            found[purpose] += n * size
        if issued.kernel:
            found["unfold"] += n_convs * issued.kernel.unfold_bytes
            for purpose, size in issued.kernel.temporaries:
                found[purpose] += n_convs * size
        elif plan.device.backend.copies_windows:
            found["windows"] += n_convs * _windows(issued.spec)
    found["padded"] += _padded(plan, most)
    computed = spec.batch * spec.out_channels * prod(axis.computed_size for axis in plan.axes)
    found["woven"] += itemsize * computed * plan.n_copies
    # The last of these is the output itself, or the buffer that it is a slice of.
    last = "woven" if found["woven"] else "convolved"
    found[last] -= min(found[last], itemsize * spec.n_outputs)
    return {purpose: size for purpose, size in found.items() if size}


def temporaries(plan: ConvPlan, result: str = "y") -> int:
    """Bytes allocated, besides arguments and result, until one of the three maps is computed.

    `result` is the kind of the map's result: `y` is the output, `x` and `w` are the gradients by
    `spread` and `correlate` of `plan_gradients.py`. This is an upper bound as well.
    """
    if plan.is_zero:
        return 0
    spec = plan.problem
    if result == "y":
        given = spec.n_inputs + spec.n_weights  # cast, or made contiguous
        return sum(allocated(plan, _MOST_BOUNDED).values()) + ITEMSIZE[spec.dtype] * given
    if result == "w" and plan.is_native:
        return _unfolded(plan)
    outputs = spec.batch * spec.out_channels * prod(axis.computed_size for axis in plan.axes)
    read, made, weights, taps = 0, 0, 0, 0
    for sub, n in _counted(plan, _MOST_BOUNDED):
        around = [axis.size + abs(axis.padding_lo) + abs(axis.padding_hi) for axis in sub.spec.axes]
        # A line, a picture or an item more than the padding asks for (`tap_products.py`).
        rows = (spec.batch + 1) * prod(size + 1 for size in around)
        read = max(read, rows * spec.in_channels)
        made += n * rows * sub.spec.out_channels
        weights += n * sub.spec.n_weights
        taps += n * prod(axis.kernel_size for axis in sub.spec.axes)
    size = max(ITEMSIZE[spec.dtype], 4)
    # By counting, and by tests/campaigns/peak.py, which finds no call above it.
    n_copies = 3 if result == "x" else 6
    found = n_copies * (read + made) + (3 + plan.n_copies) * outputs + 10 * weights
    if result == "w" and (spec.groups > 1 or any(phase_stride(a) > 1 for a in spec.axes)):
        found += 3 * taps * read  # what each tap reads, copied
        found += 2 * taps * outputs if spec.in_channels == spec.groups else 0
    return size * found


def _unfolded(plan: ConvPlan) -> int:
    """What `unfolded` of `polyconv/gradients` allocates: what each output reads, tap by tap."""
    spec = plan.problem
    axes = plan.first.spec.axes
    run = run_of(plan)
    fills = [min(axis.stride, axis.kernel_size) * (run.frames if run else 1) for axis in axes]
    around = [
        max(0, a.padding_lo) + max(0, a.padding_hi) + zeros
        for a, zeros in zip(axes, fills, strict=True)
    ]
    size = [axis.size + more for axis, more in zip(axes, around, strict=True)]
    found = 3 * spec.batch * prod(size) * spec.in_channels + 2 * spec.n_outputs
    weights = spec.n_weights
    if run:  # that of the longer kernel, with rows of zeros
        rows = run.frames * (run.taps + axes[0].stride)
        weights += spec.out_channels * spec.in_channels * rows
    taps = 1
    for i in reversed(range(spec.ndim)):  # the windows of the last axes, axis by axis
        taps *= axes[i].kernel_size
        size[i] = axes[i].output_size
        copies = 2 if spec.groups > 1 and i == 0 else 1
        found += copies * spec.batch * prod(size) * taps * spec.in_channels
    return max(ITEMSIZE[spec.dtype], 4) * (found + 3 * weights)


def _windows(spec: ConvSpec) -> int:
    """What MLX's CPU copies for one convolution (mlx/backend/cpu/conv.cpp, `explicit_gemm_conv`).

    It copies the padded input, and of that what each output reads, all in float32. Weights and
    outputs of another dtype are copied as well. Where it loops over single samples it copies
    nothing.
    """
    dilated = any(a.kernel_dilation > 1 or a.input_dilation > 1 for a in spec.axes)
    if dilated or (spec.groups > 1 and (spec.ndim > 1 or spec.flip)):
        return 0
    taps = prod(axis.kernel_size for axis in spec.axes)
    padded = prod(axis.size + axis.padding_lo + axis.padding_hi for axis in spec.axes)
    frames = prod(spec.output_sizes)
    found = spec.batch * (padded + frames * taps) * spec.in_channels
    # Turned where they are flipped or grouped.
    found += spec.n_weights * ((spec.dtype != "float32") + (spec.flip or spec.groups > 1))
    if spec.dtype != "float32":
        found += spec.n_outputs
    return 4 * found


def _counted(plan: ConvPlan, most: int) -> list[tuple[SubConv, int]]:
    """The subconvs and how often each counts: once, or the largest for all if there are more."""
    n_subconvs = prod(axis.n_blocks for axis in plan.axes)
    if n_subconvs > most:
        return [(plan.largest, n_subconvs)]
    return [(sub, 1) for sub in plan.subconvs]


def _by_products(plan: ConvPlan, most: int) -> dict[str, int]:
    """In float32: packed weights, the padded input, what is summed, and the copies of weaving."""
    spec, size = plan.problem, max(ITEMSIZE[plan.problem.dtype], 4)
    found: defaultdict[str, int] = defaultdict(int)
    counted = _counted(plan, most)
    paddings = [[(a.padding_lo, a.padding_hi) for a in sub.spec.axes] for sub, _ in counted]
    around = [
        axis.size + max(0, *[lo for lo, _ in each]) + max(0, *[hi for _, hi in each])
        for axis, each in zip(spec.axes, zip(*paddings))
    ]
    # A line, a picture or an item more than the padding asks for (`tap_products.py`).
    rows = (spec.batch + 1) * prod(n + 1 for n in around)
    for sub, n in counted:
        taps = prod(axis.kernel_size for axis in sub.spec.axes)
        packed = n * size * sub.spec.n_weights
        found["packed"] += packed
        found["packing"] += packed * _packing_steps(sub)
        found["padded"] += n * size * rows * spec.in_channels
        sums = 2 + min(taps, _AHEAD) if plan.products == "scaled" else 2
        found["convolved"] += sums * n * size * rows * sub.spec.out_channels
        if plan.products == "gathered":  # with groups MLX copies again for its batched product
            copies = 2 if spec.groups > 1 else 1
            found["cut"] += copies * n * taps * size * rows * spec.in_channels
    found["woven"] += size * spec.n_outputs * (plan.n_copies + (spec.dtype != "float32"))
    return dict(found)


def _packing_steps(sub: SubConv) -> int:
    """How many copies are made on the way to a packed weight. None is larger than that."""
    steps = 0
    for block in sub.blocks:
        if block.fold is not None:
            steps += any(block.fold[:2])
        elif max(sub.n_phases) > 1:
            steps += 2  # each phase padded to the window, then all stacked
    return steps


def _aligning_steps(sub: SubConv) -> int:
    """The same for channels of zeros, which only convolutions have."""
    form = sub.issued.form
    return (form.extra_in > 0) + (form.extra_out > 0)


def _padded(plan: ConvPlan, most: int) -> int:
    """Copies of the input to pad or crop it. Subconvs that are treated alike share one."""
    sizes: dict[object, int] = {}
    for sub, _ in _counted(plan, most):
        issued, depth = sub.issued, sub.spec.axes[0]
        by_frames = issued.form.lift == "frames"
        around = (depth.padding_lo, depth.padding_hi) if by_frames else (0, 0)
        pad_lo, pad_hi, extra = issued.form.pad_lo, issued.form.pad_hi, issued.form.extra_in
        crops = [(min(0, a.padding_lo), min(0, a.padding_hi)) for a in sub.spec.axes]
        crops = crops if issued.form.whole else []
        steps = (extra > 0, any(pad_lo + pad_hi), any(around), any(map(any, crops)))
        if not any(steps):
            continue
        shape = [axis.size for axis in sub.spec.axes]
        for more in (pad_lo, pad_hi):
            shape = [n + zeros for n, zeros in zip(shape, more or [0] * len(shape), strict=True)]
        if by_frames:
            shape[0] = depth.size + sum(around)
        channels = plan.problem.in_channels + plan.problem.groups * extra
        size = plan.problem.batch * prod(shape) * channels
        sizes[around, pad_lo, pad_hi, extra, tuple(crops)] = size * sum(steps)
    return ITEMSIZE[plan.problem.dtype] * sum(sizes.values())


def _input_copies(sub: SubConv) -> dict[str, int]:
    """What a 3D convolution by frames copies: frames per tap, and halves cast to float32."""
    issued, spec = sub.issued, sub.spec
    if issued.form.lift != "frames":
        return {}
    frame = prod(axis.size for axis in issued.spec.axes) * issued.spec.in_channels
    cut = 0 if spec.batch == 1 and spec.axes[0].stride == 1 else issued.n_convs
    widened = spec.dtype != issued.spec.dtype
    found = {"cut": ITEMSIZE[issued.spec.dtype] * cut * issued.spec.batch * frame}
    if widened:
        depth = spec.axes[0]
        frames = spec.batch * (depth.size + depth.padding_lo + depth.padding_hi)
        weights = issued.spec.out_channels * issued.spec.in_channels // spec.groups
        weights *= prod(axis.kernel_size for axis in spec.axes)
        found["widened"] = ITEMSIZE[issued.spec.dtype] * (frames * frame + weights)
    return found
