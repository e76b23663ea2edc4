from .files import Config, read_metrics
from .finetuning import finetune
from .segments import training_scenes

__all__ = ["Config", "finetune", "read_metrics", "training_scenes"]
