"""Inference by differentiation: Firefly Monte Carlo, early stopping as variational inference, bbsvi."""
