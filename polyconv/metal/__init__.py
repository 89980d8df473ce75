"""What MLX does on Metal: its limits, the rules of its dispatch, and the kernel that they pick.

In comes the spec of one convolution; out go a kernel, the bytes that it allocates, and an estimate
of its time.
No MLX is imported here: the rules are tables, held to what was recorded.
"""
