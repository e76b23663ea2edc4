"""Any corpus by its name or path."""

from pathlib import Path

from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.embedded import EmbeddedCorpus

__all__ = ["open_corpus"]


def open_corpus(corpus: str | Path) -> Corpus:
    """Open the embedded corpus, "twin", or the one at a path.

    Raises
    ------
    CorpusError
        If there is no usable corpus at the path.
    """
    return EmbeddedCorpus() if corpus == "twin" else Corpus(corpus)
