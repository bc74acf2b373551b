"""Predict image files with a run's weights.

``found = predict_files("latest", ["photos/"])`` gives plain objects: ``found.predictions`` and ``found.skipped``.
"""

from litmus.predict.predictor import Prediction, Predictions, Settings, predict_files

__all__ = ["Prediction", "Predictions", "Settings", "predict_files"]
