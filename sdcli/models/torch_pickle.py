"""The tensors in a pickle that torch.save wrote, found without running it.

A pickle is a program. `read` follows only its containers, strings, numbers and tensors, so that it neither calls what
the pickle names nor takes more time and memory than the pickle's size allows; everything else becomes None.
"""

from __future__ import annotations

import pickletools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any

MAX_OPERATIONS = 500_000
"""Five times those of Stable Diffusion 1 with averaged weights and the state of its optimizer."""
MAX_DIMENSIONS = 8
MAX_NUMBER = 1 << 48
"""Of elements, in any dimension: more than a disk holds."""

ITEM_SIZES: Mapping[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
}  # fmt: skip
"""Bytes of an element, by the name of its type in torch."""

_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8", "_UntypedStorage": "uint8",
}  # fmt: skip
_CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False}


@dataclass(frozen=True, slots=True)
class Storage:
    """A part of the file that tensors share."""

    key: str
    dtype: str
    elements: int
    first: int
    """The element at which it begins, in old files that store views of a storage."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor by its place in a storage; `offset` and `stride` count elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Dict(dict[str, object]):
    """A dictionary of the pickle, of which only keys that are strings are kept."""

    pairs: object = ()
    """The items that an OrderedDict of Python 2 is made from. They are copied at the end only: a pickle can repeat
    this in three bytes."""

    def items_of(self) -> dict[str, object]:
        given = [pair for pair in self.pairs if isinstance(pair, list | tuple)] if isinstance(self.pairs, list) else []
        return {pair[0]: pair[1] for pair in given if len(pair) == 2 and isinstance(pair[0], str)} | self


@dataclass(frozen=True, slots=True)
class _Global:
    module: str
    name: str


@dataclass
class _Machine:
    """The state of a pickle's stack machine."""

    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)

    def to_mark(self) -> list[Any]:
        """Remove and return everything above the last mark."""
        above, self.stack = self.stack, self.marks.pop()
        return above

    def set_items(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], Dict):
            pairs = zip(items[::2], items[1::2], strict=True)
            self.stack[-1].update((key, value) for key, value in pairs if isinstance(key, str))


def read(file: IO[bytes] | Any) -> tuple[Any, dict[str, Storage]]:
    """The object in a pickle, and the storages of its tensors by key.

    Args:
        file: read up to the end of the pickle; its reads must not allocate more than the file has.

    Returns:
        `Dict`, list, tuple, str, int, float, bool and `StoredTensor`; None stands for every other object.

    Raises:
        ValueError: it is not a pickle, or has more than `MAX_OPERATIONS` operations.
        LookupError: its operations contradict each other.
    """
    machine = _Machine()
    for number, (opcode, arg, _) in enumerate(pickletools.genops(file)):
        if number >= MAX_OPERATIONS:
            raise ValueError(f"Its table of contents has more than {MAX_OPERATIONS:,} operations")
        if opcode.name == "STOP":
            return machine.stack.pop(), machine.storages
        _step(machine, opcode, arg)
    raise ValueError("The pickle has no end")


def _step(machine: _Machine, opcode: pickletools.OpcodeInfo, arg: Any) -> None:
    """Apply one operation to the machine."""
    stack = machine.stack
    match opcode.name:
        case "MARK":
            machine.marks.append(stack)
            machine.stack = []
        case "PUT" | "BINPUT" | "LONG_BINPUT":
            machine.memo[arg] = stack[-1]
        case "MEMOIZE":
            machine.memo[len(machine.memo)] = stack[-1]
        case "GET" | "BINGET" | "LONG_BINGET":
            stack.append(machine.memo[arg])
        case "DUP":
            stack.append(stack[-1])
        case "EMPTY_DICT":
            stack.append(Dict())
        case "EMPTY_LIST":
            stack.append([])
        case "EMPTY_TUPLE":
            stack.append(())
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            stack.append(tuple(reversed([stack.pop() for _ in range(int(opcode.name[-1]))])))
        case "TUPLE":
            items = machine.to_mark()
            machine.stack.append(tuple(items))
        case "LIST":
            items = machine.to_mark()
            machine.stack.append(items)
        case "DICT":
            items = machine.to_mark()
            machine.stack.append(Dict())
            machine.set_items(items)
        case "SETITEM":
            value, key = stack.pop(), stack.pop()
            machine.set_items([key, value])
        case "SETITEMS":
            items = machine.to_mark()
            machine.set_items(items)
        case "APPEND" | "APPENDS":
            items = [stack.pop()] if opcode.name == "APPEND" else machine.to_mark()
            if isinstance(machine.stack[-1], list):
                machine.stack[-1].extend(items)
        case "GLOBAL":
            stack.append(_Global(*arg.split(" ", 1)))
        case "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(_Global(module, name) if isinstance(module, str) and isinstance(name, str) else None)
        case "REDUCE":
            args, function = stack.pop(), stack.pop()
            stack.append(_call(function, args))
        case "BUILD":
            state = stack.pop()
            # A ParameterDict, in which the first textual inversions are.
            inner = state.get("_parameters") if isinstance(state, Dict) else None
            if stack[-1] is None and isinstance(inner, Dict):
                stack[-1] = inner
        case "BINPERSID":
            stack.append(_storage(machine, stack.pop()))
        case _:
            _other(machine, opcode, _CONSTANTS.get(opcode.name, arg))


def _other(machine: _Machine, opcode: pickletools.OpcodeInfo, arg: Any) -> None:
    """Take from the stack what an operation takes, and put `arg` in place of each object that it puts there."""
    takes = list(opcode.stack_before)
    if pickletools.markobject in takes:
        machine.to_mark()
        takes = takes[: takes.index(pickletools.markobject)]
    for _ in takes:
        machine.stack.pop()
    machine.stack.extend([arg] * len(opcode.stack_after))


def _call(function: object, args: object) -> object:
    """The container or tensor that a call makes; None for all other calls."""
    while isinstance(function, _Global) and isinstance(args, tuple):
        match function.module, function.name:
            case "collections", "OrderedDict":
                made = Dict()
                made.pairs = args[0] if args else ()
                return made
            case "torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2":
                return _tensor(args, None)
            case "torch._utils", "_rebuild_tensor_v3":
                return _tensor(args, args[6])
            case "torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state":
                return args[0]
            case "torch", "Size":
                return args[0]
            case "torch._tensor", "_rebuild_from_type_v2":
                function, args = args[0], args[2]
            case _:
                return None
    return None


def _tensor(args: tuple[Any, ...], dtype: object) -> StoredTensor | None:
    storage, offset, shape, stride = args[:4]
    name = dtype.name if isinstance(dtype, _Global) else storage.dtype if isinstance(storage, Storage) else ""
    if not isinstance(storage, Storage) or name not in ITEM_SIZES:
        return None
    if not (is_shape(shape) and is_shape(stride) and is_shape((offset,)) and len(shape) == len(stride)):
        raise ValueError("A tensor has an impossible shape")
    return StoredTensor(storage, name, storage.first + offset, tuple(shape), tuple(stride))


def _storage(machine: _Machine, persistent: object) -> Storage | None:
    """A storage from its persistent id: ("storage", type, key, device, elements), in old files with a view."""
    if not (isinstance(persistent, tuple) and len(persistent) >= 5 and persistent[0] == "storage"):
        return None
    _, kind, key, _, elements, *views = persistent
    dtype = _STORAGES.get(kind.name, "") if isinstance(kind, _Global) else ""
    if not dtype or not isinstance(key, str) or not is_shape((elements,)):
        return None
    view = views[0] if views else None
    first = view[1] if isinstance(view, tuple) and len(view) == 3 else 0
    if not is_shape((first,)):
        raise ValueError("A storage has an impossible size")
    storage = Storage(key, dtype, elements, first)
    machine.storages[key] = storage
    return storage


def is_shape(values: object) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) <= MAX_DIMENSIONS
        and all(isinstance(value, int) and 0 <= value < MAX_NUMBER for value in values)
    )
