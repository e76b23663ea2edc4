"""Everything that is kept is computed again, or refused, if what decides it has changed, and kept if nothing has.

`EXPECTED` is the table of changes against caches. HAAQI is replaced by the level of what is heard.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from stubs import write_notebook

from cadenza_lib.analysis import ascent, personal
from cadenza_lib.analysis.tables import tidy_table
from cadenza_lib.chain.pipeline import ChainSettings
from cadenza_lib.core import identity
from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.errors import CadenzaError, CorpusError, ParameterError
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.listeners import load_listeners
from cadenza_lib.data.scenes import choose_pairs
from cadenza_lib.data.simulation import plan_simulation, simulate
from cadenza_lib.data.songs import RECORD
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.haaqi import Components
from cadenza_lib.runs.notebooks import execute
from cadenza_lib.scoring import evaluation, optimiser, sweep
from cadenza_lib.scoring.evaluation import Settings, evaluate
from cadenza_lib.scoring.levels import evaluate_levels
from cadenza_lib.scoring.pairs import PairReference, PairScore
from cadenza_lib.separation import checkpoints, estimates, separators
from cadenza_lib.separation.openunmix import OpenUnmix
from cadenza_lib.training import segments
from cadenza_lib.training.files import Config
from cadenza_lib.training.finetuning import finetune

ARGUMENTS: dict[str, Any] = {"sources": list(STEMS), "hidden_size": 4, "n_fft": 512, "hop_length": 128}
SONG = "corpus/audio/music/train/Tiny 1"


def write_network(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    card = {"architecture": "openunmix", "arguments": ARGUMENTS}
    checkpoints.save_checkpoint(OpenUnmix(**ARGUMENTS), path, card, torch.float32)


def rewrite_json(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def rewrite_audio(path: Path) -> None:
    """Replace a file of audio by another take of the same length."""
    info = soundfile.info(path)
    signal, rate = soundfile.read(path)
    soundfile.write(path, 0.5 * signal[::-1], rate, subtype=info.subtype)


@pytest.fixture(autouse=True)
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace what is slow, and count what is computed."""
    calls: list[str] = []

    def level(_: PairReference, output: Any) -> PairScore:
        calls.append("score")
        left, right = (Components(float(np.tanh(np.std(signal))), *[0.5] * 6) for signal in output.signal)
        return PairScore((left, right), tuple(map(float, output.clipped_share)), (-20.0, -20.0))

    def loaded(*arguments: Any) -> Any:
        calls.append("separator")
        return separators.load(*arguments)

    def measured(*arguments: Any) -> Any:
        calls.append("loudness")
        return measure(*arguments)

    def fused(*_: Any) -> ascent.PersonalFusion:
        calls.append("personal")
        return ascent.PersonalFusion(ChainSettings(model_weights=(0.5, 0.5), mixture_weight=0.1), [0.5])

    measure = segments.loudness_matching_gain
    monkeypatch.setattr(PairReference, "score", level)
    monkeypatch.setattr(PairReference, "_ear", lambda *_: None)
    monkeypatch.setattr(estimates, "load", loaded)
    monkeypatch.setattr(segments, "loudness_matching_gain", measured)
    monkeypatch.setattr(personal, "optimise_fusion", fused)
    monkeypatch.setattr(personal, "optimise_fitting", lambda *_: ascent.PersonalFitting(0.0, TRIMS_DB, [0.5]))
    return calls


TRIMS_DB = ((0.0, 0.0),) * 6

# What is kept. Each function computes what is missing in a folder, and returns what it has then.


def scores(inputs: Path, folder: Path) -> pd.DataFrame:
    corpus, name = Corpus(inputs / "corpus"), str(inputs / "network.safetensors")
    pairs = choose_pairs(corpus.split("train").scene_listeners)
    settings = Settings(corpus.name, "train", name)
    return evaluate(corpus, separators.load(name, "cpu"), settings, pairs, folder, progress=False)


def open_sweep(inputs: Path, folder: Path) -> tuple[sweep.Sweep, sweep.PairSet, sweep.PairSet]:
    corpus, models = str(inputs / "corpus"), [str(inputs / "network.safetensors"), "mixture"]
    scorer = sweep.Sweep(corpus, models, folder, device="cpu", progress=False)
    return scorer, *sweep.search_and_test(Corpus(corpus), "train", "train", 0, 0)


def fusions(inputs: Path, folder: Path) -> pd.DataFrame:
    scorer, searched, _ = open_sweep(inputs, folder)
    return scorer.scores([ChainSettings(model_weights=(0.5, 0.5))], searched)


def search(inputs: Path, folder: Path) -> list[ChainSettings]:
    scorer, searched, _ = open_sweep(inputs, folder)
    return optimiser.search(scorer, searched, optimiser.Space(2), n_trials=2)


def personal_settings(inputs: Path, folder: Path) -> pd.DataFrame:
    scorer, searched, held_out = open_sweep(inputs, folder)
    return personal.compare_settings(
        scorer, searched, held_out, [ChainSettings(model_weights=(0.5, 0.5))], 1, n_scenes=1
    )


def levels(inputs: Path, folder: Path) -> pd.DataFrame:
    corpus = Corpus(inputs / "corpus")
    pairs = choose_pairs(corpus.split("train").scene_listeners)
    systems = ["oracle", str(inputs / "network.safetensors")]
    table = evaluate_levels(corpus, "train", systems, pairs, folder, (0.0,), "cpu", progress=False)
    return table.replace(systems[1], "network")


def separations(inputs: Path, folder: Path) -> None:
    corpus = Corpus(inputs / "corpus")
    split = corpus.split("train")
    separator = estimates.cached_separator(str(inputs / "network.safetensors"), folder, "cpu")
    for scene in split.scenes.values():
        separator(corpus.at_ear_song(split, scene))


def ear_gains(inputs: Path, folder: Path) -> None:
    corpus = Corpus(inputs / "corpus")
    split = corpus.split("train")
    scenes = segments.training_scenes(corpus, split)
    gain_file = folder / "at_ear_gains.json"
    drawn = segments.Segments(corpus, split, scenes, 0.5, 0, gain_file=gain_file)
    for entry in scenes:
        drawn.segment(entry.scene, 0)


def training(inputs: Path, folder: Path, **changes: Any) -> int:
    settings: dict[str, Any] = {"segment_s": 0.5, "batch_size": 1, "n_valid_segments": 1, "max_steps": 1}
    names = {"corpus": str(inputs / "corpus"), "init": str(inputs / "network.safetensors"), "valid_split": "train"}
    return finetune(Config(**names, **settings, **changes, device="cpu"), folder, progress=False).steps


CACHES = (scores, fusions, search, personal_settings, levels, separations, ear_gains, training)

# What may change.


def nothing(_: Path) -> None:
    pass


def other_program(inputs: Path) -> None:
    """Metadata mean the same, but are written by another program: another order, spacing and numbers."""
    for path in (inputs / "corpus/metadata").glob("*.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content, indent=1).replace("-6,", "-6.0,").replace("-6\n", "-6.0\n"))


def weights(inputs: Path) -> None:
    write_network(inputs / "network.safetensors", seed=1)


def threshold(inputs: Path) -> None:
    def change(listeners: Any) -> Any:
        for listener in listeners.values():
            listener["audiogram_levels_l"][4] += 10
        return listeners

    rewrite_json(inputs / "corpus/metadata/listeners.train.json", change)


def gain(inputs: Path) -> None:
    def change(gains: Any) -> Any:
        return {name: {**stems, "vocals": stems["vocals"] + 1} for name, stems in gains.items()}

    rewrite_json(inputs / "corpus/metadata/gains.json", change)


def stem(inputs: Path) -> None:
    for song in ("Tiny 1", "Tiny 2"):
        rewrite_audio(inputs / "corpus/audio/music/train" / song / "vocals.wav")


def mixture(inputs: Path) -> None:
    for song in ("Tiny 1", "Tiny 2"):
        rewrite_audio(inputs / "corpus/audio/music/train" / song / "mixture.wav")


def responses(inputs: Path) -> None:
    for path in (inputs / "corpus/audio/hrtf").iterdir():
        signal, rate = soundfile.read(path)
        soundfile.write(path, np.roll(signal, 3, axis=0), rate, subtype="FLOAT")


def at_the_ears(inputs: Path) -> None:
    """The same songs lie on the disk as they sound at the ears."""
    simulate(Corpus(inputs / "corpus"), "train", progress=False)


PAIRS = {"scores", "fusions", "search", "personal_settings", "levels"}
REFUSED = {"training": "holds results with training_data"}
EXPECTED: dict[Callable[[Path], None], tuple[set[str], dict[str, str]]] = {  # what is computed again, and refused
    nothing: (set(), {}),
    other_program: (set(), {}),
    at_the_ears: (set(), {}),
    weights: (
        {"scores", "levels", "separations"},
        dict.fromkeys(("fusions", "search", "personal_settings"), "holds results with identities")
        | {"training": "holds results with weights"},
    ),
    threshold: (PAIRS, REFUSED),
    gain: (PAIRS, REFUSED),
    stem: (PAIRS | {"ear_gains"}, REFUSED),
    mixture: (PAIRS | {"ear_gains", "separations"}, REFUSED),
    responses: (PAIRS | {"ear_gains", "separations"}, REFUSED),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return inputs and, once a test has computed them, what the caches keep of them."""
    root = tmp_path_factory.mktemp("kept")
    tiny_corpus(root / "inputs/corpus", 0.6)
    write_network(root / "inputs/network.safetensors", seed=0)
    return root


@pytest.mark.parametrize("change", EXPECTED, ids=lambda change: change.__name__)
def test_what_is_kept_is_computed_again_if_what_decides_it_has_changed(
    change: Callable[[Path], None], kept: Path, tmp_path: Path, computed: list[str]
) -> None:
    for cache in CACHES:
        if not (kept / cache.__name__).exists():
            (kept / cache.__name__).mkdir()
            cache(kept / "inputs", kept / cache.__name__)
    # Inputs and results lie elsewhere now, which nothing depends on.
    root = shutil.copytree(kept, tmp_path / "moved")
    computed.clear()
    for cache in CACHES:
        cache(root / "inputs", root / cache.__name__)
    assert computed == []
    change(root / "inputs")
    again, refused = set(), {}
    for cache in CACHES:
        computed.clear()
        try:
            result = cache(root / "inputs", root / cache.__name__)
        except CadenzaError as error:
            refused[cache.__name__] = str(error)
            continue
        if computed:
            again.add(cache.__name__)
            if isinstance(result, pd.DataFrame):
                fresh = cache(root / "inputs", tmp_path / f"fresh {cache.__name__}")
                pd.testing.assert_frame_equal(result, fresh, check_exact=True)
    assert (again, refused.keys()) == (EXPECTED[change][0], EXPECTED[change][1].keys())
    for name, reason in EXPECTED[change][1].items():
        assert reason in refused[name]


def test_results_of_another_system_or_corpus_are_refused(kept: Path, tmp_path: Path) -> None:
    root = shutil.copytree(kept / "inputs", tmp_path / "inputs").parent
    expected = scores(root / "inputs", tmp_path / "out")
    write_network(root / "other.safetensors", seed=2)
    corpus = Corpus(root / "inputs/corpus")
    pairs = choose_pairs(corpus.split("train").scene_listeners)
    other = Settings(corpus.name, "train", str(root / "other.safetensors"))
    with pytest.raises(ParameterError, match=r"holds results with system '.*network\.safetensors', not '.*other"):
        evaluate(corpus, separators.load(other.system, "cpu"), other, pairs, tmp_path / "out", progress=False)
    assert evaluation.read_scores(tmp_path / "out")["score"].tolist() == expected["score"].tolist()


def test_only_pairs_of_a_corrected_listener_are_scored_again(kept: Path, tmp_path: Path, computed: list[str]) -> None:
    root = shutil.copytree(kept / "inputs", tmp_path / "inputs").parent
    scores(root / "inputs", tmp_path / "out")
    split = Corpus(root / "inputs/corpus").split("train")
    n_pairs = sum(names.count("A") for names in split.scene_listeners.values())

    def change(listeners: Any) -> Any:
        listeners["A"]["audiogram_levels_r"][0] += 5
        return listeners

    rewrite_json(root / "inputs/corpus/metadata/listeners.train.json", change)
    computed.clear()
    scores(root / "inputs", tmp_path / "out")
    assert computed.count("score") == n_pairs < sum(map(len, split.scene_listeners.values()))


def test_scores_are_not_joined_with_audiograms_that_have_changed(kept: Path, tmp_path: Path) -> None:
    root = shutil.copytree(kept / "inputs", tmp_path / "inputs").parent
    scores(root / "inputs", tmp_path / "out")
    path = root / "inputs/corpus/metadata/listeners.train.json"
    assert len(tidy_table(tmp_path / "out", load_listeners(path))) == 2 * 4
    threshold(root / "inputs")
    with pytest.raises(CorpusError, match=r"scores\.csv was computed for other thresholds of listener '[AB]' than are"):
        tidy_table(tmp_path / "out", load_listeners(path))


def test_rows_and_signals_that_are_no_longer_valid_do_not_stay(kept: Path, tmp_path: Path) -> None:
    root = shutil.copytree(kept / "inputs", tmp_path / "inputs").parent
    scores(root / "inputs", tmp_path / "out")
    weights(root / "inputs")
    corpus, name = Corpus(root / "inputs/corpus"), str(root / "inputs/network.safetensors")
    pairs = choose_pairs(corpus.split("train").scene_listeners)[:1]
    evaluate(corpus, separators.load(name, "cpu"), Settings(corpus.name, "train", name), pairs, tmp_path / "out")
    assert len(evaluation.read_scores(tmp_path / "out")) == 1
    assert len(list((tmp_path / "out/enhanced_signals").iterdir())) == 1


def test_songs_at_the_ears_are_written_again_if_what_they_are_made_of_has_changed(kept: Path, tmp_path: Path) -> None:
    root = shutil.copytree(kept / "inputs/corpus", tmp_path / "corpus")
    simulate(Corpus(root), "train", progress=False)
    assert plan_simulation(Corpus(root), "train").missing == ()
    rewrite_audio(root / "audio/music/train/Tiny 1/vocals.wav")
    corpus = Corpus(root)
    split = corpus.split("train")
    scene = next(scene for scene in split.scenes.values() if scene.music == "Tiny 1")
    with pytest.raises(CorpusError, match=r"was simulated from files that have changed; simulate the split again"):
        corpus.song_identity(split, scene)
    assert {name.partition("-")[0] for name in plan_simulation(corpus, "train").missing} == {"Tiny 1"}
    simulate(corpus, "train", progress=False)
    fresh = shutil.copytree(root, tmp_path / "fresh")
    shutil.rmtree(fresh / "audio/at_mic_music")
    simulate(Corpus(fresh), "train", progress=False)
    for path in (fresh / "audio/at_mic_music").rglob("*.wav"):
        assert path.read_bytes() == (root / path.relative_to(fresh)).read_bytes()


def test_songs_at_the_ears_of_another_program_are_known_by_their_content(kept: Path, tmp_path: Path) -> None:
    root = shutil.copytree(kept / "inputs/corpus", tmp_path / "corpus")
    simulate(Corpus(root), "train", progress=False)
    corpus = Corpus(root)
    split = corpus.split("train")
    scene = next(iter(split.scenes.values()))
    folder = corpus.at_ear_folder(split.at_ear_songs[scene.at_ear_song])
    (folder / RECORD).unlink()
    before = corpus.song_identity(split, scene)
    assert plan_simulation(corpus, "train").missing == ()  # there is nothing to tell what it was made of
    rewrite_audio(folder / "drums.wav")
    assert corpus.song_identity(split, scene) != before


def test_a_raised_version_of_the_chain_makes_everything_again(
    kept: Path, tmp_path: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores(kept / "inputs", tmp_path / "out")
    computed.clear()
    monkeypatch.setattr(identity, "CHAIN_VERSION", identity.CHAIN_VERSION + 1)
    scores(kept / "inputs", tmp_path / "out")
    assert computed.count("score") == 4


@pytest.mark.parametrize("cache", [cache for cache in CACHES if cache not in (separations, ear_gains)])
def test_forced_run_computes_everything_again_once(
    cache: Callable[[Path, Path], Any], kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache(kept / "inputs", tmp_path)
    (tmp_path / "mine.txt").write_text("of a person")
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setenv(identity.FORCE_VARIABLE, "first")
    cache(kept / "inputs", tmp_path)
    again = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert again.keys() == files.keys()
    unchanged = {path.name for path in files if again[path] == files[path]}
    assert unchanged <= {"mine.txt", ".training.lock"}
    cache(kept / "inputs", tmp_path)  # the same forced run goes on
    assert {path: path.stat().st_mtime_ns for path in again if not path.name.endswith(".json")}.items() <= again.items()


def test_run_of_a_notebook_is_finished_until_its_corpus_or_network_changes(kept: Path, tmp_path: Path) -> None:
    inputs = shutil.copytree(kept / "inputs", tmp_path / "inputs")
    parameters = 'corpus: NameOrPath = "twin"  # what\nsystem: NameOrPath = ""  # which\nout_dir: str = "."  # where'
    cell = "from pathlib import Path\nwith Path(out_dir, 'count.txt').open('a') as file:\n    file.write('x')"
    notebook = write_notebook(tmp_path / "notebook.ipynb", parameters, cell)

    def count(inputs: Path) -> int:
        names = {"corpus": str(inputs / "corpus"), "system": str(inputs / "network.safetensors")}
        execute(notebook, names, tmp_path / "out")
        return len((tmp_path / "out/count.txt").read_text())

    assert count(inputs) == count(inputs) == 1
    assert count(inputs.rename(tmp_path / "elsewhere")) == 1
    inputs = tmp_path / "elsewhere"
    for number, change in enumerate((threshold, stem, weights), 2):
        change(inputs)
        assert count(inputs) == count(inputs) == number


def test_large_files_are_known_by_size_time_and_blocks(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    noise = np.random.default_rng(0).integers(-9999, 9999, (5_000_000, 2)).astype(np.int16)
    soundfile.write(path, noise, SAMPLE_RATE)
    before = identity.song_file_identity(path)
    copy = shutil.copy2(path, tmp_path / "copy.wav")
    assert identity.song_file_identity(copy) == before
    soundfile.write(path, np.roll(noise, 1, axis=0), SAMPLE_RATE)
    assert identity.song_file_identity(path) != before
