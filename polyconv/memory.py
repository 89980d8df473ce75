"""How many bytes does a plan allocate besides its input, its weight and its output, and for what?

An upper bound: what is freed on the way is counted as if it were kept. Standard library only.
"""

from __future__ import annotations

from collections import Counter
from math import prod

from polyconv.plan import ConvPlan, SubConv
from polyconv.spec import ITEMSIZE


def allocated(plan: ConvPlan) -> dict[str, int]:
    """Bytes by purpose.

    `packed` are the weights, cut into taps; `padded` copies of the input with aligned channels or
    explicit padding; `convolved` the outputs of convolutions that are not yet the plan's; `woven`
    the copies that bring them into order; the others are MLX's own, `unfold` first (`kernels.py`).
    """
    found: Counter[str] = Counter()
    spec = plan.problem
    if plan.is_zero:
        return {}
    itemsize = ITEMSIZE[spec.dtype]
    for sub in plan.subconvs:
        issued = sub.issued
        if not plan.is_native:
            kernel = prod(axis.kernel_size for axis in issued.spec.axes) * issued.n_convs
            per_group = issued.spec.in_channels // spec.groups
            found["packed"] += itemsize * issued.spec.out_channels * per_group * kernel
        outputs = ITEMSIZE[issued.spec.dtype] * prod(issued.spec.output_shape)
        found["convolved"] += outputs * (2 * issued.n_convs - 1)
        if issued.form.extra_out:
            found["woven"] += itemsize * prod(sub.spec.output_shape)
        found.update(_input_copies(sub))
        if issued.kernel:
            found.update({"unfold": issued.n_convs * issued.kernel.unfold_bytes})
            found.update({k: issued.n_convs * n for k, n in issued.kernel.temporaries})
    found["padded"] += _padded(plan)
    computed = spec.batch * spec.out_channels * prod(axis.computed_size for axis in plan.axes)
    found["woven"] += itemsize * computed * plan.n_copies
    # The last of these is the output itself, or the buffer that it is a slice of.
    last = "woven" if found["woven"] else "convolved"
    found[last] -= min(found[last], itemsize * prod(spec.output_shape))
    return {purpose: size for purpose, size in found.items() if size}


def _padded(plan: ConvPlan) -> int:
    """Each way of padding the input is done once."""
    sizes: dict[object, int] = {}
    for sub in plan.subconvs:
        issued, depth = sub.issued, sub.spec.axes[0]
        by_frames = issued.form.lift == "frames"
        around = (depth.padding_lo, depth.padding_hi) if by_frames else (0, 0)
        pad_hi, extra = issued.form.pad_hi, issued.form.extra_in
        steps = (extra > 0, any(pad_hi), any(around))
        if not any(steps):
            continue
        shape = [axis.size for axis in sub.spec.axes]
        shape = [n + behind for n, behind in zip(shape, pad_hi or [0] * len(shape), strict=True)]
        if by_frames:
            shape[0] = depth.size + sum(around)
        channels = plan.problem.in_channels + plan.problem.groups * extra
        sizes[around, pad_hi, extra] = plan.problem.batch * prod(shape) * channels * sum(steps)
    return ITEMSIZE[plan.problem.dtype] * sum(sizes.values())


def _input_copies(sub: SubConv) -> dict[str, int]:
    """What a 3D convolution by frames cuts out of its input, tap by tap, and makes float32."""
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
