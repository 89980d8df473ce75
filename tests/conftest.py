"""What holds for every test: MLX multiplies float32 as float32, also on GPUs that could do less."""

import os

os.environ["MLX_ENABLE_TF32"] = "0"  # read when MLX is imported; its own tests do the same
