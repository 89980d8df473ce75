"""A WAV file that several processes write, each its samples at their place.

Answers: how does a part of a long sound get into the file without the others being there?
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
from mel import SAMPLE_RATE
from numpy.typing import NDArray

SAMPLE_BYTES = 2
HEADER_BYTES = 44
# The header counts bytes in 32 bits.
MOST_SAMPLES = (2**32 - HEADER_BYTES) // SAMPLE_BYTES


def create(path: Path, n_samples: int) -> None:
    """Writes the header of a 16-bit mono WAV, and makes room for its samples: silence.

    Args:
        path: the file; one that is there is kept if it is as long, so that a run can go on.
        n_samples: samples of the sound.

    Raises:
        ValueError: if a WAV cannot hold as many.
    """
    if n_samples > MOST_SAMPLES:
        raise ValueError(f"a WAV file holds at most {MOST_SAMPLES} samples, not {n_samples}")
    size = HEADER_BYTES + SAMPLE_BYTES * n_samples
    if path.exists() and path.stat().st_size == size:
        return
    kind = (16, 1, 1, SAMPLE_RATE, SAMPLE_RATE * SAMPLE_BYTES, SAMPLE_BYTES, 8 * SAMPLE_BYTES)
    with path.open("wb") as file:
        file.write(struct.pack("<4sI4s", b"RIFF", size - 8, b"WAVE"))
        file.write(struct.pack("<4sIHHIIHH", b"fmt ", *kind))
        file.write(struct.pack("<4sI", b"data", SAMPLE_BYTES * n_samples))
        file.truncate(size)


class SoundPart:
    """One process's way into the file.

    Args:
        path: the file, which `create` has made.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY)

    def write(self, start: int, samples: NDArray[np.float32]) -> None:
        """Puts samples in [-1, 1] where they belong.

        Args:
            start: place of the first of them.
            samples: shape (N,).
        """
        data = (samples * 32767).round().clip(-32768, 32767).astype("<i2").tobytes()
        os.pwrite(self._file, data, HEADER_BYTES + SAMPLE_BYTES * start)

    def close(self) -> None:
        """Ends writing."""
        os.close(self._file)
