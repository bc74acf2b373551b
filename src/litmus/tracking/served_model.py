"""A classifier as MLflow serves it: raw pixels in, class names and probabilities out.

MLflow copies this file into the model and runs the copy, wherever that is: it imports nothing of Litmus, and the file
is read as source, so the model holds no pickle. What it knows of the run it reads from the ONNX file beside it.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

PREPROCESSING = "litmus.preprocessing"  # METADATA_KEY of litmus.data.preprocessing


class Classifier:
    """Answers (B, C, H, W) uint8 with B of ``{"class": name, "probability": p, "probabilities": {name: p, ...}}``."""

    def load_context(self, context: Any) -> None:
        self.session = onnxruntime.InferenceSession(
            context.artifacts["onnx"], providers=onnxruntime.get_available_providers()
        )
        kept = self.session.get_modelmeta().custom_metadata_map[PREPROCESSING]
        self.class_names: list[str] = json.loads(kept)["class_names"]

    # Without a hint on its input, which MLflow would take for a schema.
    def predict(self, context: Any, model_input, params: Any = None) -> list[dict[str, Any]]:
        # MLflow has cast JSON's numbers to uint8 by now: pixels in [0, 1] would be black images with a sure answer.
        if model_input.size and model_input.max() <= 1:
            raise MlflowException.invalid_parameter_value(
                "every pixel is 0 or 1; send pixels from 0 to 255, as decoded: mean and std are inside the model"
            )
        (logits,) = self.session.run(["logits"], {"images": np.ascontiguousarray(model_input)})
        exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        return [
            {
                "class": self.class_names[row.argmax()],
                "probability": float(row.max()),
                "probabilities": dict(zip(self.class_names, row.tolist(), strict=True)),
            }
            for row in probabilities
        ]


class Served(Classifier, PythonModel):
    """MLflow asks for type hints where ``predict`` is written in the PythonModel itself; the signature says it all."""


set_model(Served())
