"""Structural digests of models: equal states have equal digests.

Lives here: the walk over a Python object.  Never here: pickle bytes (they differ after a
restore although nothing has changed), files, models' meaning.

Strategy: a Merkle walk over what pickle would store (`__reduce_ex__`), with an explicit
stack, so that deep trees do not end in RecursionError.  Every value becomes a token that
delimits itself; a container's token is the hash of its children's tokens.

- Entries of dicts and elements of sets are sorted by token: neither insertion order nor
  PYTHONHASHSEED shows.  OrderedDict keeps its order, which is part of its value.
- Types count: 1, 1.0 and True differ.  Floats count by their bits: 0.0 and -0.0 differ, as
  their future may.
- Only values count, never identity: a structure that shares a part and one that holds two
  equal parts have the same digest.  Pickle, copies and River's own `VectorDict` do not
  keep all sharing, so it cannot count.
- A reference to an enclosing object is written as the number of levels up.
- The random generator of River's distributions is skipped where it has no seed: it only
  serves `sample()`, differs in every process and is not stored (`artefacts.py`).
- What River caches (`Pipeline._plan` is built by the first prediction) is skipped.
- Classes and functions count by their name, lambdas and local functions by their code.
"""

from __future__ import annotations

import copyreg
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import blake2b
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from topics.errors import ModelError

__all__ = ["NODES_MAX", "children", "digest", "samples_unseeded"]

NODES_MAX = 20_000_000
"""Containers visited in one walk, about a minute; a structure beyond it makes parts of itself for ever."""
INLINE_MAX = 32
"""Longest text or bytes that stand in a token themselves; longer ones are hashed."""
HASH_BYTES = 16
"""128 bits: no accidental collision among all states ever; forgery is the MAC's business."""

_FAR = 1 << 62
_RNG = frozenset({"_rng"})
_DERIVED = {
    "river.compose.pipeline.Pipeline": frozenset(
        {"_plan", "_inference_transformers", "_last_step_cached", "_last_step_params"}
    ),
    "river.linear_model.bayesian_lin_reg.BayesianLinearRegression": frozenset({"_m_arr", "_m_dirty"}),
}
"""Class -> attributes it works out from its others when first used; River 0.26.1."""


def digest(obj: object) -> str:
    """Return 32 hex digits that name the state of `obj`.

    Equal before and after pickling, across processes and hash seeds; different as soon as any
    number, name or type in the state differs.  Raises ModelError, with the type, for what
    pickle could not store either (open files, generators).

    >>> from river import linear_model
    >>> model, other = linear_model.LogisticRegression(), linear_model.LogisticRegression()
    >>> digest(model) == digest(other)
    True
    >>> model.learn_one({"x": 1.0}, True)
    >>> digest(model) == digest(other)
    False
    """
    token = _leaf(obj)
    if token is None:
        token = _walk(obj)
    return blake2b(token, digest_size=HASH_BYTES).hexdigest()


def children(obj: object) -> list[Any]:
    """Return the parts of `obj`, one level deep; none of numbers, texts, classes and functions."""
    return [] if _leaf(obj) is not None else _take_apart(obj).children


def _own_state(obj: object, state: Any) -> Any:
    """Return a state without the attributes that River derives from others or draws from the system."""
    if type(state) is not dict:
        return state
    class_ = type(obj)
    derived = _DERIVED.get(f"{class_.__module__}.{class_.__qualname__}")
    if derived is None and "_rng" in state and samples_unseeded(obj):
        derived = _RNG
    if derived is None:
        return state
    return {name: value for name, value in state.items() if name not in derived}


def samples_unseeded(obj: Any) -> bool:
    """Return whether `obj` is a River distribution whose generator nobody seeded."""
    return type(obj).__module__.startswith("river.proba.") and getattr(obj, "seed", 0) is None


class _Parts(NamedTuple):
    """A container taken apart: children in order, or in pairs or singly to be sorted."""

    tag: bytes
    children: list[Any]
    sorted_from: int
    """Index from which children are sorted; their number if none are."""
    stride: int
    """1: the sorted children stand alone; 2: they are pairs of key and value."""


class _Frame:
    """A container whose children are being visited."""

    __slots__ = ("low", "obj", "parts", "tokens")

    def __init__(self, obj: object, parts: _Parts) -> None:
        self.obj = obj
        self.parts = parts
        self.tokens: list[bytes] = []
        self.low = _FAR
        """Level of the outermost enclosing object that something in here refers to."""


def _walk(root: object) -> bytes:
    """Return the token of a container.

    A finished token is kept by identity, so shared parts are visited once; the object is kept
    too, because identities of freed temporaries come again.  What refers to an enclosing
    object has a token only in that place and is not kept.
    """
    done: dict[int, tuple[object, bytes]] = {}
    level_of: dict[int, int] = {id(root): 0}
    stack = [_Frame(root, _take_apart(root))]
    visited = 1
    while True:
        frame = stack[-1]
        children, tokens = frame.parts.children, frame.tokens
        while len(tokens) < len(children):
            child = children[len(tokens)]
            token = _leaf(child)
            if token is None:
                identity = id(child)
                if (level := level_of.get(identity)) is not None:
                    token = b"^" + (len(stack) - level).to_bytes(4, "little")
                    frame.low = min(frame.low, level)
                elif (finished := done.get(identity)) is not None:
                    token = finished[1]
                else:
                    break
            tokens.append(token)
        else:
            stack.pop()
            level = len(stack)
            del level_of[id(frame.obj)]
            token = _joined(frame.parts, tokens)
            if frame.low >= level:
                done[id(frame.obj)] = (frame.obj, token)
            if not stack:
                return token
            above = stack[-1]
            above.tokens.append(token)
            if frame.low < level:
                above.low = min(above.low, frame.low)
            continue
        visited += 1
        if visited > NODES_MAX:
            raise ModelError(
                f"a {type(root).__name__} has more than {NODES_MAX} parts",
                hint="bound the model's size, e.g. max_size or max_depth of a tree",
            )
        level_of[id(child)] = len(stack)
        stack.append(_Frame(child, _take_apart(child)))


def _joined(parts: _Parts, tokens: list[bytes]) -> bytes:
    """Return the token of a container from those of its children."""
    start = parts.sorted_from
    if start < len(tokens):
        loose = tokens[start:]
        if parts.stride == 2:
            loose = [key + value for key, value in zip(loose[::2], loose[1::2], strict=True)]
        loose.sort()
        tokens = [*tokens[:start], b"|", *loose]
    head = parts.tag + len(tokens).to_bytes(4, "little")
    return b"#" + blake2b(head + b"".join(tokens), digest_size=HASH_BYTES).digest()


def _bytes_token(tag: bytes, value: bytes) -> bytes:
    size = len(value)
    if size > INLINE_MAX:
        value = blake2b(value, digest_size=HASH_BYTES).digest()
        tag = tag + b"#"
    return tag + size.to_bytes(8, "little") + value


_pack_float = struct.Struct("<d").pack
_LEAVES: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"N",
    bool: lambda value: b"T" if value else b"F",
    int: lambda value: _bytes_token(b"i", b"%d" % value),
    float: lambda value: b"f" + _pack_float(value),
    str: lambda value: _bytes_token(b"s", value.encode("utf-8", "surrogatepass")),
    bytes: lambda value: _bytes_token(b"b", value),
    bytearray: lambda value: _bytes_token(b"y", bytes(value)),
}


def _leaf(obj: Any) -> bytes | None:
    """Return the token of a value without parts, or None."""
    class_ = type(obj)
    if (encode := _LEAVES.get(class_)) is not None:
        return encode(obj)
    if class_ is tuple or class_ is list:
        return _row(obj)
    if isinstance(obj, np.ndarray) and not obj.dtype.hasobject and class_ is np.ndarray:
        return _bytes_token(b"a", repr((obj.dtype.str, obj.shape)).encode() + b"\0" + obj.tobytes())
    if isinstance(obj, np.generic) and not obj.dtype.hasobject:
        return _bytes_token(b"n", obj.dtype.str.encode() + b"\0" + obj.tobytes())
    if isinstance(obj, type) or (class_ is BuiltinFunctionType and _of_module(obj)):
        return _named(obj)
    if class_ is FunctionType and "<" not in obj.__qualname__:
        return _named(obj)
    return None


def _of_module(function: BuiltinFunctionType) -> bool:
    """Return whether a built-in stands in a module (`math.log`), not on an object (`[].append`)."""
    return function.__self__ is None or isinstance(function.__self__, ModuleType)


def _named(obj: Any) -> bytes:
    return _bytes_token(b"g", f"{obj.__module__}:{obj.__qualname__}".encode())


def _row(values: tuple[Any, ...] | list[Any]) -> bytes | None:
    """Return the token of a sequence of numbers of one type (a generator's 625 words, a window), or None."""
    types = set(map(type, values))
    tag = b"(" if type(values) is tuple else b"["
    if types == {int}:
        return _bytes_token(tag + b"i", repr(list(values)).encode())
    if types == {float}:
        return _bytes_token(tag + b"f", struct.pack(f"<{len(values)}d", *values))
    return None


def _take_apart(obj: Any) -> _Parts:
    """Return the parts of a container or an object, as pickle would see them."""
    class_ = type(obj)
    if class_ is dict:
        return _Parts(b"d", _pairs(obj.items()), 0, 2)
    if class_ is tuple:
        return _Parts(b"(", list(obj), len(obj), 1)
    if class_ is list:
        return _Parts(b"[", list(obj), len(obj), 1)
    if isinstance(obj, set | frozenset):
        state = getattr(obj, "__dict__", None) or None
        return _Parts(b"e", [class_, state, *obj], 2, 1)
    if isinstance(obj, np.ndarray) and obj.dtype.hasobject:
        return _Parts(b"A", [class_, obj.dtype.str, obj.shape, obj.ravel().tolist()], 4, 1)
    if class_ is FunctionType:
        cells = [cell.cell_contents for cell in obj.__closure__ or ()]
        return _Parts(b"l", [*_code(obj.__code__), obj.__defaults__, obj.__kwdefaults__, *cells], _FAR, 1)
    if class_ is CodeType:
        return _Parts(b"c", _code(obj), _FAR, 1)
    return _reduced(obj)


def _code(code: CodeType) -> list[Any]:
    return [code.co_code, code.co_consts, code.co_names, code.co_varnames, code.co_freevars]


def _pairs(items: Iterable[tuple[Any, Any]]) -> list[Any]:
    return [part for pair in items for part in pair]


def _reduced(obj: Any) -> _Parts:
    """Return the parts of any other object: what `__reduce_ex__` says rebuilds it."""
    reduce = copyreg.dispatch_table.get(type(obj))
    try:
        reduced: Any = reduce(obj) if reduce is not None else obj.__reduce_ex__(4)
    except Exception as error:  # whatever a foreign class raises, the answer is the same
        raise ModelError(
            f"the state of a {type(obj).__module__}.{type(obj).__qualname__} cannot be read: {error}",
            hint="keep open files, locks, generators and modules out of models",
        ) from error
    if isinstance(reduced, str):
        return _Parts(b"G", [type(obj), reduced], 2, 1)
    rebuild, args, state, elements, entries = (*reduced, None, None, None)[:5]
    fixed = [rebuild, args, _own_state(obj, state), list(elements) if elements else None]
    pairs = _pairs(entries) if entries else []
    in_order = isinstance(obj, OrderedDict)
    return _Parts(b"O", [*fixed, *pairs], _FAR if in_order else len(fixed), 2)
