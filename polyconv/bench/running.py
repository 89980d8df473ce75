"""`polyconv run`: runs a program as `python` does, on a fast BLAS and with a larger MLX cache."""

from __future__ import annotations

import argparse
import os
import platform
import runpy
import sys
from pathlib import Path

import mlx.core as mx

from polyconv.execution.memory import memory_here
from polyconv.inspection import blas
from polyconv.planning.rates import si
from polyconv.problem.arguments import integer, refuse, shown

_MOST = 2 << 30
# Has glibc ask for huge pages, where the kernel gives them on request: arrays of many MB are then
# faulted in and looked up by pages of 2 MB. A glibc without it (before 2.35) takes no notice.
_HUGE_PAGES = "glibc.malloc.hugetlb=1"


def add(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of `polyconv run`."""
    command.add_argument(
        "--cache-limit",
        type=int,
        metavar="BYTES",
        help="freed memory that MLX may keep on a CPU (default: an eighth of the memory, at most "
        "2 GiB); 0: do not change MLX's limit, which is 32 MB",
    )
    command.add_argument("--quiet", action="store_true", help="say nothing of BLAS and cache")
    command.add_argument("-m", dest="module", action="store_true", help="run a module, not a file")
    command.add_argument("program", help="a file of Python, or with -m the name of a module")
    command.add_argument("arguments", nargs=argparse.REMAINDER, help="what the program is given")
    command.set_defaults(run=prepare, then=execute)


def prepare(args: argparse.Namespace) -> None:
    """Loads the BLAS and sets the limit. To load a BLAS it starts Python anew."""
    if not args.module and not Path(args.program).exists():
        must = "program must be a file that is there, or a module behind -m, as in -m polyconv"
        refuse("run", must, shown(args.program))
    given = args.cache_limit
    limit = _default_limit() if given is None else integer("run", "--cache-limit", given)
    if limit < 0:
        refuse("run", "--cache-limit must be at least 0", str(limit))
    told = _with_blas() if platform.system() == "Linux" else []
    if limit and mx.default_device().type == mx.cpu:
        mx.set_cache_limit(limit)
        told.append(f"MLX may keep {si(limit)}B of freed memory")
    if told and not args.quiet:
        print(f"polyconv run: {'; '.join(told)}", file=sys.stderr, flush=True)


def _with_blas() -> list[str]:
    """What to say of the BLAS. It does not return if Python must be started anew to load one."""
    here = blas.in_force()
    if here:
        return [f"matrix products by {here}"]
    found = blas.find()
    if found is None:
        slow = "no fast BLAS was found, and MLX's own is some 30 times slower"
        return [f"{slow} (mend it by: {blas.INSTALL})"]
    os.environ.setdefault("GLIBC_TUNABLES", _HUGE_PAGES)
    os.environ["LD_PRELOAD"] = ":".join([str(found), *blas.preloaded()])
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _default_limit() -> int:
    """How many bytes of freed memory MLX may keep on a CPU.

    MLX's CPU allocator gives memory above its limit back to the system, and each call must fault it
    in anew. Its own limit is 32 MB. A quarter of a second of a decoder's activations is a few
    hundred MB.
    """
    return min(_MOST, memory_here() // 8)


def execute(args: argparse.Namespace) -> None:
    """Runs the program in this process, as `python program` or `python -m program` would."""
    sys.argv = [args.program, *args.arguments]
    if not getattr(sys.flags, "safe_path", False):
        folder = os.getcwd() if args.module else os.path.dirname(os.path.abspath(args.program))
        sys.path[0] = folder
    if args.module:
        sys.modules.pop(f"{args.program}.__main__", None)  # it is this command if that runs itself
        runpy.run_module(args.program, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(args.program, run_name="__main__")
