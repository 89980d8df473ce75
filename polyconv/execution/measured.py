"""What was measured on this machine, for `auto` to choose by: rates, and times of plans.

Both are told by a function or by an environment variable, and are part of the device that is
planned for. So what is kept of one is not taken for another.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import mlx.core as mx

from polyconv.execution.locking import ALONE
from polyconv.execution.machine import names
from polyconv.metal.seconds import FITTED, Parameters
from polyconv.planning.devices import HOSTS, Host, Metal
from polyconv.planning.rates import Rates, read_rates
from polyconv.planning.tuned import Tuning
from polyconv.planning.tuning_file import Section, read_tuning
from polyconv.problem.arguments import refuse, shown, switch

T = TypeVar("T")


@dataclass(frozen=True)
class _Times:
    """Tunings of this machine by the name of a backend, what is told of them, and what is wrong."""

    tunings: Mapping[str, Tuning]
    told: str
    warning: str = ""


@dataclass(frozen=True)
class _Used:
    """What is used: hosts with their rates and tunings, the time model's parameters, and times."""

    hosts: Mapping[str, Host]
    parameters: Parameters
    times: _Times


_NO_TIMES = _Times({}, "none")

# What was asked for, None for what the environment says; and what is used, None until that is
# worked out. Exchanged as a whole, never changed in place.
_asked_rates: Mapping[str, Rates | Parameters] | None = None
_asked_times: _Times | None = None
_used: _Used | None = None


def host(name: str) -> Host:
    """A device whose kernels are not predicted, as it was measured."""
    return (_used or _now()).hosts[name]


def mac(metal: Metal) -> Metal:
    """This Mac, with what was measured on it."""
    used = _used or _now()
    tuning = used.times.tunings.get("metal")
    if tuning is None and used.parameters is metal.parameters:
        return metal
    return _with(metal, tuning, used.parameters)


@lru_cache(8)
def _with(metal: Metal, tuning: Tuning | None, parameters: Parameters) -> Metal:
    return replace(metal, tuning=tuning, parameters=parameters)


def _now() -> _Used:
    """What is used: what was asked for, or else what the environment names."""
    global _used
    with ALONE:
        if _used is not None:
            return _used
        rates, times = _asked_rates, _asked_times
        if rates is None:
            rates = _of_environment("POLYCONV_RATES", read_rates) or {}
        if times is None:
            sections = _of_environment("POLYCONV_TUNING", read_tuning)
            path = os.environ.get("POLYCONV_TUNING", "")
            times = _NO_TIMES if sections is None else _times(sections, path, allow_unfold=False)
        hosts = {
            name: Host(name, _rates(rates, name, default.rates), times.tunings.get(name))
            for name, default in HOSTS.items()
        }
        parameters = rates.get("metal", FITTED)
        assert isinstance(parameters, Parameters)  # as it was read
        _used = found = _Used(hosts, parameters, times)
    if _asked_times is None and times.warning:
        warnings.warn(times.warning, stacklevel=2)
    return found


def _rates(found: Mapping[str, Rates | Parameters], name: str, default: Rates) -> Rates:
    rates = found.get(name)
    return rates if isinstance(rates, Rates) else default


def use_rates(path: str | os.PathLike[str] | None) -> None:
    """Lets ``auto`` compare methods by rates that were measured on this machine.

    On a Mac these are the parameters of its time model. The environment variable
    ``POLYCONV_RATES`` does the same for a whole process.

    Args:
        path (str or PathLike, optional): A file that ``polyconv bench --calibrate`` wrote; None for
            the rates that polyconv brings along.

    Raises:
        ValueError: If the file does not hold such rates.
        OSError: If it cannot be read.
    """
    global _asked_rates, _used
    found = {} if path is None else _read("use_rates", path, read_rates)
    with ALONE:
        _asked_rates, _used = found, None


def use_tuning(path: str | os.PathLike[str] | None, *, allow_unfold: bool = False) -> None:
    """Lets ``auto`` take the plans that were the fastest when they were timed on this machine.

    A layer that was timed with inputs of another size has the plan of the nearest one. For all
    other layers ``auto`` estimates. Times of another device or MLX are not used, which a warning
    tells. The environment variable ``POLYCONV_TUNING`` does the same for a whole process.

    Args:
        path (str or PathLike, optional): A file that :func:`polyconv.tune` or ``polyconv tune``
            wrote; None for no tuning.
        allow_unfold (bool, optional): Also take plans that allocate a copy of all windows on a GPU.
            Default: ``False``.

    Raises:
        ValueError: If the file does not hold such times.
        OSError: If it cannot be read.
    """
    global _asked_times, _used
    switch("use_tuning", "allow_unfold", allow_unfold)
    times = _NO_TIMES
    if path is not None:
        times = _times(_read("use_tuning", path, read_tuning), path, allow_unfold)
    with ALONE:
        _asked_times, _used = times, None
    if times.warning:
        warnings.warn(times.warning, stacklevel=2)


def _times(sections: list[Section], path: str | os.PathLike[str], allow_unfold: bool) -> _Times:
    """Those of a file that are of this machine and of the MLX that runs."""
    here, name = {(name, mx.__version__): kind for kind, name in names().items()}, os.fspath(path)
    tunings = {
        here[each.device, each.mlx]: Tuning(each.entries, allow_unfold)
        for each in sections
        if (each.device, each.mlx) in here
    }
    if tunings:
        counts = [f"{len(each.entries)} layers of {kind}" for kind, each in tunings.items()]
        return _Times(tunings, f"{' and '.join(counts)} ({name})")
    of = "; ".join(each.told for each in sections) or "no device"
    told = f"{name} is not used, as its times are of {of}, and this is {_here()}"
    return _Times({}, told, f"[use_tuning] {told}")


def _here() -> str:
    return f"{' and '.join(names().values())} with MLX {mx.__version__}"


def _read(op: str, path: str | os.PathLike[str], read: Callable[[str, str], T]) -> T:
    if not isinstance(path, (str, os.PathLike)):
        refuse(op, "path must be a str or a path", shown(path))
    try:
        with open(path) as file:
            text = file.read()
    except ValueError as error:  # a name that no file can have, or bytes that are no text
        refuse(op, "path must be that of a text file", f"{shown(path)}: {error}")
    return read(op, text)


def _of_environment(name: str, read: Callable[[str, str], T]) -> T | None:
    """What a file holds that a variable names, if it names one."""
    path = os.environ.get(name)
    if path is None:
        return None
    try:
        return _read(name, path, read)
    except OSError as error:  # met by a call that has nothing to do with files
        what = "rates" if read is read_rates else "times"
        must = f"it must name a file of {what} that can be read"
        refuse(name, must, f"{shown(path)}: {error.strerror}")


def rates_told() -> str:
    """Whose rates are in force."""
    measured = [name for name, default in HOSTS.items() if host(name).rates != default.rates]
    if (_used or _now()).parameters is not FITTED:
        measured.append("Metal")
    if not measured:
        return "rates: those that polyconv brings along"
    where = os.environ.get("POLYCONV_RATES")
    return f"rates: measured for {' and '.join(measured)}" + (f" ({where})" if where else "")


def tuning_told() -> str:
    """Which tuning is used."""
    return f"tuning: {(_used or _now()).times.told}"
