"""Frozen values and errors that every other folder shares.

Exports the values (`Record`, `History`, `Plan`, `Step`, `RunReport`, …) and every error class. Nothing here
does input or output, and nothing here may import another folder of the package or a driver.
"""
