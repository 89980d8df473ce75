"""How it is computed: methods, their cost, the choice among them, and tiles. Integers only.

In come a spec and a device; out goes a frozen plan, on whose data alone execution branches.
No MLX is imported here.
"""
