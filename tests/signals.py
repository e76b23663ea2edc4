"""What tests share: ten kinds of stereo signals, from noise to music, SI-SDR, and files that need PyAV."""

from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cadenza_lib.core.conventions import SAMPLE_RATE
from cadenza_lib.data.synthesis import render_song


def ten_kinds(duration_s: float = 2.0) -> dict[str, Tensor]:
    """Return stereo signals `(channel, time)` in float64 at 44.1 kHz by name."""
    generator = np.random.default_rng(0)
    length = round(duration_s * SAMPLE_RATE)
    time_s = np.arange(length) / SAMPLE_RATE
    noise = generator.normal(size=(2, length))
    pink = np.fft.irfft(np.fft.rfft(noise) / np.sqrt(np.arange(1, length // 2 + 2)), length)
    tone = np.tile(np.sin(2 * np.pi * 997 * time_s), (2, 1))
    click = np.zeros((2, length))
    click[:, length // 2] = 1.0
    half = np.where(time_s < duration_s / 2, 1.0, 0.0)
    signals = {
        "white noise": 0.1 * noise,
        "pink noise": 3 * pink,
        "tone": 0.5 * tone,
        "low tone": 0.5 * np.sin(2 * np.pi * 30 * time_s) * np.ones((2, 1)),
        "one ear": 0.1 * noise * np.array([[1.0], [0.0]]),
        "half silent": 0.2 * noise * half,
        "fading": 0.3 * noise * np.linspace(1, 0, length) ** 4,
        "click": click,
        "very quiet": 2e-4 * noise,  # near the absolute gate
        "music": _song()[:, :length],
    }
    return {name: torch.from_numpy(signal.copy()) for name, signal in signals.items()}


@cache
def _song() -> np.ndarray:
    return render_song(3, 4.0).sum(0).double().numpy()


def si_sdr_db(estimate: Tensor, target: Tensor) -> Tensor:
    """Return the scale-invariant signal-to-distortion ratio of each stem; (stem, channel, time) to (stem,)."""
    estimate, target = estimate.flatten(-2), target.flatten(-2)
    projection = (estimate * target).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True) * target
    return 10 * torch.log10(projection.square().sum(-1) / (estimate - projection).square().sum(-1))


def write_with_pyav(
    path: Path,
    *tracks: np.ndarray,
    codec: str = "aac",
    sample_rate: int = SAMPLE_RATE,
    options: dict[str, str] | None = None,
) -> None:
    """Write sound tracks `(channel, time)`, or skip the test where PyAV is missing."""
    av = pytest.importorskip("av", reason="PyAV (the extra media) is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    layouts = {1: "mono", 2: "stereo", 6: "5.1"}
    with av.open(str(path), "w", options=options) as container:
        streams = [container.add_stream(codec, rate=sample_rate, layout=layouts[len(track)]) for track in tracks]
        for stream, track in zip(streams, tracks, strict=True):
            samples = np.ascontiguousarray(track, np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=stream.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = sample_rate, 0, Fraction(1, sample_rate)
            container.mux(stream.encode(frame) + stream.encode(None))
