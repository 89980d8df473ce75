"""What would happen, told in words: `explain` and `doctor`, and the BLAS of a CPU.

In come a call's shapes, or nothing; out goes text, or its data.
"""
