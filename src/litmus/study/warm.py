"""What the forkserver of a study imports: also the workers, which are forked from it too."""

import litmus.study.worker
from litmus.jobs import warm  # last: it ends with freezing what was imported

__all__ = ["litmus", "warm"]
