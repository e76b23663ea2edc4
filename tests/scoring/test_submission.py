"""What may be submitted: a whole evaluation, whose every file is as the challenge wants it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from clarity.utils.flac_encoder import read_flac_signal

from cadenza_lib.__main__ import main
from cadenza_lib.core.errors import AudioError, CorpusError, ParameterError
from cadenza_lib.core.files import read_json, write_json
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.scenes import choose_pairs
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.scoring.evaluation import Settings, evaluate
from cadenza_lib.scoring.submission import submit
from cadenza_lib.separation.separators import load

FIRST = "enhanced_signals/scene_10001_A_remix.flac"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the evaluation of a corpus' four pairs."""
    folder = tmp_path_factory.mktemp("submission")
    corpus = Corpus(tiny_corpus(folder / "tiny", 0.7))  # 30,870 samples, with NAL-R 31,090: 22,559.6 at 32 kHz
    scenes = corpus.split("train").scenes
    write_json(corpus.metadata / "scene_listeners.train.json", {scene: ["A"] for scene in scenes})
    corpus = Corpus(corpus.root)
    pairs = choose_pairs(corpus.split("train").scene_listeners)
    evaluate(corpus, load("mixture"), Settings(str(corpus.root), "train", "mixture"), pairs, folder / "run", False)
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def test_submission_holds_the_files_of_all_pairs_under_the_challenges_names(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(run), str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert "4 files in" in output
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == [f"scene_{number}_A_remix.flac" for number in range(10001, 10005)]
    for file in files:
        assert file.read_bytes() == (run / "enhanced_signals" / file.name).read_bytes()
        signal, rate = read_flac_signal(file)  # the official reader
        assert (rate, signal.shape) == (32000, (22560, 2))
    assert main(["submit", str(run), str(tmp_path / "out")]) == 0  # once more changes nothing


def test_clipped_share_counts_samples_at_full_scale(run: Path, tmp_path: Path) -> None:
    samples = soundfile.read(run / FIRST, dtype="int16")[0]
    samples = np.clip(samples, -30000, 30000)
    samples[:100], samples[100:130, 0] = 32767, -32768
    soundfile.write(run / FIRST, samples, 32000, subtype="PCM_16")
    share = submit(run, tmp_path / "out", progress=False).clipped_share[Path(FIRST).name]
    assert share == pytest.approx(230 / samples.size, abs=1e-12)


def rewrite(
    change: Callable[[np.ndarray], np.ndarray], rate: int = 32000, subtype: str = "PCM_16", file_format: str = "FLAC"
) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        samples = soundfile.read(run / FIRST, dtype="int16")[0]
        soundfile.write(run / FIRST, change(samples), rate, subtype=subtype, format=file_format)

    return damage


BAD_FILES = {
    "rate": (rewrite(lambda x: x, rate=44100), "has a sample rate of 44100 Hz, not 32000"),
    "bits": (rewrite(lambda x: x, subtype="PCM_24"), "is FLAC of PCM_24, not FLAC of 16 bits"),
    "format": (rewrite(lambda x: x, file_format="WAV"), "is WAV of PCM_16, not FLAC of 16 bits"),
    "channels": (rewrite(lambda x: x[:, :1]), r"has 1 channel\(s\), not 2"),
    "short": (rewrite(lambda x: x[:-1]), "has 22559 samples, not 22560"),
    "silent": (rewrite(np.zeros_like), "is silent"),
    "broken": (lambda run: (run / FIRST).write_bytes(b"fLaC") and None, "cannot be read as audio"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_file_that_is_not_as_the_challenge_wants_it_is_refused(case: str, run: Path, tmp_path: Path) -> None:
    damage, match = BAD_FILES[case]
    damage(run)
    with pytest.raises(AudioError, match=f"scene_10001_A_remix.flac {match}"):
        submit(run, tmp_path / "out", progress=False)
    assert not list((tmp_path / "out").iterdir())


def test_unfinished_evaluation_is_refused(run: Path, tmp_path: Path) -> None:
    path = run / "scores.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(CorpusError, match="has scores of 3 of the 4 pairs of split 'train'; finish the evaluation"):
        submit(run, tmp_path / "out")


def test_lost_and_foreign_files_are_refused(run: Path, tmp_path: Path) -> None:
    foreign = run / "enhanced_signals/scene_10001_B_remix.flac"
    shutil.copy(run / FIRST, foreign)
    with pytest.raises(CorpusError, match=r"scene_10001_B_remix\.flac belongs to no pair"):
        submit(run, tmp_path / "out")
    foreign.unlink()
    (run / FIRST).unlink()
    with pytest.raises(CorpusError, match=r"scene_10001_A_remix\.flac does not exist, one of 1 of 4"):
        submit(run, tmp_path / "out")


def test_signals_that_were_not_clipped_are_refused(run: Path, tmp_path: Path) -> None:
    write_json(run / "settings.json", read_json(run / "settings.json") | {"clip": False})
    with pytest.raises(CorpusError, match="was evaluated with clip=False"):
        submit(run, tmp_path / "out")


def test_directory_with_other_files_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(ParameterError, match=r"holds notes\.txt, which is no part of the submission"):
        submit(run, tmp_path / "out")


def test_submission_that_was_killed_is_finished_by_the_next(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f".{Path(FIRST).stem}.unfinished.flac").write_bytes(b"fLaC")
    submission = submit(run, tmp_path / "out", progress=False)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(submission.clipped_share)


def test_what_is_no_evaluation_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", str(tmp_path), str(tmp_path / "out")]) == 1
    assert "settings.json does not exist" in capsys.readouterr().err
