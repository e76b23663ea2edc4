"""Any corpus by its name or path."""

from pathlib import Path

from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.embedded import EMBEDDED_CORPORA, EmbeddedCorpus

__all__ = ["open_corpus"]


def open_corpus(corpus: str | Path) -> Corpus:
    """Open an embedded corpus, "demo" or "twin", or the one at a path.

    Raises
    ------
    CorpusError
        If there is no usable corpus at the path.
    """
    return EmbeddedCorpus(str(corpus)) if corpus in EMBEDDED_CORPORA else Corpus(corpus)
