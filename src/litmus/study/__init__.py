"""Studies: many trainings, one question. The only part that imports Optuna."""
