from .execution import run_study
from .notebooks import execute
from .page import write_items
from .study import load_study

__all__ = ["execute", "load_study", "run_study", "write_items"]
