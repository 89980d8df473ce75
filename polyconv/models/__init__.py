"""Models that somebody else wrote: converted, patched, watched and explained as they are.

In comes a module or a block of code; out goes the same one, whose convolutions polyconv computes.
"""
