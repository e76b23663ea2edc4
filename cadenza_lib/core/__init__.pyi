from .conventions import EARS, OUTPUT_SAMPLE_RATE, SAMPLE_RATE, STEMS
from .errors import CadenzaError
from .files import make_directory
from .paths import NameOrPath
from .processes import process_pool

__all__ = [
    "EARS",
    "OUTPUT_SAMPLE_RATE",
    "SAMPLE_RATE",
    "STEMS",
    "CadenzaError",
    "NameOrPath",
    "make_directory",
    "process_pool",
]
