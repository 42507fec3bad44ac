"""The experiments of the paper, each a command: `python -m chainrule.hypergrad --help`.

Source: D. Maclaurin, D. Duvenaud and R. P. Adams, "Gradient-based hyperparameter optimization through
reversible learning", ICML 2015.
"""
