"""From loudspeakers to ears: HRTFs and sound files from disk, at-ear simulation and 16-bit rounding.

The simulation is the challenge's generator (`generate_at_mic_musdb18.py` in pyclarity's recipe): each ear hears both
loudspeakers through head-related impulse responses; then the mixture and each stem are matched, one by one, to the
loudness of their dry version. So at-ear stems do not sum to the at-ear mixture.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from scipy.fft import fft, ifft, next_fast_len
from torch import Tensor

from cadenza_lib.audio.loudness import loudness_matching_gain
from cadenza_lib.core.conventions import EARS, SAMPLE_RATE
from cadenza_lib.core.errors import AudioError

__all__ = [
    "INT16_SCALE", "at_ears", "check_signal", "hrtf_file_name", "hrtf_files", "hrtf_table", "load_hrtf",
    "loudspeakers_to_ears", "quantise_16bit", "read_audio", "read_header", "to_16bit",
]  # fmt: skip

INT16_SCALE = 32768.0
"""Steps of a 16-bit file per unit of signal, as soundfile reads and the recipe writes them."""

_BYTE_ORDER = {b"RIFF": "<", b"RF64": "<", b"FORM": ">"}  # of the lengths in a file by its first four bytes
_UNKNOWN_LENGTH = 0x7FFF0000  # bytes; writers to a pipe do not know it: SoX writes 0x7FFFF000, ffmpeg 0xFFFFFFFF
_UNKNOWN_FRAMES = 2**36 - 1  # the most that FLAC can state; libsndfile gives more where FLAC does not state it
_BLOCK = 4096  # samples of an overlap-save block
_BLOCKS_AT_ONCE = 16


@dataclass(frozen=True)
class AudioHeader:
    """The content of a sound file's header."""

    frames: int  # samples of each channel
    channels: int
    sample_rate: int  # Hz


def read_header(path: Path | str, sample_rate: int | None, channels: tuple[int, ...] | None = (2,)) -> AudioHeader:
    """Return the header of a sound file, checked without reading a sample.

    Parameters
    ----------
    path
        The file.
    sample_rate
        The rate in Hz that it must have, or None for any.
    channels
        The numbers of channels that it may have, or None for any.

    Raises
    ------
    AudioError
        If the file is missing, unreadable, empty or cut off, or has another rate or number of channels.
    """
    path = Path(path)
    if not os.path.isfile(path):  # unlike Path.is_file, no error if a name is too long
        raise AudioError(f"{path} does not exist; check the corpus against data/README.md.")
    try:
        info = soundfile.info(path)
        size, promised_size = path.stat().st_size, _promised_size(path)
    except (soundfile.LibsndfileError, OSError, struct.error) as error:
        raise _unreadable(path, error) from error
    if sample_rate is not None and info.samplerate != sample_rate:
        raise AudioError(f"{path} has a sample rate of {info.samplerate} Hz, not {sample_rate}; resample it.")
    if channels is not None and info.channels not in channels:
        raise AudioError(f"{path} has {info.channels} channel(s), not {' or '.join(map(str, channels))}; convert it.")
    if promised_size > size:
        raise AudioError(f"{path} is cut off: {size} of {promised_size} bytes; copy or download it again.")
    if info.frames == 0:
        raise AudioError(f"{path} is empty: it holds 0 samples by its header; write or download it again.")
    if info.frames >= _UNKNOWN_FRAMES:
        raise AudioError(f"{path} does not say how many samples it has, as if written to a pipe; write it to a file.")
    return AudioHeader(info.frames, info.channels, info.samplerate)


def read_audio(
    path: Path | str, sample_rate: int, channels: tuple[int, ...] = (2,), start: int = 0, stop: int | None = None
) -> Tensor:
    """Read a sound file, or only its samples from `start` to `stop`, as float64 in [-1, 1).

    Shape:
        - result: `(channel, time)`

    Raises
    ------
    AudioError
        If `read_header` refuses the file, or it holds NaN.
    """
    path = Path(path)
    read_header(path, sample_rate, channels)
    try:
        samples, _ = soundfile.read(path, dtype="float64", always_2d=True, start=start, stop=stop)
    except (soundfile.LibsndfileError, OSError) as error:
        raise _unreadable(path, error) from error
    except MemoryError as error:  # memory for all samples of the header is taken before any is read
        raise AudioError(f"{path} promises more samples than memory holds; copy or download it again.") from error
    signal = torch.from_numpy(samples).T
    check_signal(signal, str(path))
    return signal


def _unreadable(path: Path, error: Exception) -> AudioError:
    reason = getattr(error, "error_string", str(error)).rstrip(".").replace(". ", ", ")  # libsndfile's sentences
    return AudioError(f"{path} cannot be read as audio ({reason}); copy or download it again.")


def _promised_size(path: Path) -> int:
    """Return the size in bytes that a WAV or AIFF file has by its own header, 0 if that is not stated.

    libsndfile takes the end of a truncated file for the end of its samples without an error.
    """
    with path.open("rb") as file:
        order = _BYTE_ORDER.get(file.read(12)[:4])
        long_length = 0
        while order and len(chunk := file.read(8)) == 8:
            name, length = struct.unpack(f"{order}4sI", chunk)
            if name == b"ds64":  # of RF64: size of the file, then that of the samples
                long_length = struct.unpack("<8xQ", file.read(16))[0]
                file.seek(-16, os.SEEK_CUR)
            if name in (b"data", b"SSND"):
                length = long_length or length
                return 0 if long_length == 0 and length >= _UNKNOWN_LENGTH else file.tell() + length
            file.seek(length + length % 2, os.SEEK_CUR)
    return 0


def check_signal(signal: Tensor, name: str) -> None:
    """Raise `AudioError` if a signal `(..., time)` is empty or holds NaN or infinity."""
    if signal.shape[-1] == 0:
        raise AudioError(f"{name} is empty: it holds 0 samples.")
    if not torch.isfinite(signal.sum()):  # one pass over minutes of audio that are nearly always fine
        count = int((~torch.isfinite(signal)).sum())
        raise AudioError(f"{name} holds {count} sample(s) that are NaN or infinite; repair the signal.")


def hrtf_file_name(mic: str, subject: str, angle_deg: float) -> str:
    """Return the challenge's file name of the HRTF for a loudspeaker at `angle_deg`, negative to the left.

    >>> hrtf_file_name("BTE_fr", "VP_E1", -22.5)
    'BTE_fr-VP_E1-n22.5.wav'
    """
    return f"{mic}-{subject}-{'n' if angle_deg < 0 else 'p'}{abs(angle_deg)}.wav"


def hrtf_files(folder: Path, mic: str, subject: str, left_angle: float, right_angle: float) -> list[Path]:
    """Return the files of the two HRTFs of a head position, angles in degrees."""
    return [folder / hrtf_file_name(mic, subject, angle) for angle in (-abs(left_angle), abs(right_angle))]


def load_hrtf(folder: Path | str, mic: str, subject: str, left_angle: float, right_angle: float) -> Tensor:
    """Load the two HRTFs of a head position, angles in degrees.

    Shape:
        - result: `(loudspeaker, ear, tap)`, loudspeakers left, right

    Raises
    ------
    AudioError
        If a file is missing or unusable, or the two differ in length.
    """
    files = hrtf_files(Path(folder), mic, subject, left_angle, right_angle)
    left, right = (read_audio(file, SAMPLE_RATE) for file in files)
    if left.shape != right.shape:
        raise AudioError(f"{files[0]} has {left.shape[-1]} taps but {files[1].name} has {right.shape[-1]}.")
    return torch.stack([left, right])


def hrtf_table(hrtf: Tensor) -> pd.DataFrame:
    """Return the magnitude of HRTFs `(loudspeaker, ear, tap)`: loudspeaker, ear, frequency (Hz), magnitude_db."""
    size = max(512, hrtf.shape[-1])
    magnitude_db = 20 * torch.log10(torch.fft.rfft(hrtf, size).abs())
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    tables = [
        pd.DataFrame({"loudspeaker": loudspeaker, "ear": ear, "frequency": frequency, "magnitude_db": path.numpy()})
        for loudspeaker, ears in zip(EARS, magnitude_db, strict=True)
        for ear, path in zip(EARS, ears, strict=True)
    ]
    return pd.concat(tables, ignore_index=True)


def loudspeakers_to_ears(signal: Tensor, hrtf: Tensor) -> Tensor:
    """Return what the ears hear of a signal played by two loudspeakers, cut to the input's length.

    Shape:
        - signal: `(..., loudspeaker, time)`
        - hrtf: `(loudspeaker, ear, tap)`
        - result: `(..., ear, time)`

    >>> delta = torch.zeros(2, 2, 3); delta[0, 0, 0] = delta[1, 1, 0] = 1  # each ear hears its own loudspeaker
    >>> signal = torch.tensor([[1., 2.], [3., 4.]])
    >>> torch.allclose(loudspeakers_to_ears(signal, delta), signal)
    True
    """
    if signal.device.type == "cpu" and not (signal.requires_grad and torch.is_grad_enabled()):
        samples = np.empty((*signal.shape[:-2], signal.shape[-1], 2), dtype=signal.numpy().dtype)
        for index in np.ndindex(*signal.shape[:-2]):
            _convolve_pair(signal[index].T.contiguous().numpy(), hrtf.numpy(), samples[index])
        return torch.from_numpy(samples).transpose(-1, -2)
    # Both loudspeakers are added before the inverse transform, which takes most of the time.
    size = next_fast_len(signal.shape[-1] + hrtf.shape[-1] - 1, real=True)
    spectrum, response = torch.fft.rfft(signal, size), torch.fft.rfft(hrtf.to(signal), size)
    heard = torch.einsum("...lf,lef->...ef", spectrum, response)
    return torch.fft.irfft(heard, size)[..., : signal.shape[-1]]


def at_ears(signal: Tensor, hrtf: Tensor, sample_rate: int = SAMPLE_RATE) -> Tensor:
    """Return a dry stereo signal at the ears, at the integrated loudness of the dry one.

    Where the official generator divides by zero (silence), the result is silence.

    Shape:
        - signal: `(..., loudspeaker, time)`; each leading index (stem) is matched on its own
        - hrtf: `(loudspeaker, ear, tap)`
        - result: `(..., ear, time)`

    Raises
    ------
    AudioError
        If the signal is shorter than 0.4 s.
    """
    heard = loudspeakers_to_ears(signal, hrtf)
    return heard * loudness_matching_gain(heard, signal, sample_rate)


def quantise_16bit(signal: Tensor) -> Tensor:
    """Return the signal as a 16-bit file would hold it: clipped to [-1, 1) and truncated towards zero.

    >>> quantise_16bit(torch.tensor([-2.0, 1.9 / 32768, -1.9 / 32768, 1.0])) * 32768
    tensor([-3.2768e+04,  1.0000e+00, -1.0000e+00,  3.2767e+04])
    """
    return to_16bit(signal).to(signal.dtype).div_(INT16_SCALE)


def to_16bit(signal: Tensor) -> Tensor:
    """Return the signal's 16-bit samples, as the official generator rounds them: clipped, then truncated towards zero.

    >>> to_16bit(torch.tensor([-2.0, 1.9 / 32768, -1.9 / 32768, 1.0])).tolist()
    [-32768, 1, -1, 32767]
    """
    return (signal * INT16_SCALE).clamp_(-INT16_SCALE, INT16_SCALE - 1).to(torch.int16)


def _convolve_pair(signal: np.ndarray, hrtf: np.ndarray, heard: np.ndarray) -> None:
    """Write what the ears hear `(time, ear)` of `(time, loudspeaker)`, by overlap-save.

    Two real signals make one complex one, which is how samples lie in a stereo file: x = left + i right of the
    loudspeakers, y = left + i right of the ears. With spectra X and Y, Y(f) = direct(f) X(f) + crossed(f) X*(-f).
    """
    source, result = (array.view(np.result_type(array, 1j))[:, 0] for array in (signal, heard))
    lead = hrtf.shape[-1] - 1
    size = max(_BLOCK, next_fast_len(4 * hrtf.shape[-1]))
    hop = size - lead
    ears = np.fft.fft(hrtf[:, 0] + 1j * hrtf[:, 1], size)
    direct = ((ears[0] - 1j * ears[1]) / 2).astype(source.dtype)
    crossed = ((ears[0] + 1j * ears[1]) / 2).astype(source.dtype)
    for start in range(0, len(source), hop * _BLOCKS_AT_ONCE):
        stop = min(start + hop * _BLOCKS_AT_ONCE, len(source))
        blocks = -(-(stop - start) // hop)
        part = np.zeros(lead + blocks * hop, source.dtype)
        begin = max(0, start - lead)  # the responses reach back into the time before each block
        part[lead - (start - begin) : lead + stop - start] = source[begin:stop]
        spectrum = fft(np.lib.stride_tricks.sliding_window_view(part, size)[::hop])
        mirrored = spectrum[:, -np.arange(size)].conj()  # X*(-f)
        mirrored *= crossed
        spectrum *= direct
        spectrum += mirrored
        result[start:stop] = ifft(spectrum, overwrite_x=True)[:, lead:].reshape(-1)[: stop - start]
