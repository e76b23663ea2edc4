"""The errors a user can cause.

Each one is a `CadenzaError` whose one sentence names the file or argument, the value found, the bound it breaks and
what to do about it. Anything else that escapes from this package is a bug.
"""

__all__ = ["AudioError", "CadenzaError", "CorpusError", "ModelError", "ParameterError"]


class CadenzaError(Exception):
    """Base of every error that a user of this package can cause."""


class CorpusError(CadenzaError):
    """A data set on disk is missing something, or its metadata cannot be used."""


class AudioError(CadenzaError):
    """A signal cannot be used: wrong rate, channels or length, NaN, silence, or an unreadable file."""


class ModelError(CadenzaError):
    """A separator is unknown, or its checkpoint cannot be loaded."""


class ParameterError(CadenzaError, ValueError):
    """An argument of a function, notebook or study is unknown, of the wrong type or out of bounds."""
