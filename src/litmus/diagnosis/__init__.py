"""What a finished run says: numbers in, numbers out. Pictures of the same numbers are in ``litmus.diagnosis.plots``."""

from litmus.diagnosis.confusion import (
    Confusion,
    confusion_matrix,
    most_confused,
    per_class_err,
    pick_predictions,
)
from litmus.diagnosis.gaps import (
    Diagnosis,
    Gap,
    Gaps,
    Interval,
    diagnose_errors,
    error_gaps,
    newcombe,
    next_moves,
    wilson,
)
from litmus.diagnosis.lr_range import Suggestion, suggest_lr

__all__ = [
    "Confusion",
    "Diagnosis",
    "Gap",
    "Gaps",
    "Interval",
    "Suggestion",
    "confusion_matrix",
    "diagnose_errors",
    "error_gaps",
    "most_confused",
    "newcombe",
    "next_moves",
    "per_class_err",
    "pick_predictions",
    "suggest_lr",
    "wilson",
]
