import struct

import numpy as np
import pytest
import soundfile
import torch
from clarity.utils.file_io import read_signal, write_signal
from recipes.cad_icassp_2024.generate_dataset.generate_at_mic_musdb18 import (
    apply_hrtf,
    load_hrtf_signals,
    normalise_lufs_level,
)
from scipy.signal import lfilter
from signals import ten_kinds
from tolerances import CHAIN

from cadenza_lib.audio import acoustics
from cadenza_lib.audio.heads import head_hrtf
from cadenza_lib.core.errors import AudioError

pytestmark = pytest.mark.exact


@pytest.fixture
def hrtf():
    return head_hrtf(-30.0, 22.5)


@pytest.mark.filterwarnings("ignore:Possible clipped samples")
@pytest.mark.parametrize("kind", ten_kinds())
def test_at_ear_signals_equal_the_official_generators(kind, hrtf):
    dry = ten_kinds()[kind]
    left, right = (loudspeaker.numpy().T for loudspeaker in hrtf)
    expected = normalise_lufs_level(apply_hrtf(dry.numpy().T, left, right), dry.numpy().T, 44100)
    np.testing.assert_allclose(acoustics.at_ears(dry, hrtf).numpy().T, expected, rtol=0, atol=CHAIN)


BLOCK = 4096 - 234  # new samples in an overlap-save block of 4096 with 235 taps; sixteen blocks are one chunk


@pytest.mark.parametrize(
    "length", [1, 234, 235, BLOCK - 1, BLOCK, BLOCK + 1, 16 * BLOCK, 16 * BLOCK + 1, 40 * BLOCK - 3]
)
@pytest.mark.parametrize("differentiable", [False, True])
def test_ears_hear_the_causal_filters_at_lengths_around_every_block(length, differentiable):
    generator = np.random.default_rng(length)
    signal, hrtf = generator.normal(size=(2, length)), generator.normal(size=(2, 2, 235))
    expected = [sum(lfilter(hrtf[side, ear], 1, signal[side]) for side in (0, 1)) for ear in (0, 1)]
    source = torch.from_numpy(signal).requires_grad_(differentiable)
    heard = acoustics.loudspeakers_to_ears(source, torch.from_numpy(hrtf)).detach()
    # 470 products of unit variance: FFT rounding grows with the whole block.
    np.testing.assert_allclose(heard.numpy(), expected, rtol=0, atol=1e-11)


def test_ears_hear_batches_and_single_precision_alike(hrtf):
    signals = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 2, 2, 5000)))
    heard = acoustics.loudspeakers_to_ears(signals, hrtf)
    assert heard.shape == signals.shape
    assert torch.equal(heard[2, 1], acoustics.loudspeakers_to_ears(signals[2, 1], hrtf))
    single = acoustics.loudspeakers_to_ears(signals.float(), hrtf)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), heard, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Possible clipped samples")
def test_files_at_the_ears_are_those_of_the_official_generator(cadenza_mini, tmp_path):
    position = {"subject": "VP_N6", "left_angle": -37.5, "right_angle": 22.5, "mic": "BTE_fr"}
    song = cadenza_mini / "audio/music/train/MDN Band - Excerpt A/mixture.wav"
    left, right = load_hrtf_signals(cadenza_mini / "audio/hrtf", position)
    dry = read_signal(song)
    heard = normalise_lufs_level(apply_hrtf(dry, left, right), dry, 44100)
    write_signal(tmp_path / "mixture.wav", heard, 44100, floating_point=False)

    hrtf = acoustics.load_hrtf(cadenza_mini / "audio/hrtf", "BTE_fr", "VP_N6", -37.5, 22.5)
    ours = acoustics.quantise_16bit(acoustics.at_ears(acoustics.read_audio(song, 44100), hrtf))
    np.testing.assert_array_equal(ours.numpy().T, read_signal(tmp_path / "mixture.wav"))


def test_silence_stays_silent_at_the_ears(hrtf):
    assert not acoustics.at_ears(torch.zeros(2, 44100, dtype=torch.float64), hrtf).any()


def test_quantisation_equals_a_16_bit_file(tmp_path):
    signal = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 5000)) * 0.5)  # some samples clip
    write_signal(tmp_path / "x.wav", signal.numpy().T, 44100, floating_point=False)
    np.testing.assert_array_equal(acoustics.quantise_16bit(signal).numpy().T, read_signal(tmp_path / "x.wav"))


def _with_sizes(content: bytes, riff: int, data: int) -> bytes:
    """Return a WAV file whose header gives other sizes of the file and of its samples."""
    place = content.index(b"data") + 4
    return content[:4] + struct.pack("<I", riff) + content[8:place] + struct.pack("<I", data) + content[place + 4 :]


@pytest.mark.parametrize(
    ("riff", "data"), [(0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFF024, 0x7FFFF000), (0x80000024, 0x80000000), (8, 0)]
)
def test_sound_that_was_written_to_a_pipe_is_read_completely(tmp_path, riff, data):
    samples = np.random.default_rng(0).integers(-9000, 9000, (1000, 2)).astype(np.int16)
    soundfile.write(tmp_path / "x.wav", samples, 44100, subtype="PCM_16")
    (tmp_path / "x.wav").write_bytes(_with_sizes((tmp_path / "x.wav").read_bytes(), riff, data))
    assert acoustics.read_header(tmp_path / "x.wav", 44100).frames == 1000
    np.testing.assert_array_equal(acoustics.read_audio(tmp_path / "x.wav", 44100).numpy().T * 32768, samples)


def test_sound_whose_header_promises_nothing_is_refused(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.full((1000, 2), 0.1), 44100, subtype="PCM_16")
    (tmp_path / "x.wav").write_bytes(_with_sizes((tmp_path / "x.wav").read_bytes(), 0, 0))
    with pytest.raises(
        AudioError, match=r"x\.wav is empty: it holds 0 samples by its header; write or download it again"
    ):
        acoustics.read_audio(tmp_path / "x.wav", 44100)


def test_flac_that_does_not_say_how_long_it_is_is_refused(tmp_path):
    soundfile.write(tmp_path / "x.flac", np.full((1000, 2), 0.1), 44100)
    content = bytearray((tmp_path / "x.flac").read_bytes())
    content[21] &= 0xF0  # the highest of 36 bits that count samples
    content[22:26] = bytes(4)
    (tmp_path / "x.flac").write_bytes(content)
    with pytest.raises(AudioError, match=r"x\.flac does not say how many samples it has, as if written to a pipe"):
        acoustics.read_audio(tmp_path / "x.flac", 44100)


@pytest.mark.parametrize("format", ["WAV", "RF64", "AIFF"])
def test_sound_that_is_cut_off_is_never_read_short(tmp_path, format):
    path = tmp_path / "x"
    soundfile.write(path, np.full((1000, 2), 0.1), 44100, subtype="PCM_16", format=format)
    assert acoustics.read_header(path, 44100).frames == 1000
    path.write_bytes(path.read_bytes()[:-100])
    for part in ({}, {"start": 0, "stop": 10}):
        with pytest.raises(AudioError, match=r"x is cut off: \d+ of \d+ bytes; copy or download it again"):
            acoustics.read_audio(path, 44100, **part)


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros((100, 2)), 48000, r"x\.wav has a sample rate of 48000 Hz, not 44100"),
        (np.zeros((100, 1)), 44100, r"x\.wav has 1 channel\(s\), not 2"),
        (np.zeros((0, 2)), 44100, r"x\.wav is empty"),
        (np.full((100, 2), np.nan), 44100, r"x\.wav holds 200 sample\(s\) that are NaN"),
    ],
)
def test_unusable_audio_is_refused_with_its_name(tmp_path, samples, rate, message):
    soundfile.write(tmp_path / "x.wav", samples, rate, subtype="FLOAT")
    with pytest.raises(AudioError, match=message):
        acoustics.read_audio(tmp_path / "x.wav", 44100)
