"""Tunings that take a plan by its label, without a clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import mlx.core as mx

from polyconv.execution import device
from polyconv.execution.machine import names
from polyconv.planning.devices import Device
from polyconv.planning.tuned import Entry, Tuning
from polyconv.planning.tuning_file import Section, written
from polyconv.problem.spec import ConvSpec


def entry(problem: ConvSpec, *labels: str, packed: bool = False) -> Entry:
    """Times of 1 ms, 2 ms and so on."""
    return Entry(problem, packed, {label: float(n) for n, label in enumerate(labels, 1)})


def with_tuning(where: Device, *entries: Entry, allow_unfold: bool = False) -> Device:
    return replace(where, tuning=Tuning(entries, allow_unfold))


@contextmanager
def planning_on(where: Device) -> Iterator[None]:
    """As `polyconv.planning_for`, for a device of a test."""
    with device._PLANNING_FOR.holding(where):
        yield


def file_of(entries: Iterable[Entry], kind: str = "", mlx: str = mx.__version__) -> str:
    """What `polyconv tune` would write here."""
    kind = kind or device.device_for(None).backend.cost_model
    return written([Section(names().get(kind, kind), mlx, tuple(entries))])
