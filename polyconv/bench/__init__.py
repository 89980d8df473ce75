"""How fast, here: one harness, cases as data, and competitors interleaved in one run.

In come cases; out go rows of times, errors and peaks. `polyconv run` starts Python on a fast BLAS.
"""
