"""The three maps of a convolution, each the gradient of the others, and `vmap`.

In come a problem and arrays; out goes a function that MLX can differentiate to any order.
"""
