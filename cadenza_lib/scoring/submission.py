"""A finished evaluation as the challenge wants it submitted: one checked FLAC file per scene-listener pair.

Files are named `<scene>_<listener>_remix.flac`, hold 16 bits at 32 kHz in two channels, and full scale is 100 dB SPL
(the challenge's page on submissions).
"""

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from cadenza_lib.chain.fitting import FIR_ORDER
from cadenza_lib.core.conventions import OUTPUT_SAMPLE_RATE, SAMPLE_RATE
from cadenza_lib.core.errors import AudioError, CorpusError, ParameterError
from cadenza_lib.core.files import absolute_path, atomic_path, make_directory, regular_file
from cadenza_lib.data.corpus import Corpus, Split
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.data.scenes import Pair, choose_pairs
from cadenza_lib.scoring.evaluation import read_scores, read_settings, signal_name

__all__ = ["Submission", "submit"]

_FULL_SCALE = (-(2**15), 2**15 - 1)


@dataclass(frozen=True)
class Submission:
    """What was written, and how much of it is clipped."""

    folder: Path
    clipped_share: Mapping[str, float]
    """Share of samples at full scale, by file name."""


def submit(evaluation_dir: Path | str, out_dir: Path | str, workers: int = 4, progress: bool = True) -> Submission:
    """Check the signals of an evaluation of a whole split and copy them to `out_dir`.

    Everything is checked before anything is copied: that each pair of the split was scored and has its file and no
    others do, and of each file format, rate, bits, channels, length, and that it is not silent.

    Raises
    ------
    CorpusError
        If the evaluation is not finished, or its corpus has changed.
    AudioError
        If a file cannot be submitted; the message names the first, and how many there are.
    ParameterError
        If `out_dir` cannot be written, or holds other files.
    """
    evaluation_dir = absolute_path(evaluation_dir)
    settings = read_settings(evaluation_dir)
    if not settings.clip:
        raise CorpusError(
            f"{evaluation_dir} was evaluated with clip=False, which no 16-bit file can hold; evaluate again."
        )
    corpus = open_corpus(settings.corpus)
    split = corpus.split(settings.split)
    files = _expected_files(evaluation_dir, split)
    out_dir = make_directory(out_dir)
    known = {file.name for file in files}
    there = {path.name for path in out_dir.iterdir() if not path.name.startswith(".")}  # hidden ones are unfinished
    if others := sorted(there - known):
        raise ParameterError(
            f"{out_dir} holds {others[0]}, which is no part of the submission; choose an empty directory."
        )

    with ThreadPoolExecutor(workers) as pool:
        checks = pool.map(lambda item: _check_file(item[0], _expected_length(corpus, split, item[1])), files.items())
        checked = list(tqdm(checks, total=len(files), unit="file", disable=not progress))
    if problems := [problem for problem, _ in checked if problem]:
        more = f" ({len(problems)} of {len(files)} files cannot be submitted)" if len(problems) > 1 else ""
        raise AudioError(f"{problems[0]}{more}; evaluate again.")
    try:
        for file in files:
            with atomic_path(out_dir / file.name) as temporary:
                shutil.copyfile(file, temporary)
    except OSError as error:
        raise ParameterError(
            f"{out_dir} cannot be written ({error.strerror}); make room, or choose another."
        ) from error
    return Submission(out_dir, {file.name: share for file, (_, share) in zip(files, checked, strict=True)})


def _expected_files(evaluation_dir: Path, split: Split) -> dict[Path, Pair]:
    """Return the file of each pair of a split, after checking that there are all of them and no others."""
    pairs = choose_pairs(split.scene_listeners)
    scores = read_scores(evaluation_dir)
    scored = set(zip(scores["scene"], scores["listener"], strict=True))
    if missing := [pair for pair in pairs if (pair.scene, pair.listener) not in scored]:
        raise CorpusError(
            f"{evaluation_dir} has scores of {len(pairs) - len(missing)} of the {len(pairs)} pairs of split "
            f"{split.name!r}; finish the evaluation with n_pairs=0."
        )
    folder = evaluation_dir / "enhanced_signals"
    files = {folder / f"{signal_name(pair)}.flac": pair for pair in pairs}
    there = {path for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else set()
    if lost := [file for file in files if file not in there]:
        raise CorpusError(f"{lost[0]} does not exist, one of {len(lost)} of {len(files)}; evaluate again with --force.")
    if others := sorted(there - files.keys()):
        raise CorpusError(f"{others[0]} belongs to no pair of split {split.name!r}; move it elsewhere.")
    return files


def _expected_length(corpus: Corpus, split: Split, pair: Pair) -> int:
    """Return the samples at 32 kHz of a scene: NAL-R lengthens it by its order, and the resampler rounds."""
    length = corpus.song_length(split, split.scenes[pair.scene]) + FIR_ORDER
    return round(length * OUTPUT_SAMPLE_RATE / SAMPLE_RATE)


def _check_file(path: Path, expected_length: int) -> tuple[str, float]:
    """Return what is wrong with a file, empty if nothing is, and the share of its samples at full scale."""
    try:
        info = soundfile.info(regular_file(path))
        # A header may promise more than memory holds.
        samples, _ = soundfile.read(path, frames=min(info.frames, 2 * expected_length), dtype="int16", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        return f"{path} cannot be read as audio ({error})", 0.0
    problem = ""
    if (info.format, info.subtype) != ("FLAC", "PCM_16"):
        problem = f"is {info.format} of {info.subtype}, not FLAC of 16 bits"
    elif info.samplerate != OUTPUT_SAMPLE_RATE:
        problem = f"has a sample rate of {info.samplerate} Hz, not {OUTPUT_SAMPLE_RATE}"
    elif info.channels != 2:
        problem = f"has {info.channels} channel(s), not 2"
    elif len(samples) != expected_length:
        problem = f"has {len(samples)} samples, not {expected_length}"
    elif not samples.any():
        problem = "is silent"
    return f"{path} {problem}" if problem else "", float(np.isin(samples, _FULL_SCALE).mean()) if samples.size else 0.0
