"""Trainings in processes apart: what one is told, what it answers, and how its process is made."""
