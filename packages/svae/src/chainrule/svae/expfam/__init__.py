"""Exponential families: natural parameters, log normalisers, expected statistics."""
