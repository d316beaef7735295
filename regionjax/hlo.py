"""Collectives of a compiled program, read from the text of its HLO.

The text lists computations; a computation is called by others, and the body of a loop as often as
the loop turns. What is counted here is counted per step: instructions times turns, where the number
of turns can be read from the loop's condition.
"""

import collections
import dataclasses
import math
import re

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = re.compile(r"^(?:pred|token|[a-z]+?(\d+).*)$")  # bf16, f8e4m3fn, s32, u4
_HEADER = re.compile(r"^(ENTRY )?%(\S+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%(\S+) = (.*?) ([a-z][\w-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclasses.dataclass
class Collectives:
    """One kind of collective in one step of one device.

    `count` is how often it runs; `bytes` is the size of the arrays in their larger form (gathered,
    or not yet scattered), added up. `once` counts those inside loops whose turns could not be read
    and which are therefore counted once.
    """

    count: int = 0
    bytes: int = 0
    once: int = 0


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    rest: str  # operands and attributes
    root: bool

    @property
    def operands(self):
        """Names of the operands; their list closes at the first unbalanced parenthesis."""
        depth = 1
        for end, character in enumerate(self.rest):
            depth += (character == "(") - (character == ")")
            if not depth:
                return re.findall(r"%([\w.-]+)", self.rest[:end])
        return []

    def attribute(self, name):
        found = re.search(rf"\b{name}=%?([\w.-]+)", self.rest)
        return found and found[1]


def collectives(text):
    """{kind: Collectives} of a program, most bytes first.

    Args:
      text: `compiled.as_text()`.

    Kinds are those of `KINDS`; the traffic between slices comes as `between slices: all-reduce`.
    """
    computations, entry = _parse(text)
    found = collections.defaultdict(Collectives)
    for name, turns, known in _runs(computations, entry):
        for kind, size in _collectives_of(name, computations):
            found[kind].count += turns
            found[kind].bytes += turns * size
            found[kind].once += not known
    return dict(sorted(found.items(), key=lambda item: -item[1].bytes))


def _parse(text):
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            root, name, shape, opcode, rest = match.groups()
            current[name] = _Instruction(name, shape, opcode, rest, bool(root))
    return computations, entry


def _runs(computations, entry):
    """(computation, times it runs a step, whether that is known) of entry, bodies and branches."""
    todo = [(entry, 1, True)]
    while todo:
        name, turns, known = todo.pop()
        yield name, turns, known
        for instruction in computations[name].values():
            if instruction.opcode == "while":
                more = _turns(instruction, computations[name], computations)
                body = instruction.attribute("body")
                todo.append((body, turns * (more or 1), known and more is not None))
            elif instruction.opcode == "conditional":
                branches = _CALLED.findall(instruction.rest)
                for group in _BRANCHES.findall(instruction.rest):
                    branches += re.findall(r"%([\w.-]+)", group)
                todo += [(branch, turns, known) for branch in branches]
            elif instruction.opcode == "call":
                todo += [(called, turns, known) for called in _CALLED.findall(instruction.rest)]


def _collectives_of(name, computations):
    """(kind, bytes) of each collective of one computation and its fusions.

    The compiler takes a collective apart into fusions that start it, carry on beside a product and
    finish it; all of them show the same channel, which therefore counts once.
    """
    seen, todo = set(), [(name, None)]
    while todo:
        computation, scatter = todo.pop()
        instructions = computations[computation]
        for instruction in instructions.values():
            kind = instruction.opcode.removesuffix("-start")
            if instruction.opcode in ("fusion", "async-start"):
                for called in _CALLED.findall(instruction.rest):
                    todo.append((called, called.startswith("all-reduce-scatter")))
            elif kind in KINDS:
                channel = (kind, instruction.attribute("channel_id") or instruction.name)
                if channel not in seen:
                    seen.add(channel)
                    fused = scatter and kind == "all-reduce"  # sum, then each keeps its slice
                    yield "reduce-scatter" if fused else kind, _size(instruction, instructions)
            elif instruction.opcode == "send" and "megascale" in instruction.rest:
                transfer = re.search(r'megascale_transfer_type="(\w+)"', instruction.rest)
                kind = transfer[1].lower().replace("_", "-") if transfer else "send"
                yield f"between slices: {kind}", _size(instruction, instructions)


def _size(instruction, instructions):
    operands = sum(
        _bytes(instructions[name].shape) for name in instruction.operands if name in instructions
    )
    if instruction.opcode == "send":
        return operands
    result = _bytes(instruction.shape)
    if instruction.opcode.endswith("-start"):  # a tuple of operands and results
        result -= operands
    return max(operands, result)


def _bytes(shape):
    total = 0
    for dtype, dimensions in _ARRAY.findall(shape):
        bits = _BITS.match(dtype)
        if bits is None or dtype == "token":
            continue
        size = int(bits[1]) if bits[1] else 8
        total += math.prod(int(n) for n in dimensions.split(",") if n) * size // 8
    return total


def _turns(loop, instructions, computations):
    """How often a loop turns, None where its start and bound are not constants.

    Loops of jax.lax.scan count from a constant up to a constant, in steps of one.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
    if known:
        return int(known[1])
    condition = computations[loop.attribute("condition")]
    test = next(i for i in condition.values() if i.root)
    if test.opcode != "compare" or test.attribute("direction") != "LT":
        return None
    counter, bound = (condition[name] for name in test.operands)
    if counter.opcode != "get-tuple-element":
        return None
    last = _constant(bound)
    first = _constant(_element(loop, int(counter.attribute("index")), instructions))
    return None if first is None or last is None else max(last - first, 0)


def _element(loop, index, instructions):
    """The instruction that made element `index` of the loop's first tuple, None if not found."""
    source = instructions.get(loop.operands[0])
    if source is None or source.opcode != "tuple":
        return None
    made = instructions.get(source.operands[index])
    while made is not None and made.opcode in ("copy", "bitcast"):
        made = instructions.get(made.operands[0])
    return made


def _constant(instruction):
    if instruction is None or instruction.opcode != "constant":
        return None
    value = re.match(r"(-?\d+)\)", instruction.rest)
    return value and int(value[1])
