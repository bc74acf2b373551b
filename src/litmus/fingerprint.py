"""What must be equal for a run to come out equal, bit for bit: taken as it starts, compared before it is run again."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch

from litmus.config import RunConfig, deciding
from litmus.data.batch import DataInfo
from litmus.data.hashing import digest_of
from litmus.devices import best_device
from litmus.tracking import cpu_model, environment, installed_packages

FILE = "fingerprint.json"
ABSENT = "-"

PACKAGES = ("torch", "torchvision", "lightning", "timm", "numpy", "pillow")
"""Those whose version can change a number: kernels, augmentation, the loop, networks and optimizers, splits, decoding.
The data's digest stands for the rest of what a data set is read with."""

CPU_ENV = (
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"),
    *("MKL_DEBUG_CPU_TYPE", "MKL_DYNAMIC", "OMP_DYNAMIC", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
    "OPENBLAS_CORETYPE",
)
CUDA_ENV = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "NCCL_ALGO", "NCCL_PROTO")
"""Variables that make a library compute otherwise. OMP_NUM_THREADS and MKL_NUM_THREADS are not among them: they act
through torch's number of threads, which is a field of its own; ATEN_CPU_CAPABILITY through the instructions."""


@dataclass(frozen=True)
class Fingerprint:
    """Named texts.

    Args:
        decides: where one differs, the numbers may.
        tells: worth knowing, but without influence on them.
        packages: version by name, of all that is installed.
    """

    decides: Mapping[str, str]
    tells: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Fingerprint:
        """Raises ``ValueError`` for what is not a fingerprint."""
        held = json.loads(text)
        if not isinstance(held, dict) or not isinstance(held.get("decides"), dict):
            raise ValueError("is not a fingerprint")
        return cls(held["decides"], held.get("tells", {}), held.get("packages", {}))


@dataclass(frozen=True)
class Field:
    """One row of a comparison."""

    name: str
    then: str
    now: str
    decides: bool

    @property
    def same(self) -> bool:
        return self.then == self.now

    @property
    def differs(self) -> bool:
        """In a way that may change the numbers."""
        return self.decides and not self.same


def take_fingerprint(
    config: RunConfig,
    info: DataInfo | None,
    *,
    weights: str = "",
    processes: int = 1,
    facts: Mapping[str, str] | None = None,
) -> Fingerprint:
    """The fingerprint that a run of ``config`` has here and now.

    Args:
        info: the data; None where they are not there.
        weights: digest of the file that ``model.weights`` names.
        processes: how many train together.
        facts: ``environment()``, where it is known already.
    """
    device = best_device(config.train.accelerator).type
    packages = dict(line.split("==", 1) for line in installed_packages().splitlines())
    facts = facts or environment()
    decides = {
        "config": config_digest(config),
        "seed": str(config.seed),
        "code": facts["code"],
        "data": info.digest if info else ABSENT,
        "splits": info.split_digest if info else ABSENT,
        **({"weights": weights} if weights else {}),
        "python": platform.python_version(),
        **{name: packages.get(name, ABSENT) for name in PACKAGES},
        "torch": f"{torch.__version__} ({str(torch.version.git_version)[:12]})",  # a build of one's own has another
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "processes": str(processes),
        "precision": str(config.train.precision),
        "threads": str(torch.get_num_threads()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "blas": _blas(),
        **_flags(config.train.deterministic),
        **{f"env.{name}": os.environ[name] for name in CPU_ENV if name in os.environ},
    }
    tells = {
        **{name: facts[name] for name in ("git.commit", "git.dirty", "lock", "platform") if facts.get(name)},
        "interop threads": str(torch.get_num_interop_threads()),
        **{f"env.{name}": os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ},
    }
    if device == "cuda":
        decides |= _cuda_flags(config.train.deterministic, packages)
        decides |= {f"env.{name}": os.environ[name] for name in CUDA_ENV if name in os.environ}
    # MKL and oneDNN choose kernels and blocks by the processor's model; beside a GPU it draws the first weights only.
    (tells if device == "cuda" else decides)["processor"] = cpu_model()
    return Fingerprint(decides, tells, packages)


def config_digest(config: RunConfig) -> str:
    """32 hexadecimal digits over what decides the numbers."""
    return digest_of([json.dumps(deciding(config), sort_keys=True)])


def compare(then: Fingerprint, now: Fingerprint) -> list[Field]:
    """Every field of either, what decides first; packages that do not decide only where they differ.

    A field that only one of them has differs, for an environment variable that is unset too.
    """
    fields = [
        Field(name, then.decides.get(name, ABSENT), now.decides.get(name, ABSENT), True)
        for name in {**now.decides, **then.decides}
    ]
    fields += [
        Field(name, then.tells.get(name, ABSENT), now.tells.get(name, ABSENT), False)
        for name in {**now.tells, **then.tells}
    ]
    others = {**now.packages, **then.packages}.keys() - now.decides.keys() - then.decides.keys()
    rows = [
        Field(name, then.packages.get(name, ABSENT), now.packages.get(name, ABSENT), False) for name in sorted(others)
    ]
    return fields + [row for row in rows if not row.same]


def _flags(deterministic: bool) -> dict[str, str]:
    """Torch's switches as they will stand in the training; Lightning's Trainer sets the first of them."""
    return {
        "deterministic": str(deterministic).lower(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "oneDNN": str(torch.backends.mkldnn.enabled).lower(),
        "default dtype": str(torch.get_default_dtype()).removeprefix("torch."),
    }


def _cuda_flags(deterministic: bool, packages: Mapping[str, str]) -> dict[str, str]:
    backends = torch.backends
    return {
        "cuda": str(torch.version.cuda),
        "cudnn": str(backends.cudnn.version()),
        "cudnn.deterministic": str(backends.cudnn.deterministic).lower(),
        "cudnn.benchmark": str(backends.cudnn.benchmark and not deterministic).lower(),
        "cudnn.tf32": str(backends.cudnn.allow_tf32).lower(),
        "cublas workspace": ":4096:8" if deterministic else os.environ.get("CUBLAS_WORKSPACE_CONFIG", ABSENT),
        **{name: version for name, version in packages.items() if name.startswith(("nvidia-", "triton"))},
    }


def _blas() -> str:
    """The linear algebra that torch was built with, one text."""
    wanted = ("Math Kernel Library", "MKL-DNN", "oneDNN", "OpenBLAS")
    lines = [line.strip(" -") for line in torch.__config__.show().splitlines()]
    found = [line for line in lines if any(word in line for word in wanted) and not line.startswith("Build settings")]
    return "; ".join(found) or ABSENT
