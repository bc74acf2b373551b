"""Litmus."""
