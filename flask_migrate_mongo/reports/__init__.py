"""What people read: text for each command, the terminal, and findings for code scanning.

Exports its modules: a command imports the one whose report it shows. May use rich and every
layer below.
"""
