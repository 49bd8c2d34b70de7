"""A pickle machine that cannot run anything: it makes Python's containers, and records the rest.

What a pickle would import and call becomes a `Call` that says so; numbers stay in the file until
somebody wants them. Python's own machine would import, call, hash whatever is made a key (which
takes forever on tuples of tuples), and reserve whatever a length claims.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from steer.errors import InputError

MOST_OPCODES = 1_000_000  # of a file's pickles; StyleGAN2-ADA at 1024 x 1024 has 40,000
MOST_TEXT = 1 << 25  # bytes of names, numbers and source code; StyleGAN3 has some 300,000
LARGEST = 1 << 80  # of the integers; the magic number of torch's files has 77 bits
LARGEST_KEY = 1 << 63  # wider ones can be chosen to collide in a dict
PROTOCOLS = 5

OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
# widths of the lengths before bytes
LENGTHS = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8}


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes that stayed in the file: where they begin, and how many there are."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """Where the bytes behind them begin."""
        return self.offset + self.length


@dataclass(frozen=True)
class Global:
    """Something that a pickle would import: its module and its name, with a space between."""

    name: str


@dataclass(eq=False, slots=True)
class Call:
    """What a pickle would make by a call: the `Global` and its arguments, and the state set on it.

    A persistent id, which names something outside the pickle, is a call of `PERSISTENT`.
    """

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None


PERSISTENT = "a persistent id"


@dataclass
class Budget:
    """What all pickles of one file may take together: opcodes, and bytes of text."""

    opcodes: int = MOST_OPCODES
    text: int = MOST_TEXT


def unpickle(
    file: BinaryIO,
    where: str,
    allowed: Collection[str],
    dicts: Collection[str] = (),
    persistent: list[Call] | None = None,
    budget: Budget | None = None,
) -> Any:
    """What the pickle at the file's position holds; the file is left behind its end.

    Globals are given as "module name": `allowed` ones become a `Call` when called, those in `dicts`
    an empty dict. Persistent ids are collected in `persistent` where it is given. `budget` is what
    is left for the pickles of this file, and becomes smaller. Raises InputError in a sentence about
    `where` for anything else, and ValueError, TypeError, LookupError or EOFError where the bytes
    are no whole pickle.

    >>> import io, pickle
    >>> unpickle(io.BytesIO(pickle.dumps({"a": b"xyz"}, protocol=4)), "x.pkl", ())
    {'a': Place(offset=19, length=3)}
    """
    return _Machine(file, where, allowed, dicts, persistent, budget or Budget()).run()


@dataclass
class _Machine:
    file: BinaryIO
    where: str
    allowed: Collection[str]
    dicts: Collection[str]
    outside: list[Call] | None
    budget: Budget
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    version: int = 0

    def __post_init__(self) -> None:
        here = self.file.tell()
        self.size = self.file.seek(0, 2)
        self.file.seek(here)

    def run(self) -> Any:
        arguments = _Arguments(self)
        while self.budget.opcodes > 0:
            self.budget.opcodes -= 1
            opcode = OPCODES.get(self.file.read(1))
            if opcode is None:
                raise EOFError("no opcode of a pickle")
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in LENGTHS:
                self.stack.append(self.place(LENGTHS[opcode.name]))
                continue
            if opcode.name not in ACTIONS:
                raise self.stranger(f"uses the opcode {opcode.name}")
            # the readers of pickletools want `read` and `readline` alone
            argument = opcode.arg.reader(arguments) if opcode.arg else None  # type: ignore[arg-type]
            ACTIONS[opcode.name](self, argument)
        raise self.refusal("is longer than any network's")

    def refusal(self, what: str) -> InputError:
        return InputError(
            f"expected tensors only, {self.where} is a pickle that {what}: "
            "refused, and nothing of it was run."
        )

    def stranger(self, what: str) -> Exception:
        """As `refusal`; of bytes that do not begin as pickles do, a ValueError: all sorts of files
        begin with what was an opcode once."""
        return self.refusal(what) if self.version else ValueError(what)

    def place(self, width: int) -> Place:
        """Bytes that are left where they are."""
        length = int.from_bytes(self.file.read(width), "little")
        place = Place(self.file.tell(), length)
        if place.end > self.size:
            raise EOFError("bytes beyond the file")
        self.file.seek(place.end)
        return place

    # --- opcodes: each takes its argument, which most do not have ---

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def number(self, value: int) -> None:
        if abs(value) > LARGEST:
            raise self.refusal(f"names an integer of {value.bit_length()} bits")
        self.stack.append(value)

    def protocol(self, version: int) -> None:
        if version > PROTOCOLS:
            raise self.refusal(f"is of protocol {version}")
        self.version = version

    def ignore(self, _: Any) -> None:
        pass

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def duplicate(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def since_mark(self, _: Any = None) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def memoize(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def remembered(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def make_tuple(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) < count:
            raise IndexError("fewer things than a tuple takes")
        self.stack[-count:] = [items]

    def append(self, items: list[Any]) -> None:
        self.a(list, self.stack[-1]).extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.a(dict, self.stack[-1])
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self.key(key)] = value

    def add_items(self, items: list[Any]) -> None:
        self.a(set, self.stack[-1]).update(map(self.key, items))

    def key(self, value: Any) -> Any:
        """A key of a dict: nothing whose hash or comparison takes long."""
        if isinstance(value, int) and abs(value) > LARGEST_KEY:
            raise self.refusal(f"has a key of {value.bit_length()} bits")
        if not (value is None or isinstance(value, str | int | float | Global | Place)):
            raise self.refusal(f"has a key of type {type(value).__name__}")
        return value

    def find(self, name: str) -> Global:
        if name not in self.allowed and name not in self.dicts:
            raise self.refusal(f"calls {shown(name.replace(' ', '.'))}")
        return Global(name)

    def find_on_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push(self.find(f"{self.a(str, module)} {self.a(str, name)}"))

    def call(self, _: Any) -> None:
        args, function = self.a(tuple, self.stack.pop()), self.a(Global, self.stack.pop())
        if function.name in self.dicts and args:  # from another one, it could be copied endlessly
            raise self.refusal(f"fills a dict by a call of {shown(function.name)}")
        self.push({} if function.name in self.dicts else Call(function.name, args))

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, dict):  # of a dict, attributes: torch's notes on versions
            self.a(Call, target).state = state

    def persistent(self, pid: Any) -> None:
        if self.outside is None:
            raise self.stranger("asks for something outside it")
        self.outside.append(Call(PERSISTENT, self.a(tuple, pid)))
        self.push(self.outside[-1])

    def a(self, kind: type, value: Any) -> Any:
        """The value, where it is of that kind."""
        if type(value) is not kind:
            raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
        return value


class _Arguments:
    """The file for what reads arguments, which would read whatever a length claims."""

    def __init__(self, machine: _Machine):
        self._machine = machine
        self._budget = machine.budget

    def read(self, count: int) -> bytes:
        self._spend(count)
        return self._machine.file.read(count)

    def readline(self) -> bytes:
        line = self._machine.file.readline(self._budget.text + 1)
        self._spend(len(line))
        return line

    def _spend(self, count: int) -> None:
        self._budget.text -= count
        if self._budget.text < 0:
            raise self._machine.refusal(
                "holds more text than any network's, or keeps numbers as text (protocols before 3)"
            )


def _pushing(make: Callable[[_Machine], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(make(machine))


def _with_items(
    act: Callable[[_Machine, list[Any]], None], count: int | None
) -> Callable[[_Machine, Any], None]:
    """An opcode that takes so many things from the stack, or all since the mark."""

    def action(machine: _Machine, _: Any) -> None:
        if count is None:
            items = machine.since_mark()
        else:
            items = machine.stack[-count:]
            del machine.stack[-count:]
        act(machine, items)

    return action


def _dict_of(machine: _Machine) -> None:
    items = machine.since_mark()
    machine.push({})
    machine.set_items(items)


TEXTS = ["STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"]
ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys([*TEXTS, "BINUNICODE8", "FLOAT", "BINFLOAT"], _Machine.push),
    **dict.fromkeys(["INT", "BININT", "BININT1", "BININT2"], _Machine.number),
    **dict.fromkeys(["LONG", "LONG1", "LONG4"], _Machine.number),
    "NONE": _pushing(lambda machine: None),
    "NEWTRUE": _pushing(lambda machine: True),
    "NEWFALSE": _pushing(lambda machine: False),
    "EMPTY_LIST": _pushing(lambda machine: []),
    "EMPTY_TUPLE": _pushing(lambda machine: ()),
    "EMPTY_DICT": _pushing(lambda machine: {}),
    "EMPTY_SET": _pushing(lambda machine: set()),
    "LIST": _pushing(lambda machine: machine.since_mark()),
    "TUPLE": _pushing(lambda machine: tuple(machine.since_mark())),
    "DICT": lambda machine, _: _dict_of(machine),
    "TUPLE1": lambda machine, _: machine.make_tuple(1),
    "TUPLE2": lambda machine, _: machine.make_tuple(2),
    "TUPLE3": lambda machine, _: machine.make_tuple(3),
    "APPEND": _with_items(_Machine.append, 1),
    "APPENDS": _with_items(_Machine.append, None),
    "SETITEM": _with_items(_Machine.set_items, 2),
    "SETITEMS": _with_items(_Machine.set_items, None),
    "ADDITEMS": _with_items(_Machine.add_items, None),
    "POP": _Machine.pop,
    "DUP": _Machine.duplicate,
    "MARK": _Machine.mark,
    "POP_MARK": lambda machine, _: machine.stack.__delitem__(slice(machine.marks.pop(), None)),
    **dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"], _Machine.memoize),
    **dict.fromkeys(["GET", "BINGET", "LONG_BINGET"], _Machine.remembered),
    "GLOBAL": lambda machine, name: machine.push(machine.find(name)),
    "STACK_GLOBAL": _Machine.find_on_stack,
    **dict.fromkeys(["REDUCE", "NEWOBJ"], _Machine.call),
    "INST": lambda machine, name: machine.push(
        Call(machine.find(name).name, tuple(machine.since_mark()))
    ),
    "BUILD": _Machine.build,
    "PERSID": _Machine.persistent,
    "BINPERSID": lambda machine, _: machine.persistent(machine.stack.pop()),
    "PROTO": _Machine.protocol,
    "FRAME": _Machine.ignore,
}


def shown(text: str) -> str:
    """Text of a stranger's, short and without control characters.

    >>> shown("a\\x1b[2J")
    'a\\\\x1b[2J'
    """
    return ascii(text[:80])[1:-1]
