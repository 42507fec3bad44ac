"""Worlds with reset, step and render, in pure JAX."""
