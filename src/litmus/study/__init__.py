"""Studies: many trials of one base config, searched by Optuna and confirmed on fresh seeds."""
