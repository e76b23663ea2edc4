"""The signals that an evaluation writes are as the challenge specifies them."""

from pathlib import Path

import soundfile
from clarity.utils.flac_encoder import read_flac_signal

from cadenza_lib.core.documents import write_json
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.scenes import choose_pairs
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.scoring.evaluation import Settings, evaluate
from cadenza_lib.separation.separators import load


def test_each_pair_has_a_file_of_official_name_format_and_length(tmp_path: Path) -> None:
    corpus = Corpus(tiny_corpus(tmp_path / "tiny", 0.7))  # 30,870 samples, with NAL-R 31,090: 22,559.6 at 32 kHz
    scenes = corpus.split("train").scenes
    write_json(corpus.metadata / "scene_listeners.train.json", {scene: ["A"] for scene in scenes})
    corpus = Corpus(corpus.root)
    pairs = choose_pairs(corpus.split("train").scene_listeners)
    evaluate(corpus, load("mixture"), Settings(str(corpus.root), "train", "mixture"), pairs, tmp_path / "run", False)
    files = sorted((tmp_path / "run/enhanced_signals").iterdir())
    assert [file.name for file in files] == [f"scene_{number}_A_remix.flac" for number in range(10001, 10005)]
    for file in files:
        info = soundfile.info(file)
        assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", "PCM_16", 32000, 2)
        signal, rate = read_flac_signal(file)  # the official reader
        assert (rate, signal.shape) == (32000, (22560, 2))
        assert signal.any()
