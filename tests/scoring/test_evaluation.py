import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyloudnorm
import pytest
import soundfile
import torch
from clarity.enhancer.multiband_compressor import MultibandCompressor
from clarity.enhancer.nalr import NALR
from clarity.evaluator.haaqi import compute_haaqi
from clarity.utils.flac_encoder import read_flac_signal, save_flac_signal
from clarity.utils.signal_processing import compute_rms, resample
from recipes.cad_icassp_2024.baseline import evaluate as recipe
from tolerances import HAAQI_PYCLARITY

from cadenza_lib.chain.dynamics import camfit
from cadenza_lib.chain.pipeline import ChainSettings, enhance, reference_remix
from cadenza_lib.core.conventions import EARS, STEMS
from cadenza_lib.core.errors import AudioError, CadenzaError, CorpusError, ParameterError
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.data.scenes import choose_pairs
from cadenza_lib.data.simulation import simulate
from cadenza_lib.data.tiny import tiny_corpus, tiny_song
from cadenza_lib.scoring import evaluation
from cadenza_lib.scoring.evaluation import Settings
from cadenza_lib.scoring.pairs import PairReference, score
from cadenza_lib.separation.separators import load


def _compress(signal, listener):
    """Return a signal `(time, ear)` at 44.1 kHz as pyclarity's compressor has it at 32 kHz."""
    ratios, _ = camfit(listener, 70.0)
    compressor = MultibandCompressor(np.array([250, 500, 1000, 2000, 4000]) * np.sqrt(2), 32000)
    ears = []
    for ear in (0, 1):
        times_ms = {"attack": [11, 11, 14, 13, 11, 11], "release": [80, 80, 80, 80, 100, 100]}
        compressor.set_compressors(**times_ms, threshold=-30, ratio=ratios[ear])
        ears.append(compressor(resample(signal[:, ear], 44100, 32000))[0])
    return np.stack(ears, axis=1)


def _recipe_score(song, stems, gains_db, listener, scene, flac, compressed):
    """Score a pair with nothing but the recipes' functions, from estimated and true stems."""
    mixture = song.mixture.numpy().T
    enhancer = NALR(nfir=220, sample_rate=44100)
    audiograms = (listener.audiogram_left, listener.audiogram_right)

    def remix(signals):
        named = {name: signals[STEMS.index(name)].numpy().T for name in ("drums", "bass", "other", "vocals")}
        return recipe.remix_stems(recipe.apply_gains(named, 44100, gains_db), mixture, 44100)

    def fit(signal):
        return np.stack([recipe.apply_ha(enhancer, None, signal[:, i], audiograms[i]) for i in (0, 1)], axis=1)

    played, reference = fit(remix(stems)), remix(song.stems)
    fitted, rate = fit(reference), 44100
    if compressed:  # as in Cadenza 2: the reference, too
        played, fitted, rate = _compress(played, listener), _compress(fitted, listener), 32000
    save_flac_signal(played, flac, rate, 32000, do_clip_signal=True)
    enhanced, _ = read_flac_signal(flac)
    recipe.set_song_seed(scene)
    return [
        compute_haaqi(
            processed_signal=resample(enhanced[:, i], 32000, 24000),
            reference_signal=resample(fitted[:, i], rate, 24000),
            processed_sample_rate=24000,
            reference_sample_rate=24000,
            audiogram=audiograms[i],
            equalisation=2,
            level1=65 - 20 * np.log10(compute_rms(reference[:, i])),
        )
        for i in (0, 1)
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return Corpus(tiny_corpus(tmp_path_factory.mktemp("tiny")))


def _cut(song, duration_s):
    length = round(duration_s * song.sample_rate)
    return replace(song, stems=song.stems[..., :length], mixture=song.mixture[..., :length])


@pytest.mark.exact
@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        (ChainSettings(), HAAQI_PYCLARITY),
        # Where the compressors differ by their rounding, samples may fall on the other side of a 16-bit step.
        (ChainSettings(output_stage="compressor", reference="same"), 1e-6),
    ],
    ids=["Cadenza 2024", "compressed as in Cadenza 2"],
)
@pytest.mark.parametrize("source", ["cadenza_mini", "twin"])
def test_a_pair_scores_what_the_recipe_scores(source, settings, tolerance, request, tmp_path):
    data = open_corpus(source if source == "twin" else request.getfixturevalue(source))
    split = data.split("valid" if source == "twin" else "train")
    pair = choose_pairs(split.scene_listeners)[0]
    scene, listener = split.scenes[pair.scene], split.listeners[pair.listener]
    song = _cut(data.at_ear_song(split, scene), 2.5)
    stems = 0.6 * song.stems + 0.4 * load("mixture")(song)  # an imperfect separation
    gains_db = data.gains_db(scene)

    output = enhance(song, [stems], gains_db, listener, settings)
    ours = score(output, reference_remix(song, gains_db), listener, pair.scene, settings)
    where = listener, pair.scene, tmp_path / "x.flac"
    expected = _recipe_score(song, stems, data.gains[scene.gain], *where, settings.reference == "same")
    assert ours.haaqi == pytest.approx(expected, abs=tolerance)
    assert ours.mean == pytest.approx(np.mean(expected), abs=tolerance)


def test_parts_of_a_score_combine_to_it_and_a_kept_reference_gives_the_same(corpus):
    split = corpus.split("train")
    pair = choose_pairs(split.scene_listeners)[0]
    song, listener = corpus.at_ear_song(split, split.scenes[pair.scene]), split.listeners[pair.listener]
    gains_db = corpus.gains_db(split.scenes[pair.scene])
    outputs = [
        enhance(song, [song.stems], gains_db, listener, ChainSettings(mixture_weight=0.3, output_level_db=level_db))
        for level_db in (-3.0, 0.0)
    ]
    remixed = reference_remix(song, gains_db)
    kept = PairReference(remixed, listener, pair.scene)
    for output in outputs:
        values = kept.score(output).values()
        assert values == score(output, remixed, listener, pair.scene).values()
        named = dict(zip(evaluation.COLUMNS[3:], values, strict=True))
        for index, ear in enumerate(EARS):
            # Kates and Arehart 2016, equations of the combined model
            nonlinear = 0.754 * named[f"{ear}_cepstral_correlation"] ** 3 + 0.246 * named[f"{ear}_fine_structure"]
            linear = 0.329 * named[f"{ear}_loudness"] + 0.671 * named[f"{ear}_spectrum"]
            combined = 0.336 * nonlinear + 0.001 * linear + 0.501 * nonlinear**2 + 0.161 * linear**2
            assert named[f"{ear}_score"] == pytest.approx(combined, abs=1e-12)
            loudness_lufs = pyloudnorm.Meter(32000).integrated_loudness(output.signal[index].astype(float))
            assert named[f"{ear}_loudness_lufs"] == pytest.approx(loudness_lufs, abs=1e-3)  # float32 here


@pytest.mark.usefixtures("quick_score")
def test_a_table_with_other_columns_is_not_continued(corpus, tmp_path):
    pairs = choose_pairs(corpus.split("train").scene_listeners, 1)
    (tmp_path / "scores.csv").write_text(",".join(evaluation.OFFICIAL_COLUMNS) + "\n")
    with pytest.raises(ParameterError, match=r"scores\.csv has other columns than are written now; choose another"):
        evaluation.evaluate(corpus, load("oracle"), Settings(corpus.name, "train", "oracle"), pairs, tmp_path)


def test_scoring_leaves_numpys_generator_as_it_was(corpus):
    split = corpus.split("train")
    pair = choose_pairs(split.scene_listeners)[0]
    song = corpus.at_ear_song(split, split.scenes[pair.scene])
    gains_db, listener = corpus.gains_db(split.scenes[pair.scene]), split.listeners[pair.listener]
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)
    output = enhance(song, [song.stems], gains_db, listener)
    score(output, reference_remix(song, gains_db), listener, pair.scene)
    assert np.random.random() == expected


def test_perfect_stems_without_the_clip_score_the_maximum(corpus, tmp_path):
    pairs = choose_pairs(corpus.split("train").scene_listeners)[:1]
    settings = Settings(corpus.name, "train", "oracle", output_stage="none")
    scores = evaluation.evaluate(corpus, load("oracle"), settings, pairs, tmp_path, progress=False)
    assert scores.loc[0, ["left_score", "right_score"]].min() > 0.995  # at most 0.999; one second is short
    assert (tmp_path / "enhanced_signals" / f"{pairs[0].scene}_{pairs[0].listener}_remix.wav").is_file()


class _Counting:
    """A separator that counts its calls and can be told to stop like a person pressing Ctrl-C."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls, self.stop_at = 0, stop_at

    def __call__(self, song):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return song.stems


@pytest.mark.usefixtures("quick_score")
def test_a_stopped_run_goes_on_and_gives_the_unbroken_result(corpus, tmp_path):
    pairs = choose_pairs(corpus.split("train").scene_listeners)
    settings = Settings(corpus.name, "train", "oracle")
    whole = evaluation.evaluate(corpus, _Counting(), settings, pairs, tmp_path / "whole", progress=False)

    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate(corpus, _Counting(stop_at=3), settings, pairs, tmp_path / "stopped", progress=False)
    with (tmp_path / "stopped" / "scores.csv").open("a") as file:
        file.write("scene_10003,Tiny 2-hlp")  # what a kill in the middle of a write leaves
    again = _Counting()
    resumed = evaluation.evaluate(corpus, again, settings, pairs, tmp_path / "stopped", progress=False)
    assert again.calls == len(pairs) - 2
    assert resumed.equals(whole)
    assert (tmp_path / "stopped/scores.csv").read_bytes() == (tmp_path / "whole/scores.csv").read_bytes()
    assert not list((tmp_path / "stopped").rglob("*.unfinished*"))


@pytest.fixture
def mixtures(corpus, tmp_path):
    """Return the corpus with its songs at the ears on the disk, of which only the mixtures are left."""
    root = shutil.copytree(corpus.root, tmp_path / "mixtures")
    simulate(Corpus(root), "train", progress=False)
    shutil.rmtree(root / "audio/music")
    for path in (root / "audio/at_mic_music").glob("*/*/*.wav"):
        if path.name != "mixture.wav":
            path.unlink()
    return Corpus(root)


@pytest.mark.usefixtures("quick_score")
def test_songs_without_stems_are_enhanced_as_with_them_but_not_scored(corpus, mixtures, tmp_path, caplog):
    pairs = choose_pairs(corpus.split("train").scene_listeners)
    for data, name in ((corpus, "whole"), (mixtures, "out")):
        settings = Settings(data.name, "train", "mixture", mixture_weight=0.15)
        table = evaluation.evaluate(data, load("mixture"), settings, pairs, tmp_path / name, progress=False)
    assert table.columns.tolist() == ["scene", "song", "listener"]
    assert list(zip(table["scene"], table["listener"], strict=True)) == [(p.scene, p.listener) for p in pairs]
    assert caplog.messages == ["The songs of split train have no stems, so pairs are enhanced but not scored."]
    assert not (tmp_path / "out/scores.csv").exists()
    signals = {path.name: path.read_bytes() for path in (tmp_path / "out/enhanced_signals").iterdir()}
    assert set(signals) == {f"{pair.scene}_{pair.listener}_remix.flac" for pair in pairs}
    assert all((tmp_path / "whole/enhanced_signals" / name).read_bytes() == signals[name] for name in signals)
    with pytest.raises(CorpusError, match=r"out/scores\.csv does not exist, since songs without stems were enhanced"):
        evaluation.read_scores(tmp_path / "out")


def test_signals_without_scores_are_enhanced_again_if_they_are_gone_or_of_another_song(mixtures, tmp_path):
    separated = []

    def separate(song):
        assert song.stems.shape == (0, *song.mixture.shape)
        separated.append(song.name)
        if len(separated) == 3:
            raise KeyboardInterrupt
        return load("mixture")(song)

    pairs = choose_pairs(mixtures.split("train").scene_listeners)
    songs = [mixtures.split("train").scenes[pair.scene].at_ear_song for pair in pairs]
    settings, out = Settings(mixtures.name, "train", "mixture"), tmp_path / "out"

    def evaluate():
        return evaluation.evaluate(mixtures, separate, settings, pairs, out, False, system_identity="mine")

    with pytest.raises(KeyboardInterrupt):
        evaluate()
    assert evaluate()["song"].tolist() == songs == [*separated[:2], *separated[3:]]
    assert evaluate()["song"].tolist() == songs
    assert separated[5:] == []
    (out / "enhanced_signals" / f"{pairs[1].scene}_{pairs[1].listener}_remix.flac").unlink()
    mixture = mixtures.root / "audio/at_mic_music/train" / songs[3] / "mixture.wav"
    soundfile.write(mixture, 0.5 * soundfile.read(mixture)[0], 44100)
    evaluate()
    assert separated[5:] == [songs[1], songs[3]]


def test_true_stems_that_do_not_exist_are_refused(mixtures, tmp_path):
    pairs, settings = choose_pairs(mixtures.split("train").scene_listeners), Settings(mixtures.name, "train", "oracle")
    with pytest.raises(AudioError, match=r"Tiny \S+ has no stems, which 'oracle' would return; name another system"):
        evaluation.evaluate(mixtures, load("oracle"), settings, pairs, tmp_path / "out", progress=False)


@pytest.mark.usefixtures("quick_score")
def test_more_pairs_are_added_to_those_already_scored(corpus, tmp_path):
    listeners = corpus.split("train").scene_listeners
    settings, separator = Settings(corpus.name, "train", "oracle"), _Counting()
    evaluation.evaluate(corpus, separator, settings, choose_pairs(listeners, 2), tmp_path, progress=False)
    scores = evaluation.evaluate(corpus, separator, settings, choose_pairs(listeners), tmp_path, progress=False)
    assert separator.calls == len(scores) == 4


@pytest.mark.usefixtures("quick_score")
def test_scores_have_the_official_columns_and_what_is_known_of_each_ear(corpus, tmp_path):
    pairs = choose_pairs(corpus.split("train").scene_listeners, 1)
    settings = Settings(corpus.name, "train", "oracle", output_level_db=30.0)
    evaluation.evaluate(corpus, load("oracle"), settings, pairs, tmp_path, progress=False)
    with (tmp_path / "scores.csv").open() as file:
        header, row = list(csv.reader(file))
    assert tuple(header[:6]) == ("scene", "song", "listener", "left_score", "right_score", "score")
    names = ["clipped_share", "loudness_lufs", "cepstral_correlation", "fine_structure", "loudness", "spectrum"]
    assert header[6:-2] == [f"{ear}_{name}" for name in names for ear in ("left", "right")]
    assert header[-2:] == ["audiogram", "identity"]
    assert float(row[5]) == pytest.approx((float(row[3]) + float(row[4])) / 2)
    assert 0.1 < float(row[6]) < 1
    samples, rate = read_flac_signal(tmp_path / "enhanced_signals" / f"{row[0]}_{row[2]}_remix.flac")
    assert rate == 32000
    assert np.abs(samples).max() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.usefixtures("quick_score")
def test_each_scene_is_separated_once_for_all_its_listeners(corpus, tmp_path):
    split = corpus.split("train")
    scene = next(iter(split.scenes))
    pairs = choose_pairs({scene: list(split.listeners)})
    separator = _Counting()
    evaluation.evaluate(corpus, separator, Settings(corpus.name, "train", "oracle"), pairs, tmp_path, progress=False)
    assert (len(pairs), separator.calls) == (2, 1)


@pytest.mark.usefixtures("quick_score")
def test_a_song_at_the_ears_is_separated_once_however_its_pairs_are_ordered(corpus, tmp_path):
    split = corpus.split("train")
    pairs = choose_pairs({scene: list(split.listeners) for scene in split.scenes})
    pairs = pairs[::2] + pairs[::-2]
    songs = {scene.at_ear_song for scene in split.scenes.values()}
    settings, separator = Settings(corpus.name, "train", "oracle"), _Counting()
    scores = evaluation.evaluate(corpus, separator, settings, pairs, tmp_path, progress=False)
    assert separator.calls == len(songs) < len(pairs)
    assert list(zip(scores["scene"], scores["listener"], strict=True)) == [(p.scene, p.listener) for p in pairs]


def test_processes_find_the_very_scores_of_one_process(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "core_count", lambda: 2)
    pairs = choose_pairs(corpus.split("train").scene_listeners)[::-1]
    settings, folders = Settings(corpus.name, "train", "mixture"), (tmp_path / "one", tmp_path / "two")
    one, two = (
        evaluation.evaluate(corpus, load("mixture"), settings, pairs, folder, progress=False, jobs=jobs)
        for jobs, folder in enumerate(folders, 1)
    )
    assert two.equals(one)
    written = [sorted(path.name for path in folder.rglob("*.flac")) for folder in folders]
    assert written[0] == written[1]
    lines = [sorted((folder / "scores.csv").read_text().splitlines()) for folder in folders]
    assert lines[0] == lines[1]


def test_a_separator_of_this_process_alone_is_refused_for_several(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "core_count", lambda: 2)
    pairs = choose_pairs(corpus.split("train").scene_listeners)
    settings = Settings(corpus.name, "train", "step 3")
    with pytest.raises(ParameterError, match=r"system 'step 3' cannot be pickled for other processes .*; set jobs"):
        evaluation.evaluate(corpus, lambda song: song.stems, settings, pairs, tmp_path, progress=False, jobs=2)


@pytest.mark.usefixtures("quick_score")
def test_scores_of_other_settings_are_not_mixed(corpus, tmp_path):
    pairs = choose_pairs(corpus.split("train").scene_listeners, 1)
    evaluation.evaluate(
        corpus, load("oracle"), Settings(corpus.name, "train", "oracle"), pairs, tmp_path, progress=False
    )
    before = (tmp_path / "scores.csv").read_bytes()
    other = Settings(corpus.name, "train", "oracle", mixture_weight=0.15)
    with pytest.raises(ParameterError, match=r"holds results with mixture_weight 0\.0, not 0\.15; choose another"):
        evaluation.evaluate(corpus, load("oracle"), other, pairs, tmp_path, progress=False)
    assert (tmp_path / "scores.csv").read_bytes() == before


def test_an_output_directory_that_is_a_file_is_refused(corpus, tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(ParameterError, match=r"file cannot be written .*choose another"):
        evaluation.evaluate(corpus, load("oracle"), Settings(corpus.name, "train", "oracle"), [], tmp_path / "file")


def test_an_ear_that_the_gains_silence_is_refused():
    song = tiny_song()
    stems = song.stems.clone()
    stems[:, 1] = 0
    with pytest.raises(AudioError, match="The remix of tiny is silent in at least one channel"):
        reference_remix(replace(song, stems=stems), torch.zeros(4))


def test_a_foreign_table_is_refused(tmp_path):
    (tmp_path / "scores.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CadenzaError, match=r"scores\.csv has no column 'scene'"):
        evaluation.read_scores(tmp_path)


def test_settings_of_something_else_are_refused(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"wheels": 4}))
    with pytest.raises(CadenzaError, match=r"settings\.json does not hold settings"):
        evaluation.read_settings(tmp_path)


def test_a_score_of_silence_says_so(corpus, caplog):
    split = corpus.split("train")
    scene = split.scenes["scene_10001"]
    song = corpus.at_ear_song(split, scene)
    reference = reference_remix(song, corpus.gains_db(scene))
    output = enhance(song, [song.stems], corpus.gains_db(scene), split.listeners["A"])
    output.signal[1] = 0
    score(output, reference, split.listeners["A"], "scene_10001")
    assert [record.getMessage() for record in caplog.records] == [
        "scene_10001 plays nothing to the right ear; its score is that of noise."
    ]


class _Dead:
    """A separator whose process dies."""

    def __call__(self, _):
        os._exit(1)


@pytest.mark.usefixtures("quick_score")
def test_a_job_that_dies_is_told_in_one_sentence_and_the_next_call_goes_on(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "core_count", lambda: 2)
    pairs = choose_pairs(corpus.split("train").scene_listeners)
    settings = Settings(corpus.name, "train", "dead")
    with pytest.raises(ParameterError, match=rf"One of 2 jobs that score for {tmp_path} died, .*which goes on"):
        evaluation.evaluate(corpus, _Dead(), settings, pairs, tmp_path, progress=False, jobs=2)
    assert len(evaluation.evaluate(corpus, _Counting(), settings, pairs, tmp_path, progress=False)) == len(pairs)


MEMORY = """
import sys

import torch

from cadenza_lib.data.corpus import Corpus
from cadenza_lib.scoring.evaluation import Settings, evaluate
from cadenza_lib.haaqi import comparison
from cadenza_lib.data.scenes import STEMS, choose_pairs
from cadenza_lib.separation.separators import network_separator


class Quarters(torch.nn.Module):
    def forward(self, mixture):
        return mixture[:, None].expand(-1, len(STEMS), -1, -1) / len(STEMS)


comparison.GROUP_BYTES //= 20  # so that half a minute is as long as ten minutes are
separator = network_separator(Quarters(), STEMS, torch.device("cpu"))
for root in sys.argv[1:]:
    corpus = Corpus(root)
    pairs = choose_pairs(corpus.split("train").scene_listeners, 1)
    evaluate(corpus, separator, Settings(root, "train", "quarters"), pairs, f"{root}/out", progress=False)
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak from Linux' /proc")
def test_half_a_minute_of_music_takes_less_than_a_third_of_a_gigabyte(tmp_path):
    roots = [tiny_corpus(tmp_path / str(duration_s), duration_s) for duration_s in (1.0, 30.0)]
    command = [sys.executable, "-c", MEMORY, *map(str, roots)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after_a_second, after_half_a_minute = (int(kib) * 1024 / 1e9 for kib in done.stdout.split())
    # The four true stems, the four estimates and the mixture alone are 0.1 GB in float32, and twice that in float64.
    assert after_half_a_minute - after_a_second < 0.33
