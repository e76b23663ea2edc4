"""A stand-in for the challenge's training data: every file name and header of the full set, half a second of audio."""

import shutil
from dataclasses import asdict
from pathlib import Path

import soundfile

from cadenza_lib.audio.acoustics import hrtf_file_name
from cadenza_lib.audio.heads import head_hrtf
from cadenza_lib.core.conventions import SAMPLE_RATE
from cadenza_lib.core.documents import read_json, write_json
from cadenza_lib.core.files import make_directory
from cadenza_lib.data.scenes import LOUDSPEAKER_ANGLES_DEG, gain_grid, head_positions
from cadenza_lib.data.songs import SIGNALS
from cadenza_lib.data.tiny import tiny_corpus

SUBJECTS = [f"VP_{sex}{number}" for sex in "EN" for number in range(1, 9)]  # 16 heads


def full_size_tree(root: Path, n_songs: int = 100) -> Path:
    """Write 100 songs, 96 HRTFs, 1,105 gain sets, 144 head positions and 83 listeners, and no scenes."""
    tiny = tiny_corpus(root / "tiny", 0.5)
    corpus = root / "cadenza"
    songs = [f"Artist {number:03d} - Song" for number in range(n_songs)]
    for index, name in enumerate(songs):
        shutil.copytree(tiny / f"audio/music/train/Tiny {1 + index % 2}", corpus / "audio/music/train" / name)
    hrtf = head_hrtf(-30.0, 30.0)
    folder = make_directory(corpus / "audio" / "hrtf")
    for subject in SUBJECTS:
        for angle in LOUDSPEAKER_ANGLES_DEG:
            for side, ears in zip((-1, 1), hrtf, strict=True):
                path = folder / hrtf_file_name("BTE_fr", subject, side * angle)
                soundfile.write(path, ears.numpy().T, SAMPLE_RATE, subtype="FLOAT")
    listener = read_json(tiny / "metadata/listeners.train.json")["A"]
    metadata = {
        "gains": gain_grid(),
        "head_loudspeaker_positions": {name: asdict(one) for name, one in head_positions(SUBJECTS).items()},
        "listeners.train": {f"L{n:04d}": listener | {"name": f"L{n:04d}"} for n in range(1, 84)},
        "musdb18.train": [{"Track Name": name, "Split": "train", "Path": f"train/{name}"} for name in songs],
    }
    for name, content in metadata.items():
        write_json(corpus / "metadata" / f"{name}.json", content, official=True)
    assert len(list(corpus.rglob("*.wav"))) == n_songs * len(SIGNALS) + 96
    return corpus
