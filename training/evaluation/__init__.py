"""Checkpoints to scores."""
