import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyloudnorm
import pytest
import soundfile
import torch
from tolerances import LOUDNESS_LU
from torch import Tensor

from cadenza_lib.__main__ import main
from cadenza_lib.audio.acoustics import at_ears
from cadenza_lib.audio.heads import head_hrtf
from cadenza_lib.chain import pipeline
from cadenza_lib.chain.output import save_output
from cadenza_lib.chain.pipeline import ChainSettings, enhance, reference_remix
from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.errors import AudioError, ParameterError
from cadenza_lib.data.audiograms import read_listener
from cadenza_lib.data.corpus import AtEarSong
from cadenza_lib.data.tiny import tiny_listener, tiny_song
from cadenza_lib.listening import own_music
from cadenza_lib.listening.own_music import Enhanced, enhance_file, find_music, parse_gains
from cadenza_lib.scoring.pairs import score
from cadenza_lib.separation.separators import load, network_separator

RATE = 44100
GAINS_DB = {"vocals": 6.0, "bass": -3.0}
GAINS = torch.tensor([6.0, 0.0, -3.0, 0.0], dtype=torch.float64)
AUDIOGRAM = "L 250:20 1k:30 4k:60 R 250:15 1k:25 4k:50"
LIMITED = ChainSettings(output_stage="limiter")
BITS_16, BITS_24 = 2**-15, 2**-23  # a step of a file


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut a song of seconds into as many parts as hours have."""
    monkeypatch.setattr(own_music, "_BLOCK", 1 << 14)
    monkeypatch.setattr(own_music, "_STAGE_BLOCK_S", 0.5)
    monkeypatch.setattr(own_music, "_STAGE_PAST_S", 2.5)  # e^-12.5 of a gain is left after it


def write_stems(folder: Path, stems: Tensor) -> Path:
    folder.mkdir()
    for name, stem in zip(STEMS, stems, strict=True):
        soundfile.write(folder / f"{name}.wav", stem.numpy().T, RATE, subtype="PCM_16")
    return folder


def write_mixture(path: Path, duration_s: float = 1.0, rate: int = RATE, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, tiny_song(duration_s).mixture.numpy().T, rate, subtype=subtype)
    return path


def enhanced(song: Path, out: Path, chain: ChainSettings = LIMITED, **more: Any) -> Enhanced:
    systems = more.pop("systems", ["mixture"])
    return enhance_file(song, out, tiny_listener(), GAINS_DB, systems, chain, progress=False, **more)


@pytest.mark.parametrize(
    ("systems", "settings"),
    [
        (["oracle"], {"wiener_exponent": 1.5, "output_stage": "limiter", "output_level_db": 12.0}),
        (["mixture"], {"prescription": "camfit_linear"}),
        (["oracle", "mixture"], {"model_weights": (0.75, 0.25), "mixture_weight": 0.15, "output_stage": "compressor"}),
    ],
)
@pytest.mark.usefixtures("short_blocks")
def test_official_file_is_that_of_the_whole_song(systems: list[str], settings: dict[str, Any], tmp_path: Path) -> None:
    song, chain = tiny_song(4.0), ChainSettings(**settings)
    result = enhanced(
        write_stems(tmp_path / "song", song.stems), tmp_path / "out", chain, systems=systems, official=True
    )
    expected = enhance(song, [load(name)(song) for name in systems], GAINS, tiny_listener(), chain)
    file = save_output(expected, tmp_path / "expected")
    assert soundfile.info(result.file).subtype == soundfile.info(file).subtype
    signal, rate = soundfile.read(result.file)
    assert rate == 32000
    np.testing.assert_allclose(signal.T, expected.signal, rtol=0, atol=1.01 * BITS_16)
    np.testing.assert_allclose(result.clipped_share, expected.clipped_share, rtol=0, atol=1e-5)  # of 128,000 samples


@pytest.mark.usefixtures("short_blocks")
def test_heads_are_those_of_the_at_ear_simulation_and_haaqi_that_of_the_evaluation(tmp_path: Path) -> None:
    dry = tiny_song(1.0)
    result = enhanced(
        write_stems(tmp_path / "song", dry.stems), tmp_path / "out", systems=["oracle"], heads="mean", official=True
    )
    hrtf = head_hrtf(-30.0, 30.0)
    song = AtEarSong("song", at_ears(dry.stems, hrtf), at_ears(dry.mixture, hrtf))
    expected = enhance(song, [song.stems], GAINS, tiny_listener(), LIMITED)
    np.testing.assert_allclose(soundfile.read(result.file)[0].T, expected.signal, rtol=0, atol=1.01 * BITS_16)
    haaqi = score(expected, reference_remix(song, GAINS), tiny_listener(), "song").haaqi
    assert result.haaqi == pytest.approx(haaqi, abs=1e-4)  # of float32


@pytest.mark.parametrize("duration_s", [5.0, 21.0])
def test_network_hears_the_whole_song_in_its_chunks(
    duration_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bend(torch.nn.Module):
        def forward(self, mix: Tensor) -> Tensor:
            here = torch.linspace(0, 1, mix.shape[-1])  # so that each chunk gives something else for a sample
            return torch.stack([torch.tanh(mix + place * here) for place in range(4)], 1)

    monkeypatch.setattr(own_music, "load_network", lambda _: (Bend(), STEMS))
    song, chain = tiny_song(duration_s), ChainSettings(wiener_exponent=1.0)
    result = enhanced(
        write_mixture(tmp_path / "song.wav", duration_s), tmp_path / "out", chain, systems=["bend"], official=True
    )
    stems = network_separator(Bend(), STEMS, torch.device("cpu"))(song)
    expected = enhance(song, [stems], GAINS, tiny_listener(), chain)
    np.testing.assert_allclose(soundfile.read(result.file)[0].T, expected.signal, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rate", [44100, 48000, 22050])
def test_without_gains_and_hearing_loss_the_result_is_the_song(rate: int, tmp_path: Path) -> None:
    generator, length = np.random.default_rng(0), 2 * rate
    spectrum = np.fft.rfft(generator.normal(size=(2, length)))
    spectrum[:, 2 * 8000 :] = 0  # Hz: below what resampling takes away
    signal = 0.05 * np.fft.irfft(spectrum, length)
    soundfile.write(tmp_path / "song.wav", signal.T, rate, subtype="FLOAT")
    normal = read_listener("L 250:0 8k:0 R 250:0 8k:0")
    result = enhance_file(tmp_path / "song.wav", tmp_path / "out", normal, {}, ["mixture"], LIMITED, progress=False)
    written, written_rate = soundfile.read(result.file)
    assert soundfile.info(result.file).subtype == "PCM_24"
    assert written_rate == max(rate, 32000)
    if rate == written_rate:
        inside = slice(rate // 10, -rate // 10)  # the ends ring
        tolerance = 2 * BITS_24 if rate == RATE else 1e-4 * 0.05  # -80 dB: resampled there and back
        assert len(written) == length
        np.testing.assert_allclose(written[inside].T, signal[:, inside], rtol=0, atol=tolerance)


@pytest.mark.parametrize("stage", ["limiter", "compressor"])
def test_an_output_stage_keeps_its_time_constants_at_another_rate(stage: str) -> None:
    level_db = []
    for rate in (32000, 48000):
        time_s = np.arange(2 * rate) / rate
        burst = np.sin(2 * np.pi * 1000 * time_s) * np.where((time_s > 0.5) & (time_s < 1), 4.0, 0.25)
        limiter = own_music._at_rate(own_music.output_stage(stage), rate)
        limited = limiter.limit(torch.from_numpy(np.tile(burst, (2, 1))), tiny_listener())
        level_db.append(20 * np.log10(limited[0].abs().unfold(-1, rate // 100, rate // 100).amax(-1).numpy()))
    assert np.abs(level_db[0] - level_db[1])[55:].max() < 0.2  # of 10 ms each; with constants for 32 kHz 0.6 and 1.8 dB


def test_page_and_measures_tell_loudness_as_pyloudnorm_does(tmp_path: Path) -> None:
    song = write_mixture(tmp_path / "song.wav")
    result = enhanced(song, tmp_path / "out", ChainSettings(output_stage="limiter", output_level_db=6.0))
    signal, rate = soundfile.read(result.file)
    loudness_lufs = pyloudnorm.Meter(rate).integrated_loudness(signal)
    assert result.loudness_lufs["result"] == pytest.approx(loudness_lufs, abs=1e-4)  # 24 bits
    original = pyloudnorm.Meter(RATE).integrated_loudness(soundfile.read(song)[0])
    assert result.loudness_lufs["original"] == pytest.approx(original, abs=10 * LOUDNESS_LU)
    assert result.loudness_lufs["remix"] == pytest.approx(original, abs=1e-5)
    assert [take.name for take in result.takes] == ["Original", "Remix", "Amplified", "Result"]
    assert result.haaqi is None
    page = result.page.read_text()
    assert "song for tiny (vocals +6 dB, bass -3 dB)" in page
    assert f"{result.clipped_share[1]:.2%}" in page
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".lock", "enhanced.flac", "index.html", "measures.json", "settings.json",
    ]  # fmt: skip


def test_takes_of_all_stages_are_aligned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_music, "_EXCERPT_S", 0.5)
    song = write_mixture(tmp_path / "song.wav", 2.0)
    normal = read_listener("L 250:0 8k:0 R 250:0 8k:0")
    for official in (False, True):
        takes = enhance_file(
            song, tmp_path / str(official), normal, {}, ["mixture"], LIMITED, official=official, progress=False
        ).takes
        assert {take.signal.shape[1] / take.sample_rate for take in takes} == {0.5}
        if not official:
            for take in takes:
                np.testing.assert_allclose(take.signal, takes[0].signal, rtol=0, atol=1e-6)
        else:
            spectra = [np.fft.rfft(take.signal[0])[200:300] for take in takes]  # 400 to 600 Hz
            phase = np.angle(np.vdot(spectra[0], spectra[-1]))
            assert abs(phase) < 2 * np.pi * 500 / 32000  # within a sample


@pytest.mark.usefixtures("short_blocks")
def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    song, blocks = write_mixture(tmp_path / "song.wav", 2.0), []

    def stopped_after(count: int) -> Callable[..., Tensor]:
        def mix_down(*arguments: Any) -> Tensor:
            if len(blocks) == count:
                raise KeyboardInterrupt
            blocks.append(0)
            return pipeline.mix_down(*arguments)

        return mix_down

    whole = enhanced(song, tmp_path / "whole")
    monkeypatch.setattr(own_music, "mix_down", stopped_after(4))
    with pytest.raises(KeyboardInterrupt):
        enhanced(song, tmp_path / "out")
    with (tmp_path / "out/.work/remix.growing").open("ab") as file:
        file.write(b"torn")
    monkeypatch.setattr(own_music, "mix_down", stopped_after(100))
    result = enhanced(song, tmp_path / "out")
    assert len(blocks) == -(-2 * RATE // (1 << 14))
    assert result.file.read_bytes() == whole.file.read_bytes()
    assert enhanced(song, tmp_path / "out").loudness_lufs == whole.loudness_lufs  # kept, not computed again
    assert len(blocks) == -(-2 * RATE // (1 << 14))


def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    song = write_mixture(tmp_path / "song.wav")

    def publish(*_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(own_music, "publish", publish)
        with pytest.raises(ParameterError, match=r"remix cannot be written \(No space left on device\)"):
            enhanced(song, tmp_path / "out")
    assert not (tmp_path / "out/enhanced.flac").exists()
    assert enhanced(song, tmp_path / "out").file.exists()


def test_earlier_results_are_replaced_only_by_force(tmp_path: Path) -> None:
    song, out = write_mixture(tmp_path / "song.wav"), tmp_path / "out"
    first = enhanced(song, out)
    with pytest.raises(ParameterError, match=r"output_level_db 0.0, not -20.0; choose another directory"):
        enhanced(song, out, ChainSettings(output_stage="limiter", output_level_db=-20.0))
    quieter = enhanced(song, out, ChainSettings(output_stage="limiter", output_level_db=-20.0), force=True)
    assert quieter.loudness_lufs["result"] < first.loudness_lufs["result"] - 3
    (out / "settings.json").unlink()
    with pytest.raises(ParameterError, match=r"enhanced.flac exists already; .* --force"):
        enhanced(song, out)


def test_folder_is_a_song_or_has_songs(tmp_path: Path) -> None:
    stems = write_stems(tmp_path / "stems", tiny_song(0.5).stems)
    assert find_music(stems) == [stems]
    (tmp_path / "album").mkdir()
    songs = [write_mixture(tmp_path / "album" / name) for name in ("a.flac", "b.wav")]
    (tmp_path / "album/cover.jpg").touch()
    assert find_music(tmp_path / "album") == songs
    (stems / "bass.wav").unlink()
    with pytest.raises(AudioError, match=r"bass.wav is not a file"):
        enhanced(stems, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="has no sound files"):
        find_music(tmp_path / "empty")


def test_command_enhances_each_song_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "album").mkdir()
    for name in ("a", "b"):
        write_mixture(tmp_path / f"album/{name}.wav")
    command = ["enhance", str(tmp_path / "album"), "--audiogram", AUDIOGRAM, "--gains", "vocals=+6"]
    assert main([*command, "--system", "mixture", "--official", "-o", str(tmp_path / "out")]) == 0
    pages = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert pages == [tmp_path / f"out/{name}.wav/index.html" for name in ("a", "b")]
    assert soundfile.info(pages[1].with_name("enhanced.flac")).samplerate == 32000


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--audiogram", ""], "'L 250:20 1k:30 4k:60 R"),
        (["--gains", "vocals=25"], "gain of vocals, 25.0 dB, must lie within 20 dB up or down"),
        (["--gains", "vocals=nan"], "must lie within"),
        (["--gains", "guitar=3"], "the stem 'guitar'; use vocals, drums"),
        (["--gains", "vocals"], "have 'vocals'; write a number"),
        (["--system", "magic"], "Separator 'magic' is unknown"),
        (["--system", "oracle"], "has no true stems"),
        (["--weights", "0.5,0.5"], "2 values for 1 models"),
        (["--weights", "half"], "'half' are not numbers"),
        (["--mixture-weight", "2"], "mixture_weight 2.0 must lie"),
        (["--output-stage", "soft"], "output_stage 'soft' is unknown"),
        (["--prescription", "dsl"], "prescription 'dsl' is unknown"),
        (["--heads", "round"], "Heads 'round' are unknown"),
        (["--heads", "twin:hlp_9999"], "'hlp_9999' is not in"),
    ],
)
def test_bad_arguments_are_one_sentence_and_leave_nothing(
    more: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    song, out = write_mixture(tmp_path / "song.wav"), tmp_path / "out"
    command = ["enhance", str(song), "--audiogram", AUDIOGRAM, "-o", str(out)]
    assert main([*command, *([] if "--system" in more else ["--system", "mixture"]), *more]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("cadenza: error: ")
    assert error.count("\n") == 1
    assert not out.exists()


def _nan(path: Path) -> None:
    signal = tiny_song(1.0).mixture.numpy().T
    signal[40000] = np.nan  # not in the first block
    soundfile.write(path, signal, RATE, subtype="FLOAT")


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda path: path.write_text("no music"), "cannot be read"),
        (lambda path: soundfile.write(path, np.zeros((0, 2)), RATE), "is empty"),
        (lambda path: soundfile.write(path, np.zeros((RATE, 2)), RATE), "quieter than -70 LUFS throughout"),
        (lambda path: write_mixture(path, 0.3), "lasts 0.300 s, but its loudness needs 0.4 s"),
        (lambda path: path.mkdir(), "has no sound files"),
        (lambda _: None, "is not a file"),
        (_nan, "NaN"),
    ],
)
def test_bad_files_are_one_sentence_and_leave_nothing(
    write: Callable[[Path], object], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    song, out = tmp_path / "song.wav", tmp_path / "new/out"
    write(song)
    out.parent.mkdir()
    assert main(["enhance", str(song), "--audiogram", AUDIOGRAM, "--system", "mixture", "-o", str(out)]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert "cadenza: error: " in error
    assert not out.exists()


def test_gains_are_read_from_text() -> None:
    assert parse_gains("vocals=+6, bass: -3.5") == {"vocals": 6.0, "bass": -3.5}
    assert parse_gains("") == {}
