"""One excerpt at every stage of the chain: signals to listen to, spectra, scores, and how it sounds to the listener.

This is what the tour shows and what its knobs turn. The signals come from the functions that enhance and evaluate, so a
number here is the number that `evaluation` would give for the excerpt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from clarity.evaluator.msbg.msbg import Ear
from clarity.evaluator.msbg.msbg_utils import measure_rms
from scipy.signal import welch
from torch import Tensor

from cadenza_lib.audio.resampling import resample
from cadenza_lib.chain.fitting import FIR_ORDER, FirPrescription, prescription
from cadenza_lib.chain.fusion import combine, fuse
from cadenza_lib.chain.output import Output
from cadenza_lib.chain.pipeline import ChainSettings, amplify, at_output_rate, finish, reference_remix, remix
from cadenza_lib.core.conventions import EARS, OUTPUT_SAMPLE_RATE, PRESENTATION_LEVEL_DB_SPL, SAMPLE_RATE, STEMS
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.corpus import AtEarSong, Corpus, check_not_silent
from cadenza_lib.data.listeners import Audiogram, Listener, ear_audiogram
from cadenza_lib.listening.player import Take
from cadenza_lib.scoring.pairs import score
from cadenza_lib.separation import separators

__all__ = [
    "Excerpt",
    "Setting",
    "Stages",
    "fused_stems",
    "gain_table",
    "heard_take",
    "load_excerpt",
    "run_chain",
    "score_table",
    "spectrum_table",
    "stage_takes",
    "stem_takes",
]

MSBG_LIMIT_DB_HL = 80.0
"""Thresholds are taken as at most this in the hearing-loss simulation, which pyclarity calls unrealistic beyond."""

_MSBG_DELAY = 1080  # samples at 44.1 kHz: two FIR filters of 1015 taps and one of 133, halves of them
_MSBG_SMEARING_DELAY = 188  # more where the simulation smears the spectrum
_LONGEST_WINDOW = 8192  # of a spectrum, in samples: 5.4 Hz apart at 44.1 kHz
_THIRD_OCTAVES = 1000 * 10 ** (np.arange(-13, 12) / 10)  # Hz, 50 Hz to 12.6 kHz: IEC 61260-1, base ten


@dataclass(frozen=True)
class Excerpt:
    """A few seconds of a scene, with what each system makes of its stems.

    Shape:
        - estimates: `(stem, channel, time)` by system
    """

    scene: str
    song: AtEarSong
    gains_db: tuple[float, ...]
    estimates: Mapping[str, Tensor]


@dataclass(frozen=True)
class Setting:
    """The position of every knob of the chain."""

    gains_db: tuple[float, ...]  # of the stems, in the order of `conventions.STEMS`
    listener: Listener
    chain: ChainSettings


@dataclass(frozen=True)
class Stages:
    """What each stage of the chain makes of an excerpt.

    Shape:
        - all signals: `(ear, time)`; what is amplified is `FIR_ORDER` samples longer than the others
    """

    mixture: Tensor
    remixed: Tensor
    amplified: Tensor
    output: Output
    reference: Tensor
    reference_amplified: Tensor


def load_excerpt(
    corpus: Corpus,
    split_name: str,
    scene: str,
    systems: Sequence[str],
    start_s: float = 0.0,
    duration_s: float = 6.0,
    device: str = "auto",
) -> Excerpt:
    """Return an excerpt of a scene's song at the ears, separated by each system.

    The systems see the excerpt alone, not the whole song.

    Raises
    ------
    ParameterError
        If the scene is unknown, no system is named, or the excerpt does not lie inside the song.
    CorpusError, AudioError, ModelError
        If data or models cannot be used.
    """
    split = corpus.split(split_name)
    if scene not in split.scenes:
        raise ParameterError(f"Scene {scene!r} is not in split {split_name!r}; it has {', '.join(split.scenes)}.")
    if not systems:
        raise ParameterError("An excerpt needs at least one system to separate it; none was named.")
    whole = corpus.at_ear_song(split, split.scenes[scene])
    start, length = round(start_s * SAMPLE_RATE), round(duration_s * SAMPLE_RATE)
    if start < 0 or length <= 0 or start + length > whole.mixture.shape[-1]:
        raise ParameterError(
            f"{duration_s} s from {start_s} s on do not lie inside {whole.name}, "
            f"which lasts {whole.mixture.shape[-1] / SAMPLE_RATE:.1f} s."
        )
    part = slice(start, start + length)
    song = AtEarSong(whole.name, whole.stems[..., part].clone(), whole.mixture[..., part].clone())
    check_not_silent(song.mixture, f"The excerpt of {whole.name}")
    gains_db = tuple(corpus.gains_db(split.scenes[scene]).tolist())
    return Excerpt(scene, song, gains_db, {name: separators.load(name, device)(song) for name in systems})


def fused_stems(excerpt: Excerpt, setting: Setting) -> Tensor:
    """Return the stems that the remix is made of, `(stem, ear, time)`, each with its share of the mixture."""
    weights, share = setting.chain.model_weights, setting.chain.mixture_weight
    return fuse(list(excerpt.estimates.values()), excerpt.song.mixture, weights, share)


def run_chain(excerpt: Excerpt, setting: Setting) -> Stages:
    """Return the signals at every stage.

    Raises
    ------
    ParameterError, AudioError
        If a knob is out of its bounds.
    """
    song, gains_db = excerpt.song, torch.tensor(setting.gains_db, dtype=torch.float64)
    listener, chain = setting.listener, setting.chain
    stems = combine(list(excerpt.estimates.values()), chain.model_weights)
    remixed = remix(stems, gains_db, song.mixture, chain)
    amplified = amplify(remixed, listener, chain)
    reference = reference_remix(song, gains_db)
    return Stages(
        mixture=song.mixture,
        remixed=remixed,
        amplified=amplified,
        output=finish(at_output_rate(amplified), listener, chain),
        reference=reference,
        reference_amplified=amplify(reference, listener, chain),
    )


def stem_takes(stems: Tensor, label: str = "") -> list[Take]:
    """Return four stems `(stem, ear, time)` to listen to."""
    return [
        Take(f"{name.capitalize()}{label and ', '}{label}", stem.numpy(), SAMPLE_RATE)
        for name, stem in zip(STEMS, stems, strict=True)
    ]


def stage_takes(stages: Stages) -> dict[str, Take]:
    """Return the stages to listen to by name of the field, without the delay of the prescription's filter.

    All begin at the same sample at 44.1 kHz; the output, at 32 kHz, within 6 microseconds of it.
    """
    signals = {
        "mixture": ("Mixture at the ears", stages.mixture.numpy(), SAMPLE_RATE),
        "remixed": ("Remix, before amplification", stages.remixed.numpy(), SAMPLE_RATE),
        "amplified": ("Amplified, without limit", _undelayed(stages.amplified.numpy()), SAMPLE_RATE),
        "output": ("Output of the hearing aid", _undelayed_output(stages.output), OUTPUT_SAMPLE_RATE),
        "reference_amplified": (
            "Reference: true stems, amplified",
            _undelayed(stages.reference_amplified.numpy()),
            SAMPLE_RATE,
        ),
    }
    return {field: Take(*take) for field, take in signals.items()}


def heard_take(take: Take, stages: Stages, listener: Listener) -> Take:
    """Return how a take sounds to a listener: pyclarity's simulation of hearing loss (MSBG), ear by ear.

    The reference remix before amplification is presented at 65 dB SPL, as for HAAQI. It takes about a quarter of
    the signal's duration. Thresholds beyond 80 dB HL are taken as 80 dB HL.

    Source: pyclarity's `evaluator.msbg`, after B. C. J. Moore and B. R. Glasberg, J. Acoust. Soc. Am. 94(4), 2050-2062,
    1993 (recruitment), and T. Baer and B. C. J. Moore, J. Acoust. Soc. Am. 94(3), 1229-1241, 1993 (smearing).
    """
    full_scale_db_spl = PRESENTATION_LEVEL_DB_SPL - 10 * float(torch.log10(stages.reference.square().mean()))
    signal = resample(np.asarray(take.signal, dtype=np.float64), take.sample_rate, SAMPLE_RATE)
    heard = [
        _simulate_loss(channel, ear_audiogram(listener, ear), full_scale_db_spl)
        for channel, ear in zip(signal, EARS, strict=True)
    ]
    return Take(f"As heard: {take.name}", np.stack(heard), SAMPLE_RATE)


def score_table(excerpt: Excerpt, stages: Stages, setting: Setting) -> pd.DataFrame:
    """Return HAAQI of each ear and what it is made of: ear, haaqi, clipped_share and the fields of `Components`."""
    pair_score = score(stages.output, stages.reference, setting.listener, excerpt.scene, setting.chain)
    rows = []
    for ear, parts, clipped_share in zip(EARS, pair_score.components, pair_score.clipped_share, strict=True):
        values = asdict(parts)
        rows.append({"ear": ear, "haaqi": values.pop("score"), "clipped_share": clipped_share} | values)
    return pd.DataFrame(rows)


def spectrum_table(takes: Sequence[Take]) -> pd.DataFrame:
    """Return third-octave levels of takes: signal, ear, frequency (Hz), level_db re a full-scale sine's power."""
    tables = []
    for take in takes:
        frequency, density = welch(take.signal, take.sample_rate, nperseg=min(_LONGEST_WINDOW, take.signal.shape[-1]))
        energy = np.pad(np.cumsum(density, -1) * (frequency[1] - frequency[0]), ((0, 0), (1, 0)))  # up to each bin
        edges = np.append(_THIRD_OCTAVES * 10**-0.05, _THIRD_OCTAVES[-1] * 10**0.05)
        borders = frequency[1] * (np.arange(energy.shape[-1]) - 0.5)
        for ear, up_to in zip(EARS, energy, strict=True):
            power = np.diff(np.interp(edges, borders, up_to))
            level_db = 10 * np.log10(np.maximum(2 * power, 1e-12))
            tables.append(
                pd.DataFrame({"signal": take.name, "ear": ear, "frequency": _THIRD_OCTAVES, "level_db": level_db})
            )
    return pd.concat(tables, ignore_index=True)


def gain_table(setting: Setting) -> pd.DataFrame:
    """Return the prescribed insertion gains of both ears: ear, frequency (Hz), gain_db; empty if there are none."""
    chosen = prescription(setting.chain.prescription)
    if not isinstance(chosen, FirPrescription):
        return pd.DataFrame({"ear": [], "frequency": [], "gain_db": []})
    tables = [
        pd.DataFrame({"ear": ear, "frequency": chosen.frequencies, "gain_db": gain_db})
        for ear, gain_db in zip(EARS, chosen.gains_db(setting.listener), strict=True)
    ]
    return pd.concat(tables, ignore_index=True)


def _undelayed(signal: np.ndarray) -> np.ndarray:
    return signal[..., FIR_ORDER // 2 : signal.shape[-1] - FIR_ORDER // 2]


def _undelayed_output(output: Output) -> np.ndarray:
    delay = round(FIR_ORDER / 2 / SAMPLE_RATE * OUTPUT_SAMPLE_RATE)
    return output.signal[..., delay : output.signal.shape[-1] - delay]


def _simulate_loss(signal: np.ndarray, audiogram: Audiogram, full_scale_db_spl: float) -> np.ndarray:
    """Return a signal `(time,)` at 44.1 kHz as the ear hears it, at the same time and on the same scale."""
    if not signal.any():
        return signal
    ear = Ear(src_pos="ff", sample_rate=SAMPLE_RATE, equiv_0db_spl=full_scale_db_spl, ahr=0.0)
    ear.set_audiogram(Audiogram(np.minimum(audiogram.levels, MSBG_LIMIT_DB_HL), audiogram.frequencies))
    smears = ear.cochlea is not None and ear.cochlea.smearer is not None
    delay = _MSBG_DELAY + (_MSBG_SMEARING_DELAY if smears else 0)
    padded = np.pad(signal, (0, delay))  # so that the end is not cut off
    # `process` brings the RMS of the louder passages to that of the whole; undo it before, to keep the level.
    loud_rms, *_ = measure_rms(padded, SAMPLE_RATE, -12)
    heard = ear.process(padded * loud_rms / np.sqrt(np.mean(padded**2)))[0]
    return heard[delay : delay + len(signal)]
