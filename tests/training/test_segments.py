import json
import time
from dataclasses import asdict

import numpy as np
import pytest
import soundfile
import torch
from recipes.cad_icassp_2024.generate_dataset import generate_at_mic_musdb18 as recipe

from cadenza_lib.chain.fitting import PRESCRIPTIONS
from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.errors import AudioError, ParameterError
from cadenza_lib.data import embedded
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.embedded import EmbeddedCorpus
from cadenza_lib.data.scenes import sample_scenes
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.training.segments import Prefetcher, Segments, TrainingScene, training_scenes

SEGMENT_S = 0.5
LSB = 1 / 32768  # truncation to 16 bits may fall to either side of a step


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(tiny_corpus(tmp_path_factory.mktemp("corpus") / "tiny", duration_s=1.5))


@pytest.fixture(scope="module")
def scenes(corpus: Corpus) -> list[TrainingScene]:
    return training_scenes(corpus, corpus.split("train"))


def _segments(corpus: Corpus, scenes: list[TrainingScene], *augmentations: str, seed: int = 0) -> Segments:
    return Segments(corpus, corpus.split("train"), scenes, SEGMENT_S, seed, augmentations)


def _official_song(corpus: Corpus, scene: TrainingScene) -> np.ndarray:
    """Simulate a whole song by the recipe's functions, before it is written: `(signal, time, channel)`."""
    split = corpus.split("train")
    stems, mixture = corpus.song(split, scene.scene.music)
    left, right = corpus.hrtf(scene.scene.head_loudspeaker_positions).numpy()
    signals = []
    for dry in (*stems, mixture):
        heard = recipe.apply_hrtf(dry.numpy().T, left.T, right.T)
        signals.append(recipe.normalise_lufs_level(heard, dry.numpy().T, SAMPLE_RATE))
    return np.stack(signals)


@pytest.mark.exact
def test_dry_segments_are_those_of_the_loudspeakers(corpus, scenes):
    split = corpus.split("train")
    stems, mixture = corpus.song(split, scenes[0].scene.music)
    segment = Segments(corpus, split, scenes, SEGMENT_S, 0, dry=True).segment(scenes[0].scene, 500)
    expected = torch.cat([stems, mixture[None]])[..., 500 : 500 + segment.shape[-1]]
    assert torch.equal(segment, expected.float())


@pytest.mark.parametrize("start", [0, 1, 200, 44100])
def test_a_simulated_segment_is_the_slice_of_the_official_simulation(corpus, scenes, start):
    segments = _segments(corpus, scenes)
    segment = segments.segment(scenes[0].scene, start)
    official = _official_song(corpus, scenes[0])[:, start : start + segments.length]
    np.testing.assert_allclose(segment.double().mT.numpy(), official, rtol=0, atol=1.01 * LSB)
    assert torch.equal(segment * 32768, (segment * 32768).round())  # rounded to 16 bits as the official files are


def test_a_segment_is_read_from_disk_where_the_corpus_has_it(tmp_path):
    root = tiny_corpus(tmp_path / "tiny", duration_s=1.5)
    simulated = Corpus(root)
    split = simulated.split("train")
    scene = next(iter(split.scenes.values()))
    folder = root / "audio" / "at_mic_music" / "train" / scene.at_ear_song
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(-9000, 9000, (5, 66150, 2)).astype(np.int16)
    for name, samples in zip((*STEMS, "mixture"), noise, strict=True):
        soundfile.write(folder / f"{name}.wav", samples, SAMPLE_RATE, subtype="PCM_16")
    entry = {"Track Name": scene.at_ear_song, "Split": "train", "Path": f"train/{scene.at_ear_song}"}
    (root / "metadata" / "at_mic_music.train.json").write_text(json.dumps({scene.at_ear_song: entry}))
    corpus = Corpus(root)
    segment = _segments(corpus, training_scenes(corpus, corpus.split("train"))).segment(scene, 1000)
    np.testing.assert_array_equal(segment.mT.numpy() * 32768, noise[:, 1000 : 1000 + 22050])


def test_the_twin_gives_slices_of_its_songs():
    corpus = EmbeddedCorpus()
    split = corpus.split("train")
    entry = dict(split.songs["Twin Song 01"], Duration=4.0)  # rendering takes time
    split.songs["Twin Song 01"].update(entry)
    stems, mixture = corpus.song(split, "Twin Song 01")
    excerpt = corpus.dry_excerpt(split, "Twin Song 01", 1000, 3000)
    assert torch.equal(excerpt, torch.cat([stems, mixture[None]])[..., 1000:3000])
    scene = next(iter(split.scenes.values()))
    assert corpus.song_length(split, scene) == mixture.shape[-1]


def test_loudness_gains_of_whole_songs_are_remembered_on_disk(corpus, scenes, tmp_path, monkeypatch):
    split, file = corpus.split("train"), tmp_path / "gains.json"
    first = Segments(corpus, split, scenes, SEGMENT_S, 0, gain_file=file).segment(scenes[0].scene, 500)

    def refuse(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("cadenza_lib.training.segments.loudness_matching_gain", refuse)
    again = Segments(corpus, split, scenes, SEGMENT_S, 0, gain_file=file).segment(scenes[0].scene, 500)
    assert torch.equal(first, again)


def test_an_item_depends_on_seed_step_and_place_alone(corpus, scenes):
    batch = _segments(corpus, scenes).batch(3, range(4))
    alone = _segments(corpus, scenes).batch(3, [2])
    for name in ("stems", "mixture", "gains_db", "firs"):
        assert torch.equal(getattr(batch, name)[2:3], getattr(alone, name))
    for seed, step, index in ((0, 4, 2), (0, 3, 1), (1, 3, 2)):
        other = _segments(corpus, scenes, seed=seed).batch(step, [index])
        assert not torch.equal(other.mixture, alone.mixture)


def test_gains_and_listener_belong_to_the_scene(corpus):
    split = corpus.split("train")
    for scene in training_scenes(corpus, split):
        batch = _segments(corpus, [scene]).batch(0, range(4))
        assert torch.equal(batch.gains_db, corpus.gains_db(scene.scene).float().expand(4, -1))
        firs = [
            PRESCRIPTIONS["nal_r"].firs(split.listeners[name]).float() for name in split.scene_listeners[scene.name]
        ]
        assert all(any(torch.equal(item, fir) for fir in firs) for item in batch.firs)


def test_every_start_of_a_segment_is_possible(monkeypatch):
    corpus = EmbeddedCorpus()
    drawn = []

    class Recording(Segments):
        def segment(self, scene, start):  # noqa: ARG002
            drawn.append(start)
            return torch.zeros(5, 2, self.length)

    monkeypatch.setattr(embedded._SynthesisedSong, "check", lambda _: 22050 + 3)
    split = corpus.split("train")
    Recording(corpus, split, training_scenes(corpus, split), SEGMENT_S, 0).batch(0, range(200))
    assert set(drawn) == {0, 1, 2, 3}


def test_swap_and_flip_change_stems_and_mixture_together(corpus, scenes):
    plain = _segments(corpus, scenes).batch(0, range(8))
    swapped = _segments(corpus, scenes, "swap").batch(0, range(8))
    flipped = _segments(corpus, scenes, "flip").batch(0, range(8))
    for changed, expected in ((swapped, lambda signal: signal.flip(-2)), (flipped, torch.neg)):
        kinds = set()
        for index in range(8):
            pair = (plain.stems[index], changed.stems[index]), (plain.mixture[index], changed.mixture[index])
            kind = not torch.equal(*pair[0])
            assert all(torch.equal(after, expected(before) if kind else before) for before, after in pair)
            kinds.add(kind)
        assert kinds == {True, False}  # half of them


def test_remix_and_gain_make_a_mixture_that_is_the_sum_of_its_stems(corpus, scenes):
    plain = _segments(corpus, scenes).batch(0, range(4))
    for augmentation in ("remix", "gain"):
        batch = _segments(corpus, scenes, augmentation).batch(0, range(4))
        assert not torch.equal(batch.stems, plain.stems)
        torch.testing.assert_close(batch.mixture, batch.stems.sum(1))
    change_db = 20 * torch.log10(batch.stems.std(-1) / plain.stems.std(-1))
    assert change_db.abs().max() <= 6.001
    assert change_db.std() > 1


def test_subsets_of_scenes_are_nested_and_the_official_come_first():
    corpus = EmbeddedCorpus()
    split = corpus.split("train")
    largest = training_scenes(corpus, split, 240, scene_seed=3)
    for n_scenes in (1, 6, 95, 96, 97, 120, 192, 239):
        assert training_scenes(corpus, split, n_scenes, scene_seed=3) == largest[:n_scenes]
    assert {scene.name for scene in largest[:96]} == set(split.scenes)
    assert training_scenes(corpus, split) == training_scenes(corpus, split, 96)
    assert training_scenes(corpus, split, 6, scene_seed=4) != largest[:6]


def test_twice_the_scenes_are_the_official_samplers_eight_per_song():
    corpus = EmbeddedCorpus()
    split = corpus.split("train")
    chosen = {tuple(asdict(entry.scene).values()) for entry in training_scenes(corpus, split, 192)}
    official = sample_scenes(split.songs, corpus.gains, corpus.head_positions, scenes_per_song=8)
    assert chosen == {tuple(asdict(scene).values()) for scene in official.values()}


@pytest.mark.parametrize("n_scenes", [-1, 10**6])
def test_more_scenes_than_the_corpus_gives_are_refused(n_scenes):
    corpus = EmbeddedCorpus()
    with pytest.raises(ParameterError, match=f"n_scenes {n_scenes} must lie between 0 .the 96 scenes .* and 3456"):
        training_scenes(corpus, corpus.split("train"), n_scenes)


def test_a_segment_longer_than_its_song_is_refused(corpus, scenes):
    expected = r"Tiny \d lasts 1\.500 s, one of 2 songs of split 'train' .* less than the 2 s needed; .*lower segment_s"
    with pytest.raises(AudioError, match=expected):
        Segments(corpus, corpus.split("train"), scenes, 2.0, 0)


def test_a_segment_without_loudness_and_an_unknown_augmentation_are_refused(corpus, scenes):
    with pytest.raises(ParameterError, match=r"segment_s 0.3 must be at least 0.4 s"):
        Segments(corpus, corpus.split("train"), scenes, 0.3, 0)
    with pytest.raises(ParameterError, match="Augmentation 'pitch' is unknown"):
        _segments(corpus, scenes, "pitch")


@pytest.mark.parametrize("workers", [1, 3])
def test_prefetched_batches_come_in_order(corpus, scenes, workers):
    segments = _segments(corpus, scenes)
    batches = list(Prefetcher(segments, range(2, 9), [0], workers))
    assert len(batches) == 7
    for step, batch in zip(range(2, 9), batches, strict=True):
        assert torch.equal(batch.mixture, segments.batch(step, [0]).mixture)


def test_waiting_is_the_time_for_which_no_batch_was_ready():
    class Slow:
        def batch(self, step: int, _: object) -> int:
            time.sleep(0.1)
            return step

    waiting = Prefetcher(Slow(), range(4), [0], 1)  # type: ignore[arg-type]
    assert list(waiting) == [0, 1, 2, 3]
    assert waiting.waited_s == pytest.approx(0.4, abs=0.15)
    busy = Prefetcher(Slow(), range(4), [0], 1)  # type: ignore[arg-type]
    for _ in busy:
        time.sleep(0.3)  # what is longer than the preparation hides it, but for the first batch
    assert busy.waited_s == pytest.approx(0.1, abs=0.08)


def test_an_error_in_a_thread_reaches_the_training():
    class Torn:
        def batch(self, step: int, _: object) -> int:
            raise AudioError(f"step {step} is torn")

    with pytest.raises(AudioError, match="step 0 is torn"):
        list(Prefetcher(Torn(), range(3), [0], 2))  # type: ignore[arg-type]
