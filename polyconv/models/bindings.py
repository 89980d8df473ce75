"""Where are MLX's functions bound, and how do others stand there for a while?

One walk over all modules finds the names. They are remembered, and afterwards only what is new is
walked: modules that were imported since, and modules that have another number of names.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from operator import is_
from typing import Any, NamedTuple, TypeAlias

import mlx.core as mx

from polyconv.execution.locking import EXCHANGING

Functions: TypeAlias = "Mapping[str, Callable[..., Any]]"

_NO_NAMES: dict[str, Any] = {}
_UNFINISHED = -1  # the size of a module that is being imported: no size that it can have


class _Place(NamedTuple):
    """A name in a module or a class that holds one of the functions."""

    owner: Callable[[], Any]
    path: str
    name: str
    function: str
    names: dict[str, Any] | None  # of a module; those of a class are not written to directly

    def exchange(self, before: Functions, after: Functions) -> None:
        """Puts one function in the place of another, and nothing in that of anything else."""
        if not self.holds(before):
            return
        new = after[self.function]
        if self.names is not None:
            self.names[self.name] = new
            return
        owner = self.owner()
        is_static = type(vars(owner)[self.name]) is staticmethod
        try:
            setattr(owner, self.name, staticmethod(new) if is_static else new)
        except (AttributeError, TypeError):  # some classes cannot be changed
            return

    def holds(self, functions: Functions) -> bool:
        """Whether its function of these stands there."""
        if self.names is not None:
            return self.names.get(self.name) is functions[self.function]
        owner = self.owner()
        held = None if owner is None else vars(owner).get(self.name)
        plain = held.__func__ if type(held) is staticmethod else held
        return plain is functions[self.function]


class Bindings:
    """The names by which `mlx.core`, other modules and their classes hold some functions.

    While somebody holds the bindings, `others` stand there, and behind it what stood there before.
    """

    def __init__(
        self, originals: Functions, others: Functions, in_front_of: Callable[[str, Any], Any]
    ) -> None:
        self._originals, self._others, self._in_front_of = originals, others, in_front_of
        self._known = {id(f): name for each in (originals, others) for name, f in each.items()}
        self._places: dict[tuple[int, str], _Place] = {}
        self._holders: set[object] = set()
        # By name in `mlx.core`: what somebody else has put there, and what stands before it.
        self._fronts: dict[str, tuple[Any, Any]] = {}
        self._is_thorough = False
        # Of the last look: modules, their names, how many these were, and how `sys.modules` ended.
        self._modules: list[Any] = []
        self._dicts: list[dict[str, Any]] = []
        self._sizes: list[int] = []
        self._end: object = None
        self.walked: list[str] = []  # by the last look, for tests

    def hold(self, holder: object, thorough: bool = True) -> None:
        """Has the other functions stand there until this holder lets go, and the last one has.

        Without `thorough` only modules that were imported since, and ``__main__``, are looked at.
        That takes no time if there are none. What somebody else has put into `mlx.core` is then
        stood before, too.
        """
        with EXCHANGING:
            is_first = not self._holders
            self._holders.add(holder)
            self._is_thorough |= thorough
            if self._look(thorough) or is_first:
                self._exchange(self._originals, self._others)
            if not thorough:
                self._stand_before()

    def let_go(self, holder: object) -> None:
        with EXCHANGING:
            self._holders.discard(holder)
            if not self._holders:
                self._look(self._is_thorough)
                self._is_thorough = False
                self._exchange(self._others, self._originals)
                for name, (foreign, front) in self._fronts.items():
                    if getattr(mx, name) is front:
                        setattr(mx, name, foreign)
                self._fronts.clear()

    def names(self) -> list[str]:
        """Where they stand, without those of `mlx.core` itself. Each name is told once.

        A module that was loaded anew has the names of the one before, whose classes may live on.
        """
        with EXCHANGING:
            there = [each for each in self._places.values() if each.holds(self._others)]
        names = [f"{each.path}.{each.name}" for each in there if each.path != "mlx.core"]
        return list(dict.fromkeys(names))

    def _exchange(self, before: Functions, after: Functions) -> None:
        for place in list(self._places.values()):
            place.exchange(before, after)

    def _stand_before(self) -> None:
        for name in self._others:
            there = getattr(mx, name)
            if id(there) not in self._known and name not in self._fronts:
                self._fronts[name] = there, self._in_front_of(name, there)
                setattr(mx, name, self._fronts[name][1])

    def _look(self, thorough: bool) -> bool:
        """Finds names that are new. Whether it walked anything."""
        end = _end()
        if not thorough and end == self._end:
            return False
        self.walked = []
        if self._is_as_it_was(list(sys.modules.values())):
            self._walk("__main__", sys.modules.get("__main__"))
        else:
            self._walk_new(list(sys.modules.items()))
        self._end = end
        return True

    def _is_as_it_was(self, modules: list[Any]) -> bool:
        return (
            len(modules) == len(self._modules)
            and all(map(is_, modules, self._modules))
            and list(map(len, self._dicts)) == self._sizes
        )

    def _walk_new(self, now: list[tuple[str, Any]]) -> None:
        sizes_before = dict(zip(map(id, self._modules), self._sizes))
        self._dicts, self._sizes = [], []
        for path, module in now:
            names = _NO_NAMES if path.partition(".")[0] == "polyconv" else _names(module)
            names = _NO_NAMES if names is None else names
            if sizes_before.get(id(module)) != len(names) or path == "__main__":
                self._walk(path, module)
            self._dicts.append(names)
            self._sizes.append(_UNFINISHED if _is_being_imported(names) else len(names))
        self._modules = [module for _, module in now]
        self._places = {
            key: place for key, place in self._places.items() if place.owner() is not None
        }

    def _walk(self, path: str, module: Any) -> None:
        self.walked.append(path)
        for owner, owner_path, names in _owners(path, module):
            for name, value in list(names.items()):
                plain = value.__func__ if type(value) is staticmethod else value
                function = self._known.get(id(plain))
                if function is not None:
                    of_module = None if issubclass(type(owner), type) else _names(owner)
                    place = _Place(_reference(owner), owner_path, name, function, of_module)
                    self._places[id(owner), name] = place


def _names(owner: Any) -> dict[str, Any] | None:
    """What a module holds by name. `isinstance` and `vars` would load lazy modules."""
    try:
        names = object.__getattribute__(owner, "__dict__")
    except AttributeError:
        return None
    return names if isinstance(names, dict) else None


def _owners(path: str, module: Any) -> Iterator[tuple[Any, str, Mapping[str, Any]]]:
    """A module, unless it is polyconv's, and its classes, with their paths and names."""
    names = _names(module)
    if names is None or path.partition(".")[0] == "polyconv":
        return
    yield module, path, names
    for name, value in list(names.items()):
        # `type()`, because `isinstance` would load lazy proxies.
        if issubclass(type(value), type) and value.__module__ == path:
            yield value, f"{path}.{name}", vars(value)


def _reference(owner: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(owner)
    except TypeError:
        return lambda: owner


def _is_being_imported(names: dict[str, Any]) -> bool:
    return bool(getattr(names.get("__spec__"), "_initializing", False))


def _end() -> object:
    """What tells whether a module was imported, or ``__main__`` given a name: the last one is new.

    A module that is exchanged for another by the same name is not seen by this.
    """
    try:
        last = next(reversed(sys.modules))
    except RuntimeError:  # another thread imports one right now
        return object()
    main = _names(sys.modules.get("__main__")) or _NO_NAMES
    return len(sys.modules), last, len(main)
