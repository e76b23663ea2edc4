"""The errors a user can cause.

Each is a `CadenzaError` whose one sentence names the file or argument, its value, the bound that it breaks and what to
do about it. Any other exception that escapes from this package is a bug.
"""

__all__ = ["AudioError", "CadenzaError", "CorpusError", "ModelError", "ParameterError"]

_MAX_LENGTH = 1200  # characters of a sentence: a value in it may be a whole file


class CadenzaError(Exception):
    """Base of every error that a user of this package can cause.

    The sentence becomes one printable line, whatever the names and values in it are.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(_one_line(sentence))


class CorpusError(CadenzaError):
    """A data set on disk is missing something, or its metadata cannot be used."""


class AudioError(CadenzaError):
    """A signal cannot be used: wrong rate, channels or length, NaN, silence, or an unreadable file."""


class ModelError(CadenzaError):
    """A separator is unknown, or its checkpoint cannot be loaded."""


class ParameterError(CadenzaError, ValueError):
    """An argument of a function, notebook or study is unknown, of the wrong type or out of bounds."""


def _one_line(text: str) -> str:
    """Return a text without line breaks, with control characters escaped, and without its middle if it is long."""
    line = " ".join(part.strip() for part in text.splitlines())
    line = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in line)
    return line if len(line) <= _MAX_LENGTH else f"{line[: _MAX_LENGTH // 2]} ... {line[-_MAX_LENGTH // 2 :]}"
