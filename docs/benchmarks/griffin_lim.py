"""Griffin-Lim by polyconv and by librosa over seeds and iterations, and the transforms' times.

Needs librosa, and pystoi for intelligibility; griffin_lim.txt says how it was run.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import griffin_lim
import istft_vocoder
import librosa_peer
import mlx.core as mx
import numpy as np
import pystoi
import stft
from measure import run_once
from mel import HOP, N_FFT, PADDING, SAMPLE_RATE, WINDOW, log_mel, mel_filterbank
from speech import BUNDLED_CLIP

import polyconv
from polyconv.execution.packing import PackedWeight

SEEDS, ROUNDS = range(5), 15


def by_polyconv(target: mx.array, iterations: int, seed: int) -> istft_vocoder.Samples:
    return np.array(griffin_lim.griffin_lim(target, iterations, seed).waveform[0, :, 0])


def by_librosa(target: mx.array, iterations: int, seed: int) -> istft_vocoder.Samples:
    return librosa_peer.griffin_lim(np.array(target[0]), iterations, seed)


def print_line(name: str, clip: istft_vocoder.Samples, target: mx.array, sounds: list) -> None:
    """Means over the seeds and, of the mel distance, the extremes."""
    rows = [istft_vocoder.score(name, None, sound, target, clip) for sound in sounds]
    mels = [row.mel_db for row in rows]
    understood = statistics.mean(pystoi.stoi(clip, sound, SAMPLE_RATE) for sound in sounds)
    print(
        f"{name:44s} {statistics.mean(row.convergence for row in rows):.3f}   "
        f"{statistics.mean(mels):.3f} ({min(mels):.3f} to {max(mels):.3f})   "
        f"{statistics.mean(row.linear_db for row in rows):.2f}   {understood:.3f}",
        flush=True,
    )


def sweep(clip: istft_vocoder.Samples) -> mx.array:
    """Prints every combination of magnitudes and phases; returns polyconv's magnitudes."""
    mel = log_mel(clip)
    ours = griffin_lim.magnitudes_of_mel(mel)
    theirs = mx.array(librosa_peer.magnitudes_of_mel(mel))[None]
    for whose, target in (("polyconv", ours), ("librosa", theirs)):
        wanted, got = np.exp(mel), np.array(target[0]) @ mel_filterbank().T
        missing = np.linalg.norm(got - wanted) / np.linalg.norm(wanted)
        print(f"the mel of {whose}'s magnitudes is {100 * missing:.3f} % from the clip's")
    print(f"{'magnitudes, Griffin-Lim':44s} conv.   mel dB (of the seeds)      linear STOI")
    start = stft.InverseSTFT(len(mel))
    first = [np.array(start(griffin_lim.random_phases(ours, seed))[0, :, 0]) for seed in SEEDS]
    print_line("polyconv, none: random phases", clip, ours, first)
    for iterations in (32, 60, 100):
        for whose, target in (("polyconv", ours), ("librosa", theirs)):
            for maker in (by_polyconv, by_librosa):
                name = f"{whose}, {maker.__name__[3:]}, {iterations} iterations"
                print_line(name, clip, target, [maker(target, iterations, s) for s in SEEDS])
    return ours


def by_fft(spectrum: mx.array) -> mx.array:
    """The inverse without a convolution: inverse FFT, and overlap-add by shifted sums."""
    both = spectrum[0, :, : stft.BINS] + 1j * spectrum[0, :, stft.BINS :]
    frames = mx.fft.irfft(both) * mx.array(WINDOW.astype(np.float32))
    parts = frames.reshape(len(frames), N_FFT // HOP, HOP)
    last = N_FFT // HOP - 1
    shifted = [mx.pad(parts[:, i], [(i, last - i), (0, 0)]) for i in range(last + 1)]
    return sum(shifted).reshape(1, -1, 1)[:, PADDING:-PADDING]


def analysis(x: mx.array, weight: PackedWeight) -> mx.array:
    """The forward transform as a convolution."""
    x = x.reshape(-1)
    x = mx.concatenate([x[PADDING:0:-1], x, x[-2 : -PADDING - 2 : -1]])
    return polyconv.conv1d(x[None, :, None], weight, HOP)


def time_transforms(clip: istft_vocoder.Samples, target: mx.array) -> None:
    """Medians of interleaved rounds."""
    spectrum, waveform = griffin_lim.random_phases(target, 0), mx.array(clip)[None, :, None]
    inverse = stft.InverseSTFT(target.shape[1])
    angle = 2 * np.pi / N_FFT * (np.arange(stft.BINS)[:, None] * np.arange(N_FFT) % N_FFT)
    rows = np.concatenate([np.cos(angle), -np.sin(angle)]) * WINDOW
    weight = polyconv.pack(mx.array(rows[..., None].astype(np.float32)))
    mx.eval(spectrum, waveform)
    calls: dict[str, Callable[[], mx.array]] = {
        "forward, mx.fft.rfft": lambda: stft.stft(waveform),
        "forward, polyconv.conv1d": lambda: analysis(waveform, weight),
        "inverse, polyconv.conv_transpose1d, packed": lambda: inverse.overlap_add(spectrum),
        "inverse, mx.fft.irfft and overlap-add": lambda: by_fft(spectrum),
        "inverse, mx.conv_transpose1d": lambda: inverse.native_overlap_add(spectrum),
    }
    names = list(calls)
    for one, other in ((names[0], names[1]), (names[2], names[3]), (names[2], names[4])):
        apart = mx.abs(calls[one]() - calls[other]()).max().item()
        print(f"{one} and {other.split(', ')[1]}: at most {apart:.1e} apart")
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(ROUNDS):
        for name in calls if round_ < 3 else names[:-1]:  # the native op three times
            run_once(calls[name])
            times[name].append(run_once(calls[name]).seconds)
    for name in calls:
        print(f"{name:44s} {1e3 * statistics.median(times[name]):8.2f} ms")


if __name__ == "__main__":
    the_clip = istft_vocoder.read_clip(BUNDLED_CLIP, None)
    if sys.argv[1:] == ["--times"]:
        time_transforms(the_clip, griffin_lim.magnitudes_of_mel(log_mel(the_clip)))
    else:
        time_transforms(the_clip, sweep(the_clip))
