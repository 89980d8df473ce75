"""The functions and layers that users call.

In come arrays and options as MLX takes them; out goes the result of MLX's own op.
"""
