"""What the package can be seen to do: `python -m chainrule.svae --help` lists it."""
