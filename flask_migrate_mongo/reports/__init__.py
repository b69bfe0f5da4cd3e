"""What people read: text for each command, the terminal, and findings for code scanning.

Exports its modules, one for each kind of report: a command imports the one that it shows. May use rich and every
layer below.
"""
