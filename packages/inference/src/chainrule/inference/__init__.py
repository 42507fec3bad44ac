"""Inference by differentiation: Firefly Monte Carlo, early stopping as variational inference, black-box SVI."""
