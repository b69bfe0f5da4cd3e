"""What concerns the process: the clock, signals, and a prompt exit.

Exports `elapsed`, `StopSwitch` and the exit handler of the command line. May use the standard library, and
the names of pymongo's threads that would delay an exit.
"""
