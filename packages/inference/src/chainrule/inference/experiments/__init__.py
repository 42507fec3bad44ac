"""The experiments of the papers, each a command: `python -m chainrule.inference --help`.

Source: Duvenaud, Maclaurin and Adams, Early stopping as nonparametric variational inference, AISTATS 2016.
"""
