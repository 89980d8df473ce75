"""Chunk by chunk: ops, layers and models with state, and resampling.

In come chunks; out go the samples of the whole signal, exactly, as soon as they are known.
"""
