"""What MLX does on Metal: its limits, the rules of its dispatch, and the kernel that they pick.

In comes the spec of one convolution; out go a kernel and the bytes that it allocates.
No MLX is imported here: the rules are tables, held to what was recorded.
"""
