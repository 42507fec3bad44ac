"""Messages in chains: linear dynamical systems and hidden Markov models."""
