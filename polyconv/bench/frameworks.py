"""How do other libraries compute a transposed convolution? For `polyconv bench` alone.

Each takes the same channels-last NumPy arrays and gives functions to time, whose results are
channels last. A framework that is not installed raises `ImportError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import mlx.core as mx
import numpy as np

from polyconv.problem.spec import ConvSpec

Array: TypeAlias = "np.ndarray[Any, Any]"
Run: TypeAlias = "Callable[[], Any]"


def torch(problem: ConvSpec, x: Array, w: Array, options: tuple[Any, ...]) -> dict[str, Run]:
    """PyTorch, contiguous and channels last: on a Mac's GPU, else on the CPU with 2 threads."""
    import torch

    torch.set_num_threads(2)
    stride, padding, output_padding, dilation = options
    ndim, groups = problem.ndim, problem.groups
    convolve = getattr(torch.nn.functional, f"conv_transpose{ndim}d")
    first = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1))).to(_torch_device())
    weight = torch.from_numpy(inputs_first(w, groups)).to(_torch_device())

    def run(inputs: Any, kernel: Any) -> Any:
        with torch.no_grad():
            y = convolve(inputs, kernel, None, stride, padding, output_padding, groups, dilation)
        return y.movedim(1, -1)

    runs: dict[str, Run] = {"torch": lambda: run(first, weight)}
    layouts = {2: torch.channels_last, 3: torch.channels_last_3d}
    if ndim in layouts:
        last = [a.contiguous(memory_format=layouts[ndim]) for a in (first, weight)]
        runs["torch channels last"] = lambda: run(*last)
    return runs


def _torch_device() -> str:
    """A Mac's GPU, if MLX's default device is that too; the CPU elsewhere."""
    import torch

    on_gpu = mx.metal.is_available() and mx.default_device() == mx.gpu
    return "mps" if on_gpu and torch.backends.mps.is_available() else "cpu"


def torch_cuda(problem: ConvSpec, x: Array, w: Array, options: tuple[Any, ...]) -> dict[str, Run]:
    """PyTorch on an NVIDIA GPU, contiguous and channels last.

    It computes float32 by TF32, and by the fastest of cuDNN's algorithms, which `cudnn.benchmark`
    finds. In 1D channels last is a picture of one column.
    """
    import torch

    if not torch.cuda.is_available():
        return {}
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    stride, padding, output_padding, dilation = options
    ndim, groups = problem.ndim, problem.groups
    dtype = getattr(torch, problem.dtype)
    given = [np.ascontiguousarray(np.moveaxis(x, -1, 1)), inputs_first(w, groups)]
    inputs, kernel = [torch.from_numpy(a).to("cuda", dtype) for a in given]

    def call(inputs: Any, kernel: Any, fillers: tuple[int, ...]) -> Run:
        convolve = getattr(torch.nn.functional, f"conv_transpose{ndim + len(fillers)}d")
        unit = tuple([1 for _ in fillers])
        more = (stride + unit, padding + fillers, output_padding + fillers, groups, dilation + unit)

        def run() -> Any:
            with torch.no_grad():
                return convolve(inputs, kernel, None, *more)

        if fillers:
            return lambda: run().squeeze(-1).movedim(1, -1)
        return lambda: run().movedim(1, -1)

    if ndim > 1:
        layout = torch.channels_last_3d if ndim == 3 else torch.channels_last
        fillers: tuple[int, ...] = ()
        last = [a.contiguous(memory_format=layout) for a in (inputs, kernel)]
    else:
        fillers, layout = (0,), torch.channels_last
        last = [a[..., None].contiguous(memory_format=layout) for a in (inputs, kernel)]
    plain, channels_last = call(inputs, kernel, ()), call(last[0], last[1], fillers)
    return {"torch": plain, "torch channels last": channels_last}


def wait_for_gpu(y: Any) -> None:
    """Waits until PyTorch has computed `y`, if `y` is on a GPU."""
    if getattr(y, "is_cuda", False):
        import torch

        torch.cuda.synchronize()
    elif getattr(y, "is_mps", False):
        import torch

        torch.mps.synchronize()


def onnxruntime(problem: ConvSpec, x: Array, w: Array, options: tuple[Any, ...]) -> dict[str, Run]:
    """ONNX Runtime's CPU provider, one ConvTranspose node, 2 threads."""
    from onnx import TensorProto, helper, numpy_helper

    stride, padding, output_padding, dilation = options
    groups = problem.groups
    node = helper.make_node(
        "ConvTranspose",
        ["x", "w"],
        ["y"],
        strides=stride,
        pads=[*padding, *padding],
        output_padding=output_padding,
        dilations=dilation,
        group=groups,
    )
    first = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    float32 = TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", float32, first.shape)],
        [helper.make_tensor_value_info("y", float32, None)],
        [numpy_helper.from_array(inputs_first(w, groups), "w")],
    )
    session = onnx_session(graph)
    return {"onnxruntime": lambda: np.moveaxis(session.run(None, {"x": first})[0], 1, -1)}


def onnx_session(graph: Any, spins: bool = False) -> Any:
    """What runs a graph on 2 threads. They may spin between nodes, but not after the last one."""
    import onnxruntime as ort
    from onnx import helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 2
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(model.SerializeToString(), settings, ["CPUExecutionProvider"])


def jax(problem: ConvSpec, x: Array, w: Array, options: tuple[Any, ...]) -> dict[str, Run]:
    """JAX, compiled, channels last, by `lhs_dilation`."""
    import jax

    convolve, arguments = _jax_call(problem, x, w)
    compiled = jax.jit(convolve)
    return {"jax": lambda: compiled(*arguments).block_until_ready()}


def _jax_call(problem: ConvSpec, x: Array, w: Array) -> tuple[Callable[..., Any], tuple[Any, Any]]:
    import jax
    import jax.numpy as jnp

    space = "DHW"[-problem.ndim :]
    layouts = (f"N{space}C", f"O{space}I", f"N{space}C")
    flipped = np.flip(w, tuple(range(1, w.ndim - 1))) if problem.flip else w
    axes = problem.axes

    def convolve(inputs: Any, kernel: Any) -> Any:
        return jax.lax.conv_general_dilated(
            inputs,
            kernel,
            [axis.stride for axis in axes],
            [(axis.padding_lo, axis.padding_hi) for axis in axes],
            [axis.input_dilation for axis in axes],
            [axis.kernel_dilation for axis in axes],
            layouts,
            problem.groups,
        )

    return convolve, (jnp.asarray(x), jnp.asarray(np.ascontiguousarray(flipped)))


def upfirdn(problem: ConvSpec, x: Array, w: Array, options: tuple[Any, ...]) -> dict[str, Run]:
    """scipy.signal.upfirdn, which has one filter: for C = O = 1 in 1D without kernel dilation."""
    from scipy.signal import upfirdn

    (axis,) = problem.axes if problem.ndim == 1 else (None,)
    if axis is None or w.shape[0] != 1 or w.shape[-1] != 1 or axis.kernel_dilation > 1:
        return {}
    first = axis.kernel_size - 1 - axis.padding_lo  # which output of upfirdn is the call's first
    if first < 0:
        return {}
    up, down = axis.input_dilation, axis.stride
    taps = np.pad(w[0, :, 0] if problem.flip else w[0, ::-1, 0], (-first % down, 0))
    lines = np.ascontiguousarray(x[..., 0])
    start = -(-first // down)

    def run() -> Array:
        y = upfirdn(taps, lines, up, down, axis=-1)[:, start : start + axis.output_size]
        return np.pad(y, [(0, 0), (0, axis.output_size - y.shape[1])])[..., None]

    return {"upfirdn": run}


def torch_training(
    problem: ConvSpec, x: Array, w: Array, options: tuple[Any, ...]
) -> dict[str, Run]:
    """PyTorch's output and both gradients, on the devices and in the layouts of `torch`."""
    import torch

    torch.set_num_threads(2)
    stride, padding, output_padding, dilation = options
    ndim, groups = problem.ndim, problem.groups
    convolve = getattr(torch.nn.functional, f"conv_transpose{ndim}d")
    layouts = {"torch": torch.contiguous_format}
    if ndim > 1:
        last = torch.channels_last if ndim == 2 else torch.channels_last_3d
        layouts["torch channels last"] = last

    def step(layout: Any) -> Run:
        first = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))
        inputs, kernel = (
            a.to(_torch_device()).contiguous(memory_format=layout).requires_grad_()
            for a in (first, torch.from_numpy(inputs_first(w, groups)))
        )
        ones: list[Any] = []

        def run() -> Any:
            y = convolve(inputs, kernel, None, stride, padding, output_padding, groups, dilation)
            if not ones:
                ones.append(torch.ones_like(y))
            _, dw = torch.autograd.grad(y, (inputs, kernel), ones[0])
            return dw

        return run

    return {name: step(layout) for name, layout in layouts.items()}


def jax_training(problem: ConvSpec, x: Array, w: Array, options: tuple[Any, ...]) -> dict[str, Run]:
    """JAX's output and both gradients, compiled."""
    import jax

    convolve, arguments = _jax_call(problem, x, w)

    @jax.jit
    def step(inputs: Any, kernel: Any) -> Any:
        y, pull_back = jax.vjp(convolve, inputs, kernel)
        return y, pull_back(jax.numpy.ones_like(y))

    return {"jax": lambda: jax.block_until_ready(step(*arguments))[1][1]}


def inputs_first(w: Array, groups: int) -> Array:
    """`(O, *K, C / groups)` as `(C, O / groups, *K)`, the layout of PyTorch and ONNX."""
    outputs, *kernel, channels = w.shape
    grouped = np.moveaxis(w.reshape(groups, outputs // groups, *kernel, channels), -1, 1)
    return np.ascontiguousarray(grouped.reshape(groups * channels, outputs // groups, *kernel))


PEERS = {
    "torch": torch,
    "torch_cuda": torch_cuda,
    "onnxruntime": onnxruntime,
    "jax": jax,
    "upfirdn": upfirdn,
}
TRAINING = {"torch_training": torch_training, "jax_training": jax_training}
