"""Checks of a shop that runs: features against history, today against training."""
