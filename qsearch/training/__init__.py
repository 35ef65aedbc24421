"""Plain float training of a network on folders of original images."""

from qsearch.training.patches import Patches
from qsearch.training.run import TrainingResult, train
from qsearch.training.settings import TrainingSettings

__all__ = ["Patches", "TrainingResult", "TrainingSettings", "train"]
