"""How many bytes may a call allocate on this machine?"""

from __future__ import annotations

import os
from functools import cache, lru_cache

from polyconv.execution.device import device_for, memory_of_gpu, present
from polyconv.planning.devices import Device, Metal
from polyconv.planning.tiling import Room
from polyconv.problem.arguments import NoRoomError, refuse

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]

# What is free changes from call to call, and tiles are kept by it. So it is rounded, to so many
# bits and at least to so many bytes: then there are few different values, whatever the limit is.
_BITS, _STEP = 4, 2**24
# Nobody asks whether so few bytes are free: that takes longer than to allocate them.
_UNASKED = _STEP


def room_on(device: Device) -> Room:
    """Bytes for the result and what is allocated on the way to it.

    For Apple's GPUs it is what Metal says. For a host it is the memory, or what a limit on the
    process (`resource.setrlimit`, a container's) leaves of it. Where memory of a CPU cannot be had,
    MLX ends the process, so such a call is refused before. On a Mac MLX allocates by Metal for both
    devices, so Metal's largest buffer bounds a CPU's, too.
    """
    return _room(device, memory_here(), _left(), present())


@lru_cache(16)
def _room(device: Device, memory: int, left: int, metal: Metal | None) -> Room:
    if isinstance(device, Metal):
        return Room(device.limits.max_buffer_bytes, device.limits.working_set_bytes)
    on_gpu = memory_of_gpu() if device.backend.has_own_memory else None
    found = on_gpu or min(memory, left)
    return Room(found if metal is None else min(found, metal.limits.max_buffer_bytes), found)


def never_asks(least: Room, device: Device) -> bool:
    """Whether so many bytes may be allocated at any time, so that no call has to ask.

    They may if they are few, or if they fit on a GPU, whose room does not change.
    """
    if least.total <= _UNASKED:
        return True
    is_fixed = device.backend.has_own_memory and memory_of_gpu() is not None
    return (isinstance(device, Metal) or is_fixed) and has_room(least, device)


def has_room(least: Room, device: Device) -> bool:
    """Whether so many bytes, of the largest buffer and in all, may be allocated now."""
    if least.total <= _UNASKED:
        return True
    room = room_on(device)
    return least.largest <= room.largest and least.total <= room.total


def check_fits(op: str, what: str, needed: int) -> None:
    """Refuses an array that must lie in memory as a whole, and cannot."""
    room = room_on(device_for(None)).largest
    if needed > room:
        refuse(op, f"{what} must fit into {room} bytes", str(needed), NoRoomError)


@cache
def memory_here() -> int:
    """Bytes of memory of the machine, or of the container."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        text = _text_of("/sys/fs/cgroup/memory.max").strip()
    except OSError:
        return found
    return min(found, int(text)) if text.isdigit() else found


def _text_of(path: str) -> str:
    with open(path) as file:
        return file.read()


def _left() -> int:
    """Bytes left of the address space that the process may use."""
    if resource is None:
        return 2**63
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most == resource.RLIM_INFINITY:
        return 2**63
    try:
        pages = int(_text_of("/proc/self/statm").split()[0])
    except OSError:  # macOS, which keeps no such limit
        return 2**63
    used = pages * resource.getpagesize()
    left = max(0, most - used)
    step = max(_STEP, 1 << max(0, left.bit_length() - _BITS))
    return left // step * step
