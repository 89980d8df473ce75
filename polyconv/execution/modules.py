"""Which modules does a model hold, and where?"""

from __future__ import annotations

from collections.abc import Iterator

import mlx.nn as nn


def modules(model: object) -> Iterator[tuple[str, nn.Module]]:
    """All modules by path, also where MLX does not look: in names with an underscore, in tuples."""
    seen: set[int] = set()

    def walk(path: str, value: object) -> Iterator[tuple[str, nn.Module]]:
        if isinstance(value, nn.Module):
            yield path, value
            if id(value) in seen:
                return
            seen.add(id(value))
            items = [*value.items(), *vars(value).items()]
        elif isinstance(value, dict):
            items = list(value.items())
        elif isinstance(value, (list, tuple)):
            items = list(enumerate(value))
        else:
            return
        for name, child in items:
            yield from walk(f"{path}.{name}" if path else str(name), child)

    yield from walk("", model)


def names_of(model: object) -> dict[int, str]:
    """The path of each module by its identity, ``model`` for the model itself."""
    if not isinstance(model, nn.Module):
        return {}
    return {id(module): path or "model" for path, module in reversed(list(modules(model)))}
