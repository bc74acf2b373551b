"""What a finished run says: numbers in, numbers out. Pictures of the same numbers are in ``litmus.diagnosis.plots``."""

from litmus.diagnosis.calibration import Bin, Calibration, reliability
from litmus.diagnosis.confusion import (
    Confusion,
    confused_images,
    confusion_matrix,
    most_confused,
    per_class_err,
    pick_predictions,
)
from litmus.diagnosis.embedding import Embedding, embed, knn_err, spread_over_classes
from litmus.diagnosis.gaps import (
    Diagnosis,
    Gap,
    Gaps,
    Interval,
    diagnose_errors,
    diagnose_seeds,
    error_gaps,
    newcombe,
    wilson,
)
from litmus.diagnosis.losses import TopLoss, top_losses
from litmus.diagnosis.lr_range import Suggestion, suggest_lr
from litmus.diagnosis.moves import Move, next_moves

__all__ = [
    "Bin",
    "Calibration",
    "Confusion",
    "Diagnosis",
    "Embedding",
    "Gap",
    "Gaps",
    "Interval",
    "Move",
    "Suggestion",
    "TopLoss",
    "confused_images",
    "confusion_matrix",
    "diagnose_errors",
    "diagnose_seeds",
    "embed",
    "error_gaps",
    "knn_err",
    "most_confused",
    "newcombe",
    "next_moves",
    "per_class_err",
    "pick_predictions",
    "reliability",
    "spread_over_classes",
    "suggest_lr",
    "top_losses",
    "wilson",
]
