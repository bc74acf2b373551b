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
from litmus.diagnosis.curve import CurveReading, Gain, Point, Trend, read_curve
from litmus.diagnosis.embedding import Embedding, embed, knn_err, spread_over_classes
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
from litmus.diagnosis.losses import TopLoss, top_losses
from litmus.diagnosis.lr_range import Suggestion, suggest_lr
from litmus.diagnosis.power_law import HeldOut, Needed, NoFit, PowerLaw, check_held_out, fit_power_law

__all__ = [
    "Bin",
    "Calibration",
    "Confusion",
    "CurveReading",
    "Diagnosis",
    "Embedding",
    "Gain",
    "Gap",
    "Gaps",
    "HeldOut",
    "Interval",
    "Needed",
    "NoFit",
    "Point",
    "PowerLaw",
    "Suggestion",
    "TopLoss",
    "Trend",
    "check_held_out",
    "confused_images",
    "confusion_matrix",
    "diagnose_errors",
    "embed",
    "error_gaps",
    "fit_power_law",
    "knn_err",
    "most_confused",
    "newcombe",
    "next_moves",
    "per_class_err",
    "pick_predictions",
    "read_curve",
    "reliability",
    "spread_over_classes",
    "suggest_lr",
    "top_losses",
    "wilson",
]
