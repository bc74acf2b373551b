"""Runs side by side: what differs between their configs, and whether that makes a difference beyond chance."""
