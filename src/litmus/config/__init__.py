"""The config of a run: schema, loading, and what is said of a wrong one. No torch here: a refusal answers at once.

YAML files are merged left to right, then ``a.b=c`` overrides, then checked as a whole: every problem is reported at
once with its dotted key, the value, what is allowed and the nearest right key.
"""

from litmus.config.load import (
    deciding,
    dump_config,
    flatten,
    json_schema,
    load_config,
    load_recorded,
    merge,
    merge_overrides,
    options,
    parse_config,
    to_dict,
)
from litmus.config.schema import (
    METRICS,
    TIMM_OPTIMIZERS,
    TORCHVISION_SETS,
    Field,
    Numbers,
    RunConfig,
    Section,
    WholeNumbers,
    Words,
    notes,
)

__all__ = [
    "METRICS",
    "TIMM_OPTIMIZERS",
    "TORCHVISION_SETS",
    "Field",
    "Numbers",
    "RunConfig",
    "Section",
    "WholeNumbers",
    "Words",
    "deciding",
    "dump_config",
    "flatten",
    "json_schema",
    "load_config",
    "load_recorded",
    "merge",
    "merge_overrides",
    "notes",
    "options",
    "parse_config",
    "to_dict",
]
