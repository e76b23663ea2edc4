"""Own music for one listener: a sound file of any length through the whole chain, with a page to listen to.

The signals are those of `chain.pipeline.enhance` within the rounding of float32, but computed block by block. Meanwhile
they lie in a hidden folder of the output, where an hour takes 5 GB, and 5 GB more with true stems. A run that was
stopped goes on where its separation was.

The result has the song's own sample rate, between 32 and 192 kHz, and 24 bits. If it is to be official, it is like the
files of an evaluation: 32 kHz, 16 bits, and late by the delay of the prescription's filters.
"""

import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from cadenza_lib.audio.acoustics import INT16_SCALE, check_signal, loudspeakers_to_ears
from cadenza_lib.audio.heads import head_hrtf
from cadenza_lib.audio.loudness import BLOCK_S, integrated_loudness, matching_gain
from cadenza_lib.audio.media import AUDIO_SUFFIXES, STEM_SUFFIX, audio_header, open_audio, stem_stream
from cadenza_lib.audio.resampling import resample_blocks
from cadenza_lib.chain.dynamics import Compressor, Limiter
from cadenza_lib.chain.fitting import FIR_ORDER, filter_ears, linear_prescription
from cadenza_lib.chain.fusion import combine, post_filter, simplex_weights
from cadenza_lib.chain.output import OutputStage, output_stage, play
from cadenza_lib.chain.pipeline import ChainSettings, mix_down, remix, render
from cadenza_lib.core.conventions import OUTPUT_SAMPLE_RATE, SAMPLE_RATE, STEMS
from cadenza_lib.core.documents import as_tuples, read_json, write_json
from cadenza_lib.core.errors import AudioError, ParameterError
from cadenza_lib.core.files import atomic_path, locked, make_directory, publish, write_errors
from cadenza_lib.core.identity import claim, digest, song_file_identity
from cadenza_lib.core.paths import absolute_path, list_folder
from cadenza_lib.data.corpus import AtEarSong
from cadenza_lib.data.listeners import Listener, audiogram_identity
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.data.songs import SIGNALS
from cadenza_lib.data.sources import stem_files
from cadenza_lib.listening.player import Player, Take
from cadenza_lib.scoring.pairs import score
from cadenza_lib.separation.chunking import SEGMENT_S, chunked_part
from cadenza_lib.separation.estimates import model_identity
from cadenza_lib.separation.separators import (
    BOUNDS,
    SEPARATORS,
    load,
    load_network,
    normalises,
    select_device,
    sum_to_stems,
)  # fmt: skip

__all__ = ["Enhanced", "enhance_file", "find_music", "parse_gains"]

_MAX_GAIN_DB = 20.0
"""Largest gain of a stem, up or down; the challenge's are up to 10 dB."""

_EXCERPT_S = 120.0  # of longer songs, the middle: of the page, which contains its sound, and of HAAQI
_BLOCK = 1 << 19  # samples at a time; a multiple of the hop of `wiener`
_REACH = 4096  # samples on either side of a block that decide what `wiener` makes of it: the length of its windows
_STAGE_BLOCK_S, _STAGE_PAST_S, _STAGE_FUTURE_S = 60.0, 10.0, 0.2  # stages forget by e^-50 in this past
_RATES = (OUTPUT_SAMPLE_RATE, 192_000)  # Hz; below, the compressor's bands do not fit
_FRAME_BYTES = 8  # of both channels in float32

_SETTINGS, _MEASURES, _PAGE, _WORK = "settings.json", "measures.json", "index.html", ".work"
_RESULTS = ("enhanced.flac", "enhanced.wav", _MEASURES, _PAGE)

_LOGGER = logging.getLogger(__name__)

Part = Callable[[int, int], Tensor]  # of stems, from a sample to another


@dataclass(frozen=True, kw_only=True)
class _Settings(ChainSettings):
    """What decides a result; files, weights and the audiogram are in it by their identities."""

    song: str
    listener: str
    gains_db: tuple[float, ...]
    system: tuple[str, ...]
    heads: str
    official: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gains_db", "system"):
            object.__setattr__(self, name, as_tuples(getattr(self, name)))


@dataclass(frozen=True)
class Enhanced:
    """A finished result, and what was measured of it."""

    file: Path
    page: Path
    loudness_lufs: dict[str, float]  # of the whole "original", "remix", "amplified" and "result"
    clipped_share: tuple[float, float]  # of samples beyond full scale before the output stage, of each ear
    haaqi: tuple[float, float] | None  # of each ear, for the excerpt of the page; None without true stems
    takes: tuple[Take, ...]  # of the page: original, remix, amplified, result; none if all was there already


@dataclass(frozen=True)
class _Signal:
    """A signal in a file of float32 `(time, channel)`, times a gain."""

    path: Path
    sample_rate: int = SAMPLE_RATE
    gain: float = 1.0

    @property
    def length(self) -> int:
        return self.path.stat().st_size // _FRAME_BYTES

    def part(self, start: int, stop: int) -> Tensor:
        """Return samples of the signal, which is silent after its end, `(channel, stop - start)`, float64."""
        samples = np.fromfile(self.path, np.float32, 2 * (stop - start), offset=start * _FRAME_BYTES)
        padded = np.zeros((2, stop - start))
        padded[:, : len(samples) // 2] = samples.reshape(-1, 2).T
        return torch.from_numpy(padded * self.gain)

    def loudness_lufs(self) -> float:
        samples = np.memmap(self.path, np.float32, mode="c").reshape(-1, 2).T  # not "r", of which torch warns
        measured = integrated_loudness(torch.from_numpy(samples), self.sample_rate)
        return float(measured) + 20 * math.log10(self.gain)

    def as_loud_as(self, other: "_Signal") -> "_Signal":
        loudness_lufs = torch.tensor([self.loudness_lufs(), other.loudness_lufs()], dtype=torch.float64)
        return replace(self, gain=self.gain * float(matching_gain(*loudness_lufs)))


def find_music(source: Path | str) -> list[Path]:
    """Return the songs of a path: itself, if it is a sound file or a folder of four stems, or else the files in it.

    Raises
    ------
    AudioError
        If a folder has no sound files.
    """
    source = absolute_path(source)
    if not source.is_dir() or _stems(source):
        return [source]
    if files := [path for path in list_folder(source) if path.suffix.lower() in AUDIO_SUFFIXES]:
        return files
    raise AudioError(f"{source} has no sound files; give a file, a folder of four stems, or a folder of songs.")


def parse_gains(text: str) -> dict[str, float]:
    """Return gains in dB by stem from a text with equals signs or colons.

    Raises
    ------
    ParameterError
        If it has another form.

    >>> parse_gains("vocals=+6, bass=-3")
    {'vocals': 6.0, 'bass': -3.0}
    """
    gains_db: dict[str, float] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        stem, _, number = map(str.strip, part.replace(":", "=").partition("="))
        try:
            gains_db |= {stem: float(number)}
        except ValueError as error:
            remedy = "write a number in dB for each stem, as in vocals=+6,bass=-3"
            raise ParameterError(f"Gains {text!r} have {part!r}; {remedy}.") from error
    return gains_db


def enhance_file(
    song: Path | str,
    out_dir: Path | str,
    listener: Listener,
    gains_db: Mapping[str, float],
    systems: Sequence[str],
    chain: ChainSettings,
    heads: str = "none",
    official: bool = False,
    force: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> Enhanced:
    """Enhance one song; write `enhanced.flac` (WAV if the output stage sets no limit), `index.html` and measures.

    A result that is there is not computed again, and a run that was stopped goes on.

    Parameters
    ----------
    song
        A sound file, or a folder of four stems, whose sum is the mixture if that has no file of its own.
    out_dir
        Directory for this song alone.
    listener
        Who listens.
    gains_db
        By stem, within 20 dB up or down; 0 dB for those that are not named.
    systems
        Separators by name or checkpoint, combined with the `model_weights` of the chain.
    chain
        Its settings.
    heads
        How the music gets to the ears: "none" for headphones, or from loudspeakers by way of the "mean" head (30
        degrees to either side) or the head position of a corpus, such as "twin:hlp_0001".
    official
        Whether the file is to be like those of an evaluation.
    force
        Compute again, and replace what an earlier run wrote here.
    device
        As for `separation.load`.
    progress
        Whether to show a bar.

    Raises
    ------
    AudioError
        If a file cannot be used, or the song is silent or too short; then nothing is left in `out_dir`.
    CorpusError, ModelError, ParameterError
        If an argument is unknown or out of bounds, or `out_dir` holds something else or cannot be written.
    """
    song, out_dir = absolute_path(song), absolute_path(out_dir)
    files = _files(song)
    headers = [audio_header(path, stem_stream(path, signal)) for signal, path in files.items()]
    rate = OUTPUT_SAMPLE_RATE if official else min(max(headers[0].sample_rate, _RATES[0]), _RATES[1])
    gains = _check_gains(gains_db)
    if "oracle" in systems and len(files) == 1:
        raise ParameterError(f"{song} has no true stems for the system oracle; give a folder of stems.")
    simplex_weights(chain.model_weights, len(systems), len(STEMS))
    firs = linear_prescription(chain.prescription, "what amplifies block by block").firs(listener)
    stage, hrtf = _at_rate(output_stage(chain.output_stage), rate), _hrtf(heads)
    networks = [None if system in BOUNDS else load_network(system) for system in systems]
    placed = select_device(device)
    settings = _Settings(
        **asdict(chain),
        song=digest({signal: song_file_identity(path) for signal, path in files.items()}),
        listener=audiogram_identity(listener),
        gains_db=tuple(gains.tolist()),
        system=tuple(map(model_identity, systems)),
        heads=heads,
        official=official,
    )
    with _claimed(out_dir, settings, force) as work:
        if work is None:
            return _read(out_dir)
        signals = _decoded(work, files, hrtf)
        mixture, stems = signals["mixture"], [signals[stem] for stem in STEMS if stem in signals]
        separations = [
            _bound(system, mixture, stems) if network is None else _network(system, *network, mixture, placed)
            for system, network in zip(systems, networks, strict=True)
        ]
        remixed = _remixed(work / "remix", mixture, separations, gains, chain, progress).as_loud_as(mixture)
        amplified = _amplified(work / "amplified", remixed, firs, rate, official)
        loud = replace(amplified, gain=10 ** (chain.output_level_db / 20))
        blocks = _limited(loud, stage, listener, official)
        result = _written(work / "result", tqdm(blocks, "output", disable=not progress, unit="min"), rate)
        stages = {"original": mixture, "remix": remixed, "amplified": loud, "result": result}
        takes = _takes(stages, official)
        haaqi = _haaqi(song.stem, stems, stages, gains, listener, chain) if stems else None
        file = _encoded(result, out_dir, stage.is_16_bit, official)
        measures = {
            "file": file.name,
            "loudness_lufs": {name: signal.loudness_lufs() for name, signal in stages.items()},
            "clipped_share": _share_beyond_full_scale(loud),
            "haaqi": haaqi,
        }
        Player(takes, _title(song.stem, listener, gains, chain, measures)).save(out_dir / _PAGE)
        write_json(out_dir / _MEASURES, measures)
    return replace(_read(out_dir), takes=tuple(takes))


def _stems(folder: Path) -> dict[str, Path]:
    """Return the files of a folder that has two stems at least, by signal; they need not exist."""
    files = {signal: paths[0] for signal, paths in stem_files(folder).items()}
    return files if sum(path.exists() for path in files.values()) > 1 else {}


def _files(song: Path) -> dict[str, Path]:
    """Return the file of each signal that is there: the mixture, the stems, or both."""
    if not song.is_dir():
        return dict.fromkeys(SIGNALS if song.name.lower().endswith(STEM_SUFFIX) else ["mixture"], song)
    if not (files := _stems(song)):
        raise AudioError(f"{song} does not have the stems {', '.join(STEMS)} of a song; name a file in it.")
    return files


def _check_gains(gains_db: Mapping[str, float]) -> Tensor:
    for stem, gain_db in gains_db.items():
        if stem not in STEMS:
            raise ParameterError(f"Gains name the stem {stem!r}; use {', '.join(STEMS)}.")
        if not abs(gain_db) <= _MAX_GAIN_DB:
            raise ParameterError(f"The gain of {stem}, {gain_db} dB, must lie within {_MAX_GAIN_DB:g} dB up or down.")
    return torch.tensor([gains_db.get(stem, 0.0) for stem in STEMS], dtype=torch.float64)


def _at_rate(stage: OutputStage, sample_rate: int) -> OutputStage:
    return replace(stage, sample_rate=sample_rate) if isinstance(stage, Limiter | Compressor) else stage


def _hrtf(heads: str) -> Tensor | None:
    if heads == "none":
        return None
    if heads == "mean":
        return head_hrtf(-30.0, 30.0)
    corpus, colon, position = heads.rpartition(":")
    if not colon:
        raise ParameterError(f"Heads {heads!r} are unknown; use none, mean, or a head position as in twin:hlp_0001.")
    return open_corpus(corpus).hrtf(position)


@contextmanager
def _claimed(out_dir: Path, settings: _Settings, force: bool) -> Iterator[Path | None]:
    """Yield the folder for signals, which a finished run removes, or None if the result is there already."""
    present = [out_dir / name for name in _RESULTS if (out_dir / name).exists()]
    if present and not (out_dir / _SETTINGS).exists() and not force:
        raise ParameterError(f"{present[0]} exists already; choose another directory, or replace it with --force.")
    make_directory(out_dir)
    with locked(out_dir / ".lock"):
        if force:
            _remove(out_dir)
        claim(out_dir / _SETTINGS, settings)
        if (out_dir / _MEASURES).exists():
            yield None
        else:
            try:
                yield make_directory(out_dir / _WORK)
            except AudioError:  # the song cannot be used, now or later; all else can go on
                _remove(out_dir)
                (out_dir / ".lock").unlink()
                with suppress(OSError):  # it is not empty
                    out_dir.rmdir()
                raise
        shutil.rmtree(out_dir / _WORK, ignore_errors=True)


def _remove(out_dir: Path) -> None:
    """Remove what a run has written."""
    shutil.rmtree(out_dir / _WORK, ignore_errors=True)
    for name in (_SETTINGS, *_RESULTS):
        (out_dir / name).unlink(missing_ok=True)


def _read(out_dir: Path) -> Enhanced:
    measures = read_json(out_dir / _MEASURES)
    haaqi = measures["haaqi"] and tuple(measures["haaqi"])
    clipped_share = tuple(measures["clipped_share"])
    return Enhanced(
        out_dir / measures["file"], out_dir / _PAGE, measures["loudness_lufs"], clipped_share, haaqi, takes=()
    )


def _spans(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    return [(begin, min(begin + size, stop)) for begin in range(start, stop, size)]


def _written(path: Path, blocks: Iterable[Tensor], sample_rate: int = SAMPLE_RATE) -> _Signal:
    """Write blocks `(channel, time)` to a file, if it is not there from a run that was stopped."""
    if not path.exists():
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            for block in blocks:
                file.write(block.T.float().contiguous().numpy().tobytes())
    return _Signal(path, sample_rate)


def _decoded(work: Path, files: Mapping[str, Path], hrtf: Tensor | None) -> dict[str, _Signal]:
    """Return mixture and stems as far as they are there, at the ears if there is a head between."""
    dry = {signal: _written(work / signal, _read_blocks(path, signal)) for signal, path in files.items()}
    if "mixture" not in dry:
        length = max(stem.length for stem in dry.values())
        sums = (torch.stack([stem.part(*span) for stem in dry.values()]).sum(0) for span in _spans(0, length, _BLOCK))
        dry["mixture"] = _written(work / "mixture", sums)
    place, mixture = next(iter(files.values())), dry["mixture"]
    if (duration_s := mixture.length / SAMPLE_RATE) < BLOCK_S:
        raise AudioError(f"{place} lasts {duration_s:.3f} s, but its loudness needs {BLOCK_S} s; choose another song.")
    if not math.isfinite(mixture.loudness_lufs()):
        raise AudioError(f"{place} is quieter than -70 LUFS throughout, so it has no loudness; choose another song.")
    return dry if hrtf is None else {name: _at_ears(signal, hrtf) for name, signal in dry.items()}


def _read_blocks(path: Path, signal: str) -> Iterator[Tensor]:
    blocks, notes = open_audio(path, SAMPLE_RATE, stem_stream(path, signal))
    yield from blocks
    if notes:
        _LOGGER.info("%s: %s.", path.name, ", ".join(notes))


def _at_ears(dry: _Signal, hrtf: Tensor) -> _Signal:
    """Return what `acoustics.at_ears` returns."""
    lead = hrtf.shape[-1] - 1

    def heard(start: int, stop: int) -> Tensor:
        begin = max(0, start - lead)
        return loudspeakers_to_ears(dry.part(begin, stop), hrtf)[:, start - begin :]

    spans = _spans(0, dry.length, _BLOCK)
    return _written(dry.path.with_suffix(".heard"), (heard(*span) for span in spans)).as_loud_as(dry)


def _bound(system: str, mixture: _Signal, stems: Sequence[_Signal]) -> Part:
    """Return a separator that needs no network, part by part."""
    separator = load(system)

    def part(start: int, stop: int) -> Tensor:
        there = mixture.part(start, stop)
        true = torch.stack([stem.part(start, stop) for stem in stems]) if stems else there.new_empty(0)
        return separator(AtEarSong(system, true, there))

    return part


def _network(
    system: str, network: torch.nn.Module, sources: Sequence[str], mixture: _Signal, device: torch.device
) -> Part:
    """Return what `separators.network_separator` makes of the whole mixture, part by part."""
    network, length = network.to(device), mixture.length
    mean, deviation = 0.0, 1.0
    if normalises(network, SEPARATORS[system].normalisation if system in SEPARATORS else None):
        spans = _spans(0, length, _BLOCK)
        mean = sum(float(mixture.part(*span).mean(0).sum()) for span in spans) / length
        power = sum(float((mixture.part(*span).mean(0) - mean).square().sum()) for span in spans) / length
        deviation = math.sqrt(power)

    @lru_cache(maxsize=4)  # neighbouring parts share chunks
    def estimate(start: int) -> Tensor:
        chunk = mixture.part(start, min(start + int(SEGMENT_S * SAMPLE_RATE), length))
        with torch.no_grad():
            normalised = ((chunk - mean) / deviation).to(device, torch.float32)
            return sum_to_stems(network(normalised[None])[0], sources).cpu()

    def part(start: int, stop: int) -> Tensor:
        if deviation == 0:  # nothing to separate
            return torch.zeros(len(STEMS), 2, stop - start, dtype=torch.float64)
        stems = chunked_part(estimate, length, start, stop).double() * deviation + mean
        check_signal(stems, f"What {system} makes of the song")
        return stems

    return part


def _remixed(
    path: Path, mixture: _Signal, separations: Sequence[Part], gains: Tensor, chain: ChainSettings, progress: bool
) -> _Signal:
    """Return the remix at any loudness; its file grows by one block after the other, and goes on where it ended."""
    growing, length = path.with_suffix(".growing"), mixture.length
    reach = _REACH if chain.wiener_exponent else 0

    def mixed(start: int, stop: int) -> Tensor:
        begin, end = max(0, start - reach), min(stop + reach, length)
        near, inside = mixture.part(begin, end), slice(start - begin, stop - begin)
        estimates = [post_filter(part(begin, end), near, chain.wiener_exponent)[..., inside] for part in separations]
        return mix_down(combine(estimates, chain.model_weights), gains, near[:, inside], chain)

    if not path.exists():
        with write_errors(growing):
            file = growing.open("ab")
            file.truncate(file.tell() // (_BLOCK * _FRAME_BYTES) * _BLOCK * _FRAME_BYTES)
        with file:
            spans = _spans(0, length, _BLOCK)
            done = growing.stat().st_size // (_BLOCK * _FRAME_BYTES)
            for span in tqdm(spans[done:], "remix", len(spans), initial=done, disable=not progress, unit="block"):
                samples = mixed(*span).T.float().contiguous().numpy().tobytes()
                with write_errors(growing):
                    file.write(samples)
                    file.flush()
        with write_errors(path):
            publish(growing, path)
    return _Signal(path)


def _amplified(path: Path, remixed: _Signal, firs: Tensor, sample_rate: int, official: bool) -> _Signal:
    """Return what is amplified, at the rate of the result; without the delay of the filters if not official."""
    delay, length = FIR_ORDER // 2, remixed.length
    first, last = (0, length + FIR_ORDER) if official else (delay, length + delay)

    def filtered(start: int, stop: int) -> Tensor:
        begin = max(0, start - FIR_ORDER)
        return filter_ears(remixed.part(begin, min(stop, length)), firs)[:, start - begin : stop - begin]

    blocks: Iterator[Tensor] = (filtered(*span) for span in _spans(first, last, _BLOCK))
    if sample_rate != SAMPLE_RATE:
        arrays = resample_blocks((block.float().numpy() for block in blocks), SAMPLE_RATE, sample_rate)
        blocks = map(torch.from_numpy, arrays)
    return _written(path, blocks, sample_rate)


def _limited(loud: _Signal, stage: OutputStage, listener: Listener, official: bool) -> Iterator[Tensor]:
    """Yield minutes of what the hearing aids play; each begins early enough for the stage to be in its state."""
    past, future = round(_STAGE_PAST_S * loud.sample_rate), round(_STAGE_FUTURE_S * loud.sample_rate)
    for start, stop in _spans(0, loud.length, round(_STAGE_BLOCK_S * loud.sample_rate)):
        begin = max(0, start - past)
        signal = loud.part(begin, min(stop + future, loud.length))
        if official:
            limited = torch.from_numpy(play(signal.numpy(), 0.0, stage, listener).signal)
        else:
            limited = stage.limit(signal, listener)
            limited = limited.clamp(-1, 1) if stage.is_16_bit else limited
        yield limited[:, start - begin : stop - begin]


def _share_beyond_full_scale(loud: _Signal) -> list[float]:
    """Return the share of samples of each ear that the output stage has to bring within full scale."""
    counts = [(loud.part(*span).abs() > 1).sum(-1) for span in _spans(0, loud.length, _BLOCK)]
    return (torch.stack(counts).sum(0) / loud.length).tolist()


def _encoded(result: _Signal, out_dir: Path, is_limited: bool, official: bool) -> Path:
    """Write the file of the result, as `output.save_output` does if it is official."""
    file_format, subtype = ("FLAC", "PCM_16" if official else "PCM_24") if is_limited else ("WAV", "FLOAT")
    path = out_dir / f"enhanced.{file_format.lower()}"
    with (
        atomic_path(path) as temporary,
        soundfile.SoundFile(temporary, "w", result.sample_rate, 2, subtype, format=file_format) as file,
    ):
        for span in _spans(0, result.length, _BLOCK):
            samples = result.part(*span).T.numpy()
            file.write((samples * INT16_SCALE).astype(np.int16) if subtype == "PCM_16" else samples)
    return path


def _excerpt(length: int) -> tuple[int, int]:
    """Return the samples of the middle of a song at 44.1 kHz, or of all if it is short."""
    size = min(length, round(_EXCERPT_S * SAMPLE_RATE))
    return (length - size) // 2, (length - size) // 2 + size


def _takes(stages: Mapping[str, _Signal], official: bool) -> list[Take]:
    """Return the excerpt at each stage, all from the same moment on."""
    takes = []
    for name, signal in stages.items():
        delay = FIR_ORDER // 2 if official and name in ("amplified", "result") else 0
        span = [round((t + delay) * signal.sample_rate / SAMPLE_RATE) for t in _excerpt(stages["original"].length)]
        takes.append(Take(name.capitalize(), signal.part(*span).numpy(), signal.sample_rate))
    return takes


def _haaqi(
    name: str,
    stems: Sequence[_Signal],
    stages: Mapping[str, _Signal],
    gains: Tensor,
    listener: Listener,
    chain: ChainSettings,
) -> tuple[float, float] | None:
    """Return HAAQI of the excerpt against the true stems, None if an ear hears nothing in it."""
    span = _excerpt(stages["original"].length)
    reference = remix(torch.stack([stem.part(*span) for stem in stems]), gains, stages["original"].part(*span))
    if not reference.any(-1).all():
        return None
    return score(render(stages["remix"].part(*span), listener, chain), reference, listener, name, chain).haaqi


def _title(name: str, listener: Listener, gains: Tensor, chain: ChainSettings, measures: Mapping[str, Any]) -> str:
    """Return what the page says above the player."""
    asked = ", ".join(f"{stem} {gain_db:+g} dB" for stem, gain_db in zip(STEMS, gains.tolist(), strict=True) if gain_db)
    left, right = measures["clipped_share"]
    title = (
        f"{name} for {listener.id} ({asked or 'no gains'}). Before the output stage {chain.output_stage}, "
        f"{left:.2%} of the samples of the left ear and {right:.2%} of the right are beyond full scale."
    )
    if measures["haaqi"]:
        title += " HAAQI {:.3f} (left) and {:.3f} (right).".format(*measures["haaqi"])
    return title
