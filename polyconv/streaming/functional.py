"""Convolutions along time, chunk by chunk: pure functions of a small state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import mlx.core as mx

from polyconv.execution.arrays import pad, zeros_for
from polyconv.execution.device import check_float64
from polyconv.execution.memory import check_fits
from polyconv.execution.packing import PackedWeight, evaluate
from polyconv.ops import conv_transpose
from polyconv.ops.call import Weight, dtype_names
from polyconv.problem import arguments, shapes, spec
from polyconv.problem.signatures import SIGNATURES, Plain, Signature, Transposed
from polyconv.streaming.timeline import Piece, Timeline

_OPS = ("conv_transpose1d", "conv1d", "conv_general")


class StreamState(NamedTuple):
    """What a stream remembers: the last samples of its input, ``(N, history, C)``, and integers.

    :func:`stream_init` makes it. A state is a value. It can be copied, saved, and passed through
    `mx.compile`; of its fields `mx.vmap` takes `tail`.
    """

    tail: mx.array
    position: int
    timeline: Timeline
    groups: int
    flip: bool

    @property
    def latency(self) -> tuple[int, int]:
        """By how many samples of the output, and of the input, the output is behind at most."""
        return self.timeline.latency


def stream_init(
    op: str, weight: Weight, *, batch: int = 1, dtype: mx.Dtype | None = None, **options: Any
) -> StreamState:
    """Begins a stream.

    Args:
        op (str): ``"conv_transpose1d"``, ``"conv1d"`` or ``"conv_general"`` in 1D.
        weight (array or PackedWeight): ``(O, K, C / groups)``, for its shape and dtype alone.
        batch (int, optional): The number of streams side by side. Default: ``1``.
        dtype (Dtype, optional): The input's type. Default: the weight's.
        options: Options of the op, such as ``stride=8``.

    Returns:
        StreamState: For `stream_step` and `stream_flush`.

    Raises:
        ValueError: If the op is none of these, or would refuse the arguments.
    """
    arguments.choice("stream_init", "op", op, _OPS)
    _check_weight("stream_init", weight)
    if dtype is not None and not isinstance(dtype, mx.Dtype):
        arguments.refuse("stream_init", "dtype must be one of MLX's", arguments.shown(dtype))
    dtype = weight.dtype if dtype is None else dtype
    check_float64("stream_init", "weight", weight.dtype)
    check_float64("stream_init", "dtype", dtype)
    spec.promoted("stream_init", *dtype_names((dtype, weight.dtype)))
    batch = arguments.count("stream_init", "batch", batch)
    timeline, groups, flip = _read(op, weight.shape, options)
    channels = weight.shape[2] * groups
    shapes.check_groups("stream_init", channels, weight.shape[0], groups)
    size = batch * timeline.history * channels
    spec.check_int32("stream_init", *map(abs, timeline), batch, size)
    check_fits("stream_init", "the samples that a stream keeps", size * dtype.size)
    tail = mx.zeros((batch, timeline.history, channels), dtype)
    evaluate([tail])  # an unevaluated array would bind the stream to this thread
    return StreamState(tail, timeline.start, timeline, groups, flip)


def _read(
    op: str, w_shape: tuple[int, ...], options: Mapping[str, Any]
) -> tuple[Timeline, int, bool]:
    kernel, names = w_shape[1], ("stride", "input_dilation", "kernel_dilation")
    try:
        signature: Signature = SIGNATURES[op](**options)
        given = signature.read(op, 1)
    except TypeError as error:
        arguments.refuse("stream_init", f"options must be those of {op}", str(error))
    flip = False
    if isinstance(given, Transposed):
        names, flip = ("stride", "stride", "dilation"), True
        steps = (1, given.stride[0], given.dilation[0])
        pads = given.padding, given.dilation, given.output_padding
        (lo,), (hi,) = spec.transposed_padding((kernel,), *pads)
    elif isinstance(given, Plain):
        steps = (given.stride[0], 1, given.dilation[0])
        (lo,), (hi,) = given.padding, given.padding
    else:
        steps = (given.stride[0], given.input_dilation[0], given.kernel_dilation[0])
        ((lo,), (hi,)), flip = given.padding, given.flip
    for name, value in zip(names, steps):
        arguments.positive(op, name, value)
    return Timeline(kernel, *steps, lo, hi), given.groups, flip


def stream_step(
    state: StreamState, x: mx.array, weight: Weight, *, reset: mx.array | None = None
) -> tuple[mx.array, StreamState]:
    """Takes a chunk of the input and gives all outputs that are known with it.

    The outputs of all chunks and of `stream_flush`, concatenated, are the output for the
    concatenated input, whatever the chunks.

    Args:
        state (StreamState): The state of the stream so far.
        x (array): The chunk, ``(N, L, C)``, of any length, also 0.
        weight (array or PackedWeight): The weight, best packed by :func:`polyconv.pack`.
        reset (array, optional): Booleans ``(N,)``: which streams begin anew with this chunk. Their
            first ``state.latency[0]`` outputs belong to the time before the reset; the outputs
            behind these are those of a new stream. It is not for the very first chunk, with which
            all streams begin.

    Returns:
        tuple: The output ``(N, L_out, O)``, and the state.

    Raises:
        ValueError: If the chunk has another batch or other channels than the stream. Also if a row
            cannot begin anew here, because its outputs would not be in step with those of the other
            rows. The samples so far must be a multiple of a `stride`, at least
            ``state.latency[1]`` samples must have come, and the output must not be ahead of the
            input.
    """
    _check("stream_step", state, weight)
    if reset is not None:
        check_reset("stream_step", reset, state.tail.shape[0])
        _check_moment(state, reset)
    check_chunk("stream_step", x, state.tail.shape[0], state.tail.shape[2])
    tail = state.tail
    spec.check_int32("stream_step", tail.shape[1] + x.shape[1])
    if reset is not None:
        tail = mx.where(reset[:, None, None], mx.zeros((), tail.dtype), tail)
    samples = mx.concatenate([tail, x.astype(tail.dtype)], 1)
    piece = state.timeline.step(state.position, x.shape[1])
    y = _convolve(state, samples, weight, piece)
    kept = samples[:, samples.shape[1] - state.timeline.history :]
    return y, state._replace(tail=kept, position=piece.position)


def stream_flush(state: StreamState, weight: Weight) -> tuple[mx.array, StreamState]:
    """Gives what is left when the input has ended, and the state of a new stream.

    Args:
        state (StreamState): The state of the stream.
        weight (array or PackedWeight): The weight.

    Returns:
        tuple: The output ``(N, L_out, O)``, and the state.

    Raises:
        ValueError: If the state is none of `stream_init`'s, or the weight not that of its stream.
    """
    _check("stream_flush", state, weight)
    piece = state.timeline.flush(state.position)
    y = _convolve(state, state.tail, weight, piece)
    fresh = state._replace(tail=mx.zeros_like(state.tail), position=state.timeline.start)
    return y, fresh


def _convolve(state: StreamState, samples: mx.array, weight: Weight, piece: Piece) -> mx.array:
    if piece.n_outputs == 0:
        dtype = spec.promoted("stream_step", *dtype_names((samples.dtype, weight.dtype)))
        return zeros_for(samples, (samples.shape[0], 0, weight.shape[0]), getattr(mx, dtype))
    line = state.timeline
    samples = samples[:, piece.first : piece.first + piece.n_samples]
    samples = pad(samples, 1, 0, piece.n_samples - samples.shape[1])
    y = conv_transpose.conv_general(
        samples,
        weight,
        line.stride,
        ([piece.padding_lo], [piece.padding_hi]),
        line.kernel_dilation,
        line.input_dilation,
        state.groups,
        state.flip,
    )
    return y[:, piece.skip : piece.skip + piece.n_outputs]


def _check_weight(op: str, weight: Any) -> None:
    if not isinstance(weight, (mx.array, PackedWeight)):
        must = "weight must be an mlx.core.array or a PackedWeight"
        arguments.refuse(op, must, type(weight).__name__)
    if len(weight.shape) != 3:
        must = "weight must have 3 axes, (O, K, C / groups)"
        arguments.refuse(op, must, str(tuple(weight.shape)))
    if weight.shape[1] == 0:
        arguments.refuse(op, "weight must have at least one tap", str(tuple(weight.shape)))


def _check(op: str, state: Any, weight: Any) -> None:
    if not isinstance(state, StreamState):
        arguments.refuse(op, "state must be a StreamState", type(state).__name__)
    if not _is_whole(state):
        arguments.refuse(op, "state must be one that stream_init made", "one with other fields")
    _check_weight(op, weight)
    if weight.shape[1] != state.timeline.kernel_size:
        must = f"weight must have {state.timeline.kernel_size} taps, as at the beginning"
        arguments.refuse(op, must, str(weight.shape[1]))
    channels = state.tail.shape[2]
    shapes.check_groups(op, channels, weight.shape[0], state.groups)
    if weight.shape[2] * state.groups != channels:
        must = f"weight must read {channels // state.groups} channels, as at the beginning"
        arguments.refuse(op, must, str(weight.shape[2]))


def check_reset(op: str, reset: Any, batch: int) -> None:
    """Refuses what is no array of as many booleans."""
    is_one = isinstance(reset, mx.array) and reset.dtype == mx.bool_
    if not is_one or reset.shape != (batch,):
        got = (
            f"{reset.dtype} {reset.shape}" if isinstance(reset, mx.array) else type(reset).__name__
        )
        arguments.refuse(op, f"reset must be an mx.array of {batch} booleans", got)


def _check_moment(state: StreamState, reset: mx.array) -> None:
    """Refuses a reset after which rows would not give what a new stream gives."""
    line = state.timeline
    if line.begins_at(state.position) or is_none(reset):
        return
    outputs, inputs = line.latency
    is_apart = (state.position - line.start) % line.stride == 0
    refuse_moment("stream_step", outputs, None if is_apart else line.apart, inputs)


def refuse_moment(
    op: str, late: int, apart: int | None, least: int, came: int | None = None
) -> NoReturn:
    """Says why rows cannot begin anew: they would be ahead, or out of step, or it is too early.

    Args:
        op (str): Whose argument it is.
        late (int): By how many samples the output is behind.
        apart (int or None): Of how many samples a multiple must have come, if it has not.
        least (int): How many samples must have come.
        came (int, optional): How many have. A state does not know. Default: not known.
    """
    if late < 0:
        must = "reset must come to a stream whose output is not ahead of its input"
        arguments.refuse(op, must, f"a latency of {late} samples")
    if apart is not None:
        must = f"reset must come after a multiple of {apart} samples"
        arguments.refuse(op, must, "another number of them" if came is None else str(came))
    got = "fewer" if came is None else str(came)
    arguments.refuse(op, f"reset must come after at least {least} samples", got)


def is_none(reset: mx.array) -> bool:
    """Whether no row is asked for. Of what is traced nobody knows."""
    try:
        return not reset.any().item()
    except ValueError:  # traced
        return False


def _is_whole(state: StreamState) -> bool:
    """Whether a state can be a stream's. It is a tuple, so anybody can make one."""
    line = state.timeline
    if not (isinstance(line, Timeline) and isinstance(state.tail, mx.array)):
        return False
    ints = (*line, state.position, state.groups)
    if not all(isinstance(number, int) for number in ints) or not isinstance(state.flip, bool):
        return False
    return (
        min(*line[:4], state.groups) > 0
        and max(map(abs, ints)) <= spec.INT32_MAX
        and state.tail.ndim == 3
        and state.tail.shape[1] == line.history
    )


def check_chunk(op: str, x: Any, batch: int | None = None, channels: int | None = None) -> None:
    """Refuses what is no array of three axes, or has another batch or channels, where given."""
    if not isinstance(x, mx.array) or x.ndim != 3:
        got = str(x.shape) if isinstance(x, mx.array) else type(x).__name__
        arguments.refuse(op, "x must be an array (N, L, C)", got)
    check_float64(op, "x", x.dtype)
    if batch is not None and (x.shape[0], x.shape[2]) != (batch, channels):
        must = f"x must have batch {batch} and {channels} channels"
        arguments.refuse(op, must, f"{x.shape[0]} and {x.shape[2]}")
