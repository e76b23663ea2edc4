"""A corpus of six seconds of real music without a download: the example song of the package stempeg, at twin's ears.

The song is an excerpt of "Falcon 69" by The Easton Ellises, of MUSDB18, with mixture and four stems; according to the
package it is licensed under CC BY-NC-SA 3.0. Heads, gains and listeners are those of the twin.
"""

from importlib.util import find_spec
from pathlib import Path

import soundfile
from torch import Tensor

from cadenza_lib.audio.media import STEM_SUFFIX, read_stems
from cadenza_lib.core.conventions import SAMPLE_RATE
from cadenza_lib.core.documents import read_json, write_json
from cadenza_lib.core.errors import CorpusError
from cadenza_lib.core.files import atomic_path
from cadenza_lib.core.paths import absolute_path
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.embedded import EmbeddedCorpus
from cadenza_lib.data.supplement import draw_scenes

__all__ = ["SAMPLE_SONG", "SAMPLE_SPLIT", "sample_corpus"]

SAMPLE_SONG = "The Easton Ellises - Falcon 69 (CC BY-NC-SA 3.0), six seconds, from the package stempeg"
"""What the song is, its licence and its source."""

SAMPLE_SPLIT = "valid"
"""The split that is made, with the listeners of the twin's split of that name."""

_MUSIC = slice(4410, 264600)  # samples between the clicks with which all five tracks begin and end


def sample_corpus(root: Path | str) -> Corpus:
    """Make a corpus of the song, with four scenes of two listeners each; what is there already is kept.

    Raises
    ------
    CorpusError
        If stempeg is not installed, or the directory holds another corpus.
    AudioError
        If PyAV is not installed, or cannot read the song.
    ParameterError
        If the directory cannot be written.
    """
    spec = find_spec("stempeg")  # which is only found: importing it would need ffmpeg
    if spec is None or spec.origin is None:
        raise CorpusError("The package stempeg, which has the song, is missing; pip install 'cadenza-companion[real]'.")
    root, twin = absolute_path(root), EmbeddedCorpus()
    names = ("gains.json", "head_loudspeaker_positions.json", f"listeners.{SAMPLE_SPLIT}.json")
    metadata = {root / "metadata" / name: read_json(twin.metadata_file(name)) for name in names}
    (source,) = (Path(spec.origin).parent / "data").glob(f"*{STEM_SUFFIX}")
    song = source.name.removesuffix(STEM_SUFFIX)
    entry = {"Track Name": song, "Split": SAMPLE_SPLIT, "Path": f"{SAMPLE_SPLIT}/{song}"}
    metadata[root / "metadata" / f"musdb18.{SAMPLE_SPLIT}.json"] = [entry]
    if others := [path for path, content in metadata.items() if path.exists() and read_json(path) != content]:
        raise CorpusError(f"{others[0]} belongs to another corpus; name a new directory.")
    for signal, samples in read_stems(source)[0].items():
        _write_audio(root / "audio" / "music" / entry["Path"] / f"{signal}.wav", samples[:, _MUSIC])
    for path, content in metadata.items():
        write_json(path, content, official=True)
    corpus = Corpus(root)
    for name, position in corpus.head_positions.items():
        for path, ears in zip(corpus.hrtf_files(position), twin.hrtf(name), strict=True):
            _write_audio(path, ears)
    draw_scenes(corpus, SAMPLE_SPLIT)
    return corpus


def _write_audio(path: Path, signal: Tensor) -> None:
    """Write a signal `(channel, time)`, unless it is there: several head positions share an HRTF."""
    if not path.exists():
        with atomic_path(path) as temporary:
            soundfile.write(temporary, signal.T.numpy(), SAMPLE_RATE, subtype="FLOAT")
