"""A plan becomes MLX arrays: packing, subconvolutions or products, weaving, tiles.

In come a plan and arrays; out goes the result, not yet evaluated.
What is true of the MLX and the device that run here is asked here too.
"""
