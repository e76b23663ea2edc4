"""Any audio file: every format gives the same music, and what cannot be used is refused in one sentence."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from signals import write_with_pyav

from cadenza_lib.audio.media import audio_header, open_audio, read_audio, read_stems, stem_stream
from cadenza_lib.audio.resampling import resample
from cadenza_lib.core.errors import AudioError


def music(seed: int = 0, length: int = 33075, channels: int = 2) -> np.ndarray:
    """Return tones that lossy codecs keep, `(channel, time)`, float32."""
    generator = np.random.default_rng(seed)
    frequency, phase = generator.uniform(100, 2000, (20, 1, 1)), generator.uniform(0, 6, (20, channels, 1))
    tones = np.sin(2 * np.pi * frequency * np.arange(length) / 44100 + phase)
    return (0.05 * tones.sum(0)).astype(np.float32)


def snr_db(signal: torch.Tensor, expected: np.ndarray) -> float:
    error = signal.numpy() - expected
    return float(10 * np.log10(np.mean(expected**2) / np.mean(error**2 + 1e-20)))


@pytest.mark.parametrize(
    ("format", "subtype", "least_snr_db"),
    [
        *(("WAV", subtype, 60) for subtype in ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
        *(("WAVEX", "PCM_24", 60), ("RF64", "PCM_16", 60), ("AIFF", "PCM_24", 60), ("FLAC", "PCM_16", 60)),
        *(("OGG", "VORBIS", 10), ("MP3", "MPEG_LAYER_III", 10)),
    ],
)
def test_every_format_of_libsndfile_gives_the_signal_that_was_written(
    format: str, subtype: str, least_snr_db: float, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "x", music().T, 44100, format=format, subtype=subtype)
    signal, notes = read_audio(tmp_path / "x")
    assert (signal.dtype, signal.shape, notes) == (torch.float32, (2, 33075), [])
    assert signal.is_contiguous()
    assert snr_db(signal, music()) > least_snr_db


@pytest.mark.parametrize(
    ("name", "codec", "sample_rate", "least_snr_db"),
    [
        ("x.m4a", "aac", 44100, 10),
        ("x.m4a", "alac", 44100, 60),
        ("x.mp4", "aac", 48000, 10),
        ("x.mka", "ac3", 48000, 10),
    ],
)
def test_formats_of_pyav_give_the_signal_in_its_place(
    name: str, codec: str, sample_rate: int, least_snr_db: float, tmp_path: Path
) -> None:
    write_with_pyav(tmp_path / name, music(), codec=codec, sample_rate=sample_rate)
    signal, notes = read_audio(tmp_path / name, sample_rate)
    assert notes == []
    if not name.endswith("mka"):  # where the end is not stated; in MP4 it is, in ms
        assert signal.shape[-1] == pytest.approx(33075, abs=sample_rate / 1000)
    assert snr_db(signal[:, :33000], music()[:, :33000]) > least_snr_db


def test_blocks_of_another_rate_are_the_samples_of_the_projects_resampling(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", music(length=200_000).T, 48000, subtype="FLOAT")
    blocks, notes = open_audio(tmp_path / "x.wav")
    blocks = list(blocks)
    assert len(blocks) > 3
    assert notes == ["resampled from 48000 Hz"]
    np.testing.assert_array_equal(torch.cat(blocks, -1).numpy(), resample(music(length=200_000), 48000, 44100))
    assert audio_header(tmp_path / "x.wav").frames == 200_000


def test_mono_is_in_both_channels(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.flac", music(channels=1).T, 44100, subtype="PCM_24")
    signal, notes = read_audio(tmp_path / "x.flac")
    assert notes == ["mono, the same in both ears"]
    np.testing.assert_allclose(signal.numpy(), music(channels=1).repeat(2, 0), rtol=0, atol=2**-23)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_clipped_samples_are_counted_and_loud_ones_are_not(subtype: str, tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 100 * np.arange(44100) / 44100)
    soundfile.write(tmp_path / "x.wav", np.clip(np.stack([2 * tone, tone], 1), -1, 1), 44100, subtype=subtype)
    assert read_audio(tmp_path / "x.wav")[1] == [f"clipped in the original ({beyond_second(2 * tone)} samples)"]
    soundfile.write(tmp_path / "loud.wav", 2 * np.stack([tone, tone], 1), 44100, subtype="FLOAT")
    assert read_audio(tmp_path / "loud.wav")[1] == []


def beyond_second(signal: np.ndarray) -> int:
    """Count the samples of each run beyond full scale but its first two, one by one."""
    count = run = 0
    for sample in signal:
        run = run + 1 if abs(sample) >= 1 else 0
        count += run > 2
    return count


def test_five_sound_tracks_are_the_mixture_and_the_stems_of_musdb18(tmp_path: Path) -> None:
    tracks = [music(seed) for seed in range(5)]
    write_with_pyav(tmp_path / "Song.stem.mp4", *tracks)
    signals, notes = read_stems(tmp_path / "Song.stem.mp4")
    assert list(signals) == ["mixture", "drums", "bass", "other", "vocals"]
    assert notes == []
    for track, (name, signal) in zip(tracks, signals.items(), strict=True):
        assert snr_db(signal, track) > 10
        assert tracks[stem_stream(tmp_path / "Song.STEM.mp4", name)] is track
    assert stem_stream(tmp_path / "vocals.mp4", "vocals") == 0


def test_the_first_of_several_sound_tracks_is_read_and_said(tmp_path: Path) -> None:
    write_with_pyav(tmp_path / "film.mp4", music(0), music(1))
    signal, notes = read_audio(tmp_path / "film.mp4")
    assert notes == ["number 1 of 2 sound tracks"]
    assert snr_db(signal, music(0)) > 10
    soundfile.write(tmp_path / "x.wav", music().T, 44100)
    for name, count in (("film.mp4", 2), ("x.wav", 1)):
        with pytest.raises(AudioError, match=rf"{name} has {count} sound track\(s\), not five \(mixture, drums"):
            read_stems(tmp_path / name)


def test_mp3_of_variable_rate_that_does_not_state_its_length_is_read_to_its_end(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV (the extra media) is not installed")
    signal = music(length=132300) * (np.arange(132300) < 66150)  # silence takes few bytes, which spoils a guess
    with av.open(str(tmp_path / "x.mp3"), "w", options={"write_xing": "0"}) as container:
        stream = container.add_stream("libmp3lame", rate=44100, layout="stereo", options={"q": "4", "flags": "+qscale"})
        frame = av.AudioFrame.from_ndarray(signal.astype(np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame) + stream.encode(None))
    assert soundfile.info(tmp_path / "x.mp3").frames < 132300
    assert read_audio(tmp_path / "x.mp3")[0].shape[-1] >= 132300


def write_bad(path: Path, case: str) -> None:
    """Write a file that cannot be used."""
    if case == "missing":
        return
    if case == "folder":
        path.mkdir()
    elif case == "text":
        path.write_text("no sound " * 99)
    elif case in ("six", "no samples", "nan", "rate"):
        samples = {"six": np.zeros((9, 6)), "no samples": np.zeros((0, 2)), "nan": np.full((9, 2), np.inf)}
        soundfile.write(path, samples.get(case, np.zeros((9, 2))), 8 if case == "rate" else 44100, subtype="FLOAT")
    elif case in ("cut mp3", "cut flac"):
        soundfile.write(path, music().T, 44100, format=case.split()[1].upper())
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif case == "video":
        av = pytest.importorskip("av", reason="PyAV (the extra media) is not installed")
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
            container.mux(stream.encode(frame) + stream.encode(None))
    else:
        options = {"movflags": "+faststart"} if case == "early end" else {}  # the index before the sound
        write_with_pyav(path, music(channels=6 if case == "six of AAC" else 2), options=options)
        content = path.read_bytes()
        if case == "cut mp4":
            path.write_bytes(content[: len(content) // 2])
        elif case == "broken mp4":  # each packet of the sound, which lies before its index
            path.write_bytes(content[:48] + bytes(1000) + content[1048:])
        elif case == "early end":
            with pytest.importorskip("av").open(str(path)) as container:
                sizes = [packet.size for packet in container.demux(audio=0)]
            path.write_bytes(content[: -sum(sizes[-10:])])
        elif case == "protected":
            path.write_bytes(content.replace(b"mp4a" + bytes(4), b"drms" + bytes(4)))
        elif case == "unknown codec":  # by its tag and by the type of object in its descriptor
            tag, mark = b"mp4a" + bytes(4), content.index(b"\x40\x15", content.index(b"esds"))
            path.write_bytes((content[:mark] + b"\xfe" + content[mark + 1 :]).replace(tag, b"zzzz" + bytes(4)))


@pytest.mark.parametrize(
    ("name", "case", "message"),
    [
        ("x.wav", "missing", "is not a file; check its name"),
        ("x.wav", "folder", "is not a file; check its name"),
        ("x.wav", "six", r"has 6 channels, not 1 or 2; mix it down to two, for example with ffmpeg -i FILE -ac 2"),
        ("x.wav", "no samples", "is empty: it holds 0 samples"),
        ("x.wav", "nan", r"holds 18 sample\(s\) that are NaN or infinite"),
        ("x.wav", "rate", "has a sample rate of 8 Hz, outside 1000 to 10000000; write it with its true rate"),
        ("x.mp3", "cut mp3", r"is cut off: \d+ of 33075 samples; copy or download it again"),
        ("x.flac", "cut flac", "cannot be decoded to its end; copy or download it again"),
        ("x.m4a", "six of AAC", "has 6 channels, not 1 or 2"),
        ("x.m4a", "cut mp4", r"cannot be read as audio \(Invalid data found when processing input\); copy or"),
        ("x.m4a", "broken mp4", r"cannot be read as audio \(Invalid data found when processing input\); copy or"),
        ("x.m4a", "early end", r"is cut off: \d+ of 33075 samples"),
        ("x.m4a", "protected", r"is protected against copying \(DRM\); get it unprotected"),
        ("x.m4a", "unknown codec", "is of a codec that FFmpeg does not know"),
        ("x.mp4", "video", "has no sound, only a picture; choose another"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(name: str, case: str, message: str, tmp_path: Path) -> None:
    write_bad(tmp_path / name, case)
    with pytest.raises(AudioError, match=f"{name} {message}"):
        read_audio(tmp_path / name)


@pytest.mark.parametrize("name", ["x.txt", "x.raw"])
def test_what_needs_pyav_says_how_to_install_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    write_bad(tmp_path / name, "text")
    with pytest.raises(
        AudioError, match=rf"{name} cannot be read by libsndfile \(it.*\); run pip install 'cadenza-comp"
    ):
        read_audio(tmp_path / name)
