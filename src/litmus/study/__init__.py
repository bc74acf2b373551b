"""Studies: a space of configs, trials that survive their machines, one record in MLflow, and a winner to believe.

The one door to Optuna.
"""
