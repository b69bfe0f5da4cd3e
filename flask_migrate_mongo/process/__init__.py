"""What concerns the process: the clock, signals, and a prompt exit.

Exports `elapsed`, the `StopSwitch`, and `exit_promptly` for the command line. May use the standard
library, and one private name of pymongo that delays an exit.
"""
