"""What is asked: the arguments of a call, read and judged once, as integers.

In come the caller's own values; out go specs of convolutions, their phases, and every error.
No MLX is imported here.
"""
