"""Training on folders of original images: a float network, or an allocation of one, quantization-aware."""

from qsearch.training.patches import Patches
from qsearch.training.qat import QuantizedResult, train_quantized
from qsearch.training.run import TrainingResult, train
from qsearch.training.settings import QuantizedSettings, TrainingSettings

__all__ = [
    "Patches",
    "QuantizedResult",
    "QuantizedSettings",
    "TrainingResult",
    "TrainingSettings",
    "train",
    "train_quantized",
]
