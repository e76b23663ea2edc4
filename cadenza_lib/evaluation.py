"""Enhance and score scene-listener pairs, one row of `scores.csv` each; a run that was stopped goes on where it was.

Enhancing and scoring follow the official recipe step by step: fuse, gain, downmix, normalise, amplify, output stage;
the reference is the same remix of the true stems after amplification. A score equals the recipe's, noise included:
numpy's legacy generator is seeded with the scene before the left ear, and the right ear goes on with the same stream.
"""

import contextlib
import csv
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor
from tqdm import tqdm

from cadenza_lib.acoustics import SAMPLE_RATE
from cadenza_lib.corpus import AtEarSong, Corpus, check_not_silent
from cadenza_lib.errors import CorpusError, ParameterError
from cadenza_lib.files import atomic_path, make_directory, read_json, write_json
from cadenza_lib.fitting import OUTPUT_SAMPLE_RATE, Output, amplify, finish, listener_firs, resample, save_output
from cadenza_lib.fusion import fuse
from cadenza_lib.haaqi import compute_haaqi
from cadenza_lib.listeners import EARS, Listener, ear_audiogram
from cadenza_lib.remix import remix
from cadenza_lib.scenes import Pair, legacy_seed
from cadenza_lib.separation import Separator

__all__ = [
    "COLUMNS",
    "HAAQI_SAMPLE_RATE",
    "OFFICIAL_COLUMNS",
    "PairScore",
    "Settings",
    "enhance",
    "evaluate",
    "read_scores",
    "read_settings",
    "reference_remix",
    "score",
]

HAAQI_SAMPLE_RATE = 24000
"""Sample rate in Hz at which the recipe computes HAAQI."""

PRESENTATION_LEVEL_DB_SPL = 65.0
"""Level at which the reference remix, before amplification, is presented to each ear."""

OFFICIAL_COLUMNS = ("scene", "song", "listener", "left_score", "right_score", "score")
"""Columns of the recipe's `scores.csv`."""

COLUMNS = (*OFFICIAL_COLUMNS, "left_clipped_share", "right_clipped_share")
"""Columns of ours: the official ones, then the share of samples that the output stage clipped."""


@dataclass(frozen=True)
class Settings:
    """What decides a score, beside the scene and the listener."""

    corpus: str  # "demo" or the absolute path
    split: str
    system: str  # name or absolute path of the separator
    mixture_weight: float = 0.0  # share of the mixture in each stem, see `fusion`
    output_level_db: float = 0.0  # gain before the clip; 0 is official
    clip: bool = True  # clip and round to 16 bits, as is official


@dataclass(frozen=True)
class PairScore:
    """HAAQI of one scene-listener pair, `(left, right)`, and what the output stage clipped."""

    haaqi: tuple[float, float]
    clipped_share: tuple[float, float]

    @property
    def mean(self) -> float:
        """The score of the pair: the mean of both ears."""
        return float(np.mean(self.haaqi))


def enhance(
    song: AtEarSong,
    stems: Tensor,
    gains_db: Tensor,
    listener: Listener,
    mixture_weight: float = 0.0,
    output_level_db: float = 0.0,
    clip: bool = True,
) -> Output:
    """Return what the listener's hearing aids play, from estimated stems `(stem, channel, time)`."""
    remixed = remix(fuse([stems], song.mixture, mixture_weight=mixture_weight), gains_db, song.mixture)
    return finish(amplify(remixed, listener_firs(listener)), output_level_db, clip)


def reference_remix(song: AtEarSong, gains_db: Tensor) -> Tensor:
    """Return the remix of the true stems before amplification, `(ear, time)`.

    Raises
    ------
    AudioError
        If the gains leave an ear silent, so that the presentation level is undefined.
    """
    remixed = remix(song.stems, gains_db, song.mixture)
    check_not_silent(remixed, f"The remix of {song.name}")
    return remixed


def score(output: Output, reference: Tensor, listener: Listener, scene: str) -> PairScore:
    """Return HAAQI of an enhanced signal against the reference remix of its scene, as the recipe computes it.

    Parameters
    ----------
    output
        What `finish` returned.
    reference
        What `reference_remix` returned, `(ear, time)`.
    listener
        Whose ears listen.
    scene
        Id of the scene, which seeds the noise of the ear model.
    """
    amplified = amplify(reference, listener_firs(listener)).numpy()
    haaqi = []
    with _legacy_seed(legacy_seed(scene)):
        for index, ear in enumerate(EARS):
            rms = float(reference[index].square().mean().sqrt())
            haaqi.append(
                float(
                    compute_haaqi(
                        processed_signal=resample(output.signal[index], OUTPUT_SAMPLE_RATE, HAAQI_SAMPLE_RATE),
                        reference_signal=resample(amplified[index], SAMPLE_RATE, HAAQI_SAMPLE_RATE),
                        processed_sample_rate=HAAQI_SAMPLE_RATE,
                        reference_sample_rate=HAAQI_SAMPLE_RATE,
                        audiogram=ear_audiogram(listener, ear),
                        equalisation=2,  # NAL-R is already in the reference
                        level1=PRESENTATION_LEVEL_DB_SPL - 20 * np.log10(rms),
                    )
                )
            )
    return PairScore((haaqi[0], haaqi[1]), (float(output.clipped_share[0]), float(output.clipped_share[1])))


def evaluate(
    corpus: Corpus,
    separator: Separator,
    settings: Settings,
    pairs: Sequence[Pair],
    out_dir: Path | str,
    progress: bool = True,
) -> pd.DataFrame:
    """Enhance and score pairs; write the signals, `scores.csv` and `settings.json` to `out_dir`.

    Pairs that `scores.csv` already has are not computed again. A row is written as soon as it is known, so a run that
    is stopped loses at most the pair it was working on.

    Returns
    -------
    pandas.DataFrame
        The scores of `pairs`, in their order, with `COLUMNS`.

    Raises
    ------
    ParameterError
        If `out_dir` cannot be written, or holds scores of other settings.
    CorpusError, AudioError
        If the data cannot be used.
    """
    split = corpus.split(settings.split)
    for pair in pairs:
        if pair.scene not in split.scenes or pair.listener not in split.listeners:
            raise ParameterError(f"Pair {pair.scene}, {pair.listener} is not in split {split.name!r}.")
    out_dir = make_directory(out_dir)
    _claim(out_dir, settings)
    scores_path = out_dir / "scores.csv"
    known = _repair(scores_path)
    missing = [pair for pair in pairs if (pair.scene, pair.listener) not in known]

    bar = tqdm(
        total=len(pairs), initial=len(pairs) - len(missing), desc=settings.system, unit="pair", disable=not progress
    )
    with bar:
        for song_name, same_song in itertools.groupby(missing, key=lambda pair: split.scenes[pair.scene].at_ear_song):
            group = list(same_song)
            song = corpus.at_ear_song(split, split.scenes[group[0].scene])
            stems = separator(song)  # once for all listeners of the scene
            for pair in group:
                gains_db = corpus.gains_db(split.scenes[pair.scene])
                listener = split.listeners[pair.listener]
                output = enhance(
                    song,
                    stems,
                    gains_db,
                    listener,
                    settings.mixture_weight,
                    settings.output_level_db,
                    settings.clip,
                )
                save_output(output, out_dir / "enhanced_signals" / f"{pair.scene}_{pair.listener}_remix")
                result = score(output, reference_remix(song, gains_db), listener, pair.scene)
                row = (pair.scene, song_name, pair.listener, *result.haaqi, result.mean, *result.clipped_share)
                _append(scores_path, row)
                bar.update()

    scores = read_scores(out_dir).set_index(["scene", "listener"])
    wanted = pd.MultiIndex.from_tuples([(pair.scene, pair.listener) for pair in pairs], names=scores.index.names)
    return scores.loc[wanted].reset_index()[list(COLUMNS)]


def read_scores(out_dir: Path | str) -> pd.DataFrame:
    """Read the `scores.csv` of an evaluation.

    Raises
    ------
    CorpusError
        If the file is missing, or is not a table with the official columns.
    """
    path = Path(out_dir) / "scores.csv"
    if not path.is_file():
        raise CorpusError(f"{path} does not exist; run 03_evaluate with this out_dir first.")
    try:
        dtype = {"scene": str, "song": str, "listener": str}
        scores = pd.read_csv(path, dtype=dtype, float_precision="round_trip")  # what was written, to the last bit
    except (ValueError, OSError) as error:
        raise CorpusError(f"{path} is not a table of scores ({error}); evaluate again.") from error
    missing = [column for column in OFFICIAL_COLUMNS if column not in scores]
    if missing:
        raise CorpusError(f"{path} has no column {missing[0]!r}; it needs {', '.join(OFFICIAL_COLUMNS)}.")
    for column in ("left_score", "right_score", "score"):
        if not pd.api.types.is_numeric_dtype(scores[column]) and not scores.empty:
            raise CorpusError(f"{path} has a {column} that is not a number; evaluate again.")
    return scores


def read_settings(out_dir: Path | str) -> Settings:
    """Read the settings that the scores in `out_dir` were computed with."""
    path = Path(out_dir) / "settings.json"
    try:
        return Settings(**read_json(path))
    except TypeError as error:
        raise CorpusError(f"{path} does not hold the settings of an evaluation ({error}).") from error


def _claim(out_dir: Path, settings: Settings) -> None:
    """Mark a directory as that of these settings, or refuse if it is another's."""
    path = out_dir / "settings.json"
    if not path.exists():
        write_json(path, asdict(settings))
        return
    found, wanted = asdict(read_settings(out_dir)), asdict(settings)
    for name, value in wanted.items():
        if found[name] != value:
            raise ParameterError(
                f"{out_dir} holds scores with {name} {found[name]!r}, not {value!r}; delete it or choose another."
            )


def _repair(path: Path) -> set[tuple[str, str]]:
    """Return the pairs in a table of scores, after cutting off a last line that was torn when the run was stopped."""
    if not path.exists():
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(COLUMNS)
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        with path.open("r+b") as torn:
            torn.truncate(complete)
    scores = read_scores(path.parent)
    return set(zip(scores["scene"], scores["listener"], strict=True))


def _append(path: Path, row: Sequence[object]) -> None:
    """Append one row to a CSV file and see it on the disk."""
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(row)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _legacy_seed(seed: int) -> Iterator[None]:
    """Seed numpy's legacy generator, which HAAQI draws its noise from, and restore its state afterwards."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
