"""A network as an MLflow model: saved without pickle, asked for an answer, registered under a name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litmus.errors import Problem, refuse
from litmus.tracking.delivery import sync_spool
from litmus.tracking.destination import Destination
from litmus.tracking.store import RowsRefused, RunDeleted, RunGone, Store, StoreTrouble, import_mlflow
from litmus.tracking.stored import StoredRun, recipient

SCRIPT = Path(__file__).with_name("served_model.py")
NEEDS = ("mlflow", "numpy", "onnxruntime")
"""What a machine needs to run the model; pinned in it to what is installed here."""
SERVING_EXAMPLE = "serving_input_example.json"
_NOT_IN_NAMES = "/:\\@?#%"  # the first two are MLflow's rule; with the others models:/NAME/1 is read as something else
_MAX_NAME_CHARS = 250  # the registry's column has 256


def save_model(folder: Path, onnx: Path, *, example_BCHW: NDArray[np.uint8], metadata: Mapping[str, str]) -> None:
    """Write an MLflow model around an ONNX file that has ``images`` and ``logits``: ``served_model.py`` and the file.

    Args:
        folder: must not exist.
        onnx: carries the class names under ``litmus.preprocessing``.
        example_BCHW: an input that MLflow keeps as JSON, to be posted as it is.
        metadata: kept in ``MLmodel``.
    """
    mlflow = import_mlflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what concerns people who write models by hand
        from mlflow.models import Model, ModelSignature
        from mlflow.types import ColSpec, Schema, TensorSpec
        from mlflow.types.schema import Map

        mlflow.pyfunc.save_model(
            folder,
            python_model=str(SCRIPT),
            artifacts={"onnx": str(onnx)},
            signature=ModelSignature(
                inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, *example_BCHW.shape[1:]))]),
                outputs=Schema(
                    [
                        ColSpec("string", "class"),
                        ColSpec("double", "probability"),
                        ColSpec(Map("double"), "probabilities"),
                    ]
                ),
            ),
            input_example=example_BCHW,
            pip_requirements=[f"{package}=={version(package)}" for package in NEEDS],
            metadata=dict(metadata),
        )
        model = Model.load(str(folder))
    flavor = model.flavors["python_function"]  # where the parts came from is this machine's business
    flavor["model_code_path"] = SCRIPT.name
    flavor["artifacts"]["onnx"]["uri"] = flavor["artifacts"]["onnx"]["path"]
    model.save(str(folder / "MLmodel"))
    share(onnx, folder / "artifacts" / onnx.name)


def share(path: Path, copy: Path) -> None:
    """Let two equal files share their bytes where the file system can."""
    fresh = copy.with_name(f".{copy.name}.{os.getpid()}")
    with suppress(OSError):
        os.link(path, fresh)
        os.replace(fresh, copy)


def load_model(folder: Path) -> Callable[[NDArray[np.uint8]], list[dict[str, Any]]]:
    """What the served model answers, asked in this process."""
    mlflow = import_mlflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predict: Callable[[NDArray[np.uint8]], list[dict[str, Any]]] = mlflow.pyfunc.load_model(str(folder)).predict
    return predict


def model_name_problem(name: str, where: str) -> Problem | None:
    """What MLflow's registry has against a name; None if nothing."""
    if not name.strip():
        return Problem(where, "is empty; give the registered model a name", name)
    if bad := {char for char in name if char in _NOT_IN_NAMES or not char.isprintable()}:
        plain = "".join("-" if char in bad else char for char in name).strip("- ")
        hint = f"; for example {plain!r}" if plain else ""
        return Problem(where, f"cannot have any of {' '.join(_NOT_IN_NAMES)} or a control character{hint}", name)
    if len(name) > _MAX_NAME_CHARS:
        return Problem(where, f"has {len(name)} characters; at most {_MAX_NAME_CHARS}", name)
    if name.startswith(".") or name != name.strip():
        return Problem(where, "begins with a dot, or begins or ends with a space; use a plain name", name)
    return None


@dataclass(frozen=True)
class Registry:
    """A registry that answers, and knows the run whose model is to be registered."""

    destination: Destination
    run_id: str
    _store: Store

    @classmethod
    def of(cls, run: StoredRun, *, where: str, uri: str | None = None) -> Registry:
        """The registry of the place that ``run`` is sent to; what that lacks of the run is sent first.

        Raises:
            Refused: the place does not answer, or does not have the run.
        """
        destination, run_id, trouble = run._destination, run.id, None
        if run.dir is not None:
            destination = recipient(run.dir, uri=uri)
            sent = sync_spool(run.dir, destination)
            run_id, trouble = sent.run_id, sent.error
        assert destination is not None
        try:
            if trouble is None and run_id is not None:
                store = Store(destination, patience_sec=10)
                if store.exists(run_id):
                    return cls(destination, run_id, store)
        except StoreTrouble as error:
            trouble = str(error)
        says = f"the run must be in MLflow first, and could not be sent there: {trouble or 'it has no such run'}"
        raise refuse(where, says, destination.label)

    def register(self, name: str, folder: Path, *, tags: Mapping[str, str]) -> str:
        """Log a saved model among the run's artifacts, and make it a version of ``name``. Returns the version.

        Every version has its own copy, under the id that MLflow gave the model: registering again changes none.

        Raises:
            StoreTrouble: the store went away, or refuses the name or the model.
        """
        from mlflow.models import Model

        kept = f"models/{Model.load(str(folder)).model_uuid}"
        try:
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                self._store.upload(self.run_id, file, f"{kept}/{file.relative_to(folder).as_posix()}")
            return self._store.register(name, run_id=self.run_id, folder=kept, tags=tags)
        except (RowsRefused, RunGone, RunDeleted) as error:
            raise StoreTrouble(str(error)) from error
