"""polyconv in processes that were forked (docs/threads.md).

Whatever forks does so in a process of its own, and a child that hangs is killed: MLX's own threads
do not survive a fork, and what waits for them waits for ever.
"""

import json
import sys

import mlx.core as mx
import pytest

from tests.support.threading_tools import run_script

needs_fork = pytest.mark.skipif(
    sys.platform == "darwin" or mx.cuda.is_available(),
    reason="a GPU does not survive a fork: docs/threads.md says spawn",
)

# `tried(name, work)` runs work() in a fork and keeps its result or error, or that it hangs: that
# it has not ended in a minute, in which a busy machine does what takes a millisecond.
FORK = """
import os, json, select, signal, sys, threading, time, warnings
warnings.simplefilter("ignore")
told = {}

def tried(name, work, seconds=60):
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            answer = work()
        except BaseException as error:
            answer = repr(error)
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    ready, _, _ = select.select([read], [], [], seconds)
    told[name] = json.loads(os.read(read, 1 << 16) or '"died"') if ready else "hangs"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

def in_a_thread(work):
    def call():
        found = []
        def run():
            try:
                found.append(work())
            except BaseException as error:
                found.append(repr(error))
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join()
        return found[0]
    return call

def convolved(lib, **named):
    x, w = mx.arange(600.0).reshape(1, 300, 2), mx.ones((2, 4, 2))
    return lib.conv_transpose1d(x, w, 2, **named).sum().item()

def native():
    return convolved(mx)

def ours():
    return convolved(polyconv)

def gradient():
    import numpy as np
    x, w = mx.arange(16000.0).reshape(1, 2000, 8) % 7, mx.ones((8, 4, 8))
    mx.eval(x, w)
    def loss(x):
        return polyconv.conv_transpose1d(x, w, 2, max_workspace=WORKSPACE).sum()
    return np.array(mx.grad(loss)(x)).sum().item()
""".replace("WORKSPACE", "300_000")
END = "\nprint(json.dumps(told)); sys.stdout.flush(); os._exit(0)\n"


def forked(text, tmp_path):
    return json.loads(run_script(FORK + text + END, tmp_path, 600))


@needs_fork
def test_a_fork_before_mlx_computes(tmp_path):
    told = forked(
        """
import mlx.core as mx, polyconv
tried("native", native); tried("ours", ours); tried("gradient", gradient)
tried("in a thread", in_a_thread(ours))
""",
        tmp_path,
    )
    assert told.pop("gradient") == 2000 * 8 * 4 * 8
    assert set(told.values()) == {native_sum()}


def native_sum():
    x = mx.arange(600.0).reshape(1, 300, 2)
    return mx.conv_transpose1d(x, mx.ones((2, 4, 2)), 2).sum().item()


@needs_fork
def test_a_fork_of_one_that_only_planned(tmp_path):
    text = """
import mlx.core as mx, polyconv
polyconv.explain("conv_transpose1d", (1, 300, 2), (2, 4, 2), stride=2)
tried("ours", ours)
"""
    assert forked(text, tmp_path) == {"ours": native_sum()}


@needs_fork
def test_a_fork_after_mlx_computed_is_no_worse_than_mlx(tmp_path):
    """The thread that forks loses MLX's thread for it; a new one gets one of its own.

    What MLX does in the thread that forked is waited for three seconds alone: where that hangs, or
    takes as long, nothing is asked of polyconv.
    """
    told = forked(
        """
import mlx.core as mx, polyconv
ours(), gradient()
tried("native", native, 3)
if told["native"] != "hangs":
    tried("ours", ours)
tried("native in a thread", in_a_thread(native)); tried("ours in a thread", in_a_thread(ours))
tried("gradient in a thread", in_a_thread(gradient))
def on_a_stream(work):
    with mx.stream(mx.new_stream(mx.cpu)):
        return work()
tried("native on a stream", lambda: on_a_stream(native))
tried("ours on a stream", lambda: on_a_stream(ours))
""",
        tmp_path,
    )
    assert told["native"] == told.get("ours", "hangs")
    assert told["native in a thread"] == told["ours in a thread"] == native_sum()
    assert told["native on a stream"] == told["ours on a stream"] == native_sum()
    assert told["gradient in a thread"] == 2000 * 8 * 4 * 8


@needs_fork
def test_a_fork_while_another_thread_holds_the_lock(tmp_path):
    """Which stops at a line of the package where it has it, until this thread forks or waits.

    It computes nothing meanwhile: a fork while MLX's own threads hold a lock of MLX's hangs now and
    then, natively too.
    """
    told = forked(
        """
import mlx.core as mx, mlx.nn as nn, polyconv
from polyconv.execution.locking import ALONE
model = nn.Sequential(nn.ConvTranspose1d(2, 2, 4, 2))
model.layers[0].weight, model.layers[0].bias = mx.ones((2, 4, 2)), mx.zeros((2,))
mx.eval(model.parameters())

def convert():
    polyconv.convert(model); polyconv.revert(model)
def patch():
    with polyconv.patched():
        pass
def stream():
    polyconv.stream(model)
def rates():
    polyconv.use_rates(None)

def held_lines(act, stop=None, inside=None):
    # How many lines of the package run with the lock; with `stop`, waits at that one.
    n = 0
    def trace(frame, event, _):
        nonlocal n
        if "polyconv" not in frame.f_code.co_filename:
            return None
        if event == "line" and ALONE._is_owned():
            if n == stop:
                sys.settrace(None)
                mx.synchronize()
                time.sleep(0.1)  # MLX's threads have let go of what they computed
                inside.set()
                while sys._current_frames()[threading.main_thread().ident].f_code != tried.__code__:
                    time.sleep(0.01)
                time.sleep(0.05)  # it forks, or waits for the lock
            n += 1
        return trace
    sys.settrace(trace)
    act()
    sys.settrace(None)
    return n

def work():
    polyconv.convert(model)
    y = model(mx.arange(600.0).reshape(1, 300, 2)).sum().item()
    kind = isinstance(model.layers[0], polyconv.PolyConvTranspose1d)
    polyconv.revert(model)
    with polyconv.patched():
        native()
    return [y, kind, type(model.layers[0]) is nn.ConvTranspose1d, ours()]

for act in (convert, patch, stream, rates):
    act()
    n = held_lines(act)
    for stop in sorted({0, 2 * n // 3, n - 1}):
        inside = threading.Event()
        thread = threading.Thread(target=held_lines, args=(act, stop, inside), daemon=True)
        thread.start()
        assert inside.wait(60)
        tried(f"{act.__name__}, line {stop} of {n}", in_a_thread(work))
        thread.join(60)
""",
        tmp_path,
    )
    assert len(told) >= 10
    right = [native_sum(), True, True, native_sum()]
    assert {where: found for where, found in told.items() if found != right} == {}


@needs_fork
def test_a_fork_while_another_thread_plans(tmp_path):
    """Which stands still in the middle of a property that is kept."""
    told = forked(
        """
import mlx.core as mx, polyconv
from polyconv.planning import plan
inside, whole = threading.Event(), plan.ConvPlan._subconv
def stopped(self, blocks):
    if threading.current_thread().name == "stops":
        inside.set()
        time.sleep(600)
    return whole(self, blocks)
plan.ConvPlan._subconv = stopped
threading.Thread(target=ours, name="stops", daemon=True).start()
inside.wait()
tried("ours", ours)
""",
        tmp_path,
    )
    assert told == {"ours": native_sum()}
