"""What the packages' experiments have in common, as `python -m chainrule.hypergrad` performs them.

command_line    the commands of a package: options, mistakes in a line, exit statuses
commands        the class of a command that performs an experiment
console         an experiment on a terminal: the plan, a bar, the table
outcomes        what each method came to with each seed, in a file that a killed experiment finds again
report          means over seeds with their standard errors, as text, Markdown and CSV
whole_files     files that are there whole or not at all

Commands need tyro, and terminals rich: the package that has the commands brings them.
"""
