"""Tables that say where each tensor of a public checkpoint lives in our parameters.

A table is a sequence of `Row`s. Read forwards it imports (`to_ours`), read backwards it exports
(`to_theirs`); rows only move numbers, so one undoes the other bit by bit. Tables are complete:
every tensor has a row and every parameter is filled, or one error lists all that is not so.

    Row("encoder.layer.{i}.query.weight", "layers/query/kernel", "linear")
    Row("encoder.layer.{i}.query.bias", "layers/query/bias")
    Row("embeddings.position_embeddings", "position_embedding", shape=(1, -1, 768))
    Row("embeddings.position_ids", None)                       # a buffer: ignored when it is there
    Row("lm_head.weight", None, tied="embed_tokens.weight")    # a copy of another tensor
"""

import dataclasses
import difflib
import math
import re

import jax.numpy as jnp
import numpy as np

from regionjax import tables

FORMS = ("same", "linear", "patches")
CHANNELS = 3  # of images


class WeightsError(ValueError):
    """Weights that cannot be used; the message names the file or the tensor."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor of theirs, or one a layer, and the parameter that it is.

    Attributes:
      theirs: name in the public checkpoint; `{i}` stands for a layer's number.
      ours: path of our parameter, or None: there is none. With `{i}` in `theirs`, entry j of axis 0
        is the tensor of layer i = offset + step·j.
      form: how the numbers lie.
        same: as in ours. A bias is flat in theirs, [N, H] → [N·H]; other shapes: see `shape`.
        linear: torch [out, in], ours [in…, out…] (layers.Dense); `inputs` says where `in` ends.
        patches: torch convolution [out, 3, h, w] over squares, h = w; ours [h·w·3, out].
      part: (j, n): ours is the j-th of n equal parts of theirs along axis 0 (fused projections).
      step, offset: see `ours`.
      inputs: of linear: leading dimensions of ours (without layers) that are inputs; [N, H, D]: 2.
      shape: of same: the shape of theirs where it is another than ours, as for numpy's reshape.
      tied: name of the tensor that this one repeats. A checkpoint may hold either or both (equal);
        only the other one is written.
    """

    theirs: str
    ours: str | None
    form: str = "same"
    part: tuple[int, int] | None = None
    step: int = 1
    offset: int = 0
    inputs: int = 1
    shape: tuple[int, ...] | None = None
    tied: str | None = None

    def __post_init__(self):
        if self.form not in FORMS:
            raise ValueError(f"{self.theirs}: form {self.form!r}; known: {', '.join(FORMS)}")
        if self.tied and self.ours:
            raise ValueError(f"{self.theirs} is tied to {self.tied}; its ours must be None")


@dataclasses.dataclass(frozen=True)
class Piece:
    """A row with its number filled in: tensor `theirs` is `ours`[index], or all of it."""

    theirs: str
    ours: str
    index: int | None
    row: Row
    shape: tuple[int, ...]  # of ours[index]

    @property
    def part_shape(self):
        """Shape of this piece in theirs."""
        row, shape = self.row, self.shape
        if row.form == "linear":
            return math.prod(shape[row.inputs :]), math.prod(shape[: row.inputs])
        if row.form == "patches":
            side = math.isqrt(shape[0] // CHANNELS)
            return shape[1], CHANNELS, side, side
        if row.shape is not None:
            known = math.prod(size for size in row.shape if size != -1)
            return tuple(math.prod(shape) // known if n == -1 else n for n in row.shape)
        return (math.prod(shape),) if self.ours.split("/")[-1] == "bias" else shape

    @property
    def whole_shape(self):
        """Shape of the tensor of theirs that this piece is (a part of)."""
        if self.row.part is None:
            return self.part_shape
        first, *rest = self.part_shape
        return (first * self.row.part[1], *rest)

    def read(self, tensor):
        """This piece as it lies in ours, a view where possible, of the whole tensor."""
        if self.row.part is not None:
            j, count = self.row.part
            size = tensor.shape[0] // count
            tensor = tensor[j * size : (j + 1) * size]
        if self.row.form == "linear":
            tensor = tensor.T
        if self.row.form == "patches":
            tensor = tensor.transpose(2, 3, 1, 0)
        return tensor.reshape(self.shape)

    def write(self, array):
        """The inverse of `read` for one part: this piece as it lies in theirs."""
        if self.row.form == "linear":
            out, inputs = self.part_shape
            array = array.reshape(inputs, out).T
        if self.row.form == "patches":
            out, channels, height, width = self.part_shape
            array = array.reshape(height, width, channels, out).transpose(3, 2, 0, 1)
        return array.reshape(self.part_shape)


def prefixed(rows, theirs="", ours=""):
    """The rows of a part of a larger system: both names are put behind a prefix."""
    return tuple(
        dataclasses.replace(
            row,
            theirs=theirs + row.theirs,
            ours=None if row.ours is None else ours + row.ours,
            tied=None if row.tied is None else theirs + row.tied,
        )
        for row in rows
    )


def expand(rows, shapes):
    """The rows that have a parameter, with numbers filled in.

    Args:
      rows: a table.
      shapes: nested parameters of anything with a `shape` and a `dtype`.

    Returns:
      list of Pieces, in the table's order.

    Raises:
      WeightsError: a row names a parameter that is not there, or one is filled twice or never.
    """
    known = tables.flatten(shapes)
    pieces, problems, filled = [], [], set()
    for row in rows:
        if row.ours is None:
            continue
        if row.ours not in known:
            problems.append(f"no parameter {row.ours} for {row.theirs}{_nearest(row.ours, known)}")
            continue
        shape = tuple(known[row.ours].shape)
        if row.ours in filled:
            problems.append(f"parameter {row.ours} is filled twice")
        filled.add(row.ours)
        if "{i}" not in row.theirs:
            pieces.append(Piece(row.theirs, row.ours, None, row, shape))
            continue
        for j in range(shape[0]):
            name = row.theirs.replace("{i}", str(row.offset + row.step * j))
            pieces.append(Piece(name, row.ours, j, row, shape[1:]))
    problems += [f"no row fills parameter {path}" for path in known if path not in filled]
    _raise(problems, "the table and the model disagree")
    return pieces


def check(headers, rows, shapes, where):
    """Compares a checkpoint with a table before any value is read.

    Args:
      headers: {name: (shape, numpy dtype)} of the checkpoint's tensors.
      rows, shapes: as in `expand`.
      where: what to call the checkpoint in errors.

    Returns:
      {path of ours: [(name to read, Piece), …]} and the sorted names that are ignored.

    Raises:
      WeightsError: everything that is missing, extra or of another shape or dtype.
    """
    pieces = expand(rows, shapes)
    copies = _copies(rows, headers)
    dtypes = {path: leaf.dtype for path, leaf in tables.flatten(shapes).items()}
    needed = {piece.theirs for piece in pieces}
    ignored = {name for name in headers if name not in needed and _listed(name, rows)}
    extra = [name for name in headers if name not in needed and name not in ignored]
    problems, missing, sources = [], [], {}
    for piece in pieces:
        name = piece.theirs if piece.theirs in headers else copies.get(piece.theirs)
        if name is None:
            missing.append(piece.theirs)
            continue
        shape, dtype = headers[name]
        if tuple(shape) != piece.whole_shape:
            problems.append(
                f"shape: {name} is {list(shape)}, the config needs {list(piece.whole_shape)} "
                f"(parameter {piece.ours})"
            )
        if jnp.issubdtype(dtype, np.inexact) != jnp.issubdtype(dtypes[piece.ours], np.inexact):
            problems.append(f"dtype: {name} is {dtype}, {piece.ours} is {dtypes[piece.ours]}")
        sources.setdefault(piece.ours, []).append((name, piece))
    expected = [row.theirs for row in rows]
    problems = (
        [f"missing: {text}{_nearest(text, _numbered(extra))}" for text in _numbered(missing)]
        + [f"extra: {text}{_nearest(text, expected)}" for text in _numbered(extra)]
        + list(dict.fromkeys(problems))
    )
    _raise(problems, f"{where} does not fit the model")
    return sources, sorted(ignored - set(copies.values()))


def fill(read, sources, leaf):
    """One of our parameters as a numpy array.

    Args:
      read: name → numpy array.
      sources: [(name, Piece), …] of this parameter, from `check`.
      leaf: its shape and dtype.
    """
    array = np.empty(leaf.shape, leaf.dtype)
    fill_blocks(read, sources, [(tuple(slice(0, n) for n in leaf.shape), array)])
    return array


def fill_blocks(read, sources, blocks):
    """Fills blocks of one parameter, reading each tensor once and one at a time.

    Args:
      read, sources: as in `fill`.
      blocks: [(slices with start and stop, numpy array of that extent), …].
    """
    for name, piece in sources:
        values = None
        for within, block in blocks:
            target, inner = block, within
            if piece.index is not None:
                layers, *inner = within
                if not layers.start <= piece.index < layers.stop:
                    continue
                target = block[piece.index - layers.start]
            if values is None:
                values = piece.read(read(name))
            target[...] = values[tuple(inner)]


def to_ours(tensors, rows, shapes):
    """Theirs to ours, in the dtypes of `shapes`.

    Args:
      tensors: mapping of name → numpy array (a torch state_dict: `{k: v.numpy() for …}`).
      rows: a table.
      shapes: nested parameters (jax.eval_shape of the module's init).

    Returns:
      nested parameters, numpy arrays.

    Raises:
      WeightsError: one list of all that is missing, extra, or of the wrong shape or dtype.
    """
    headers = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    sources, _ = check(headers, rows, shapes, "the checkpoint")
    check_ties(tensors.__getitem__, headers, rows)
    leaves = tables.flatten(shapes)
    return tables.nest(
        {path: fill(tensors.__getitem__, sources[path], leaves[path]) for path in leaves}
    )


def check_ties(read, headers, rows):
    """Raises WeightsError when a tensor differs from the one that it is said to repeat."""
    for row in rows:
        both = row.tied and row.theirs in headers and row.tied in headers
        if both and not _same_bits(read(row.theirs), read(row.tied)):
            raise WeightsError(
                f"{row.theirs} and {row.tied} differ, but the config ties them "
                "(tie_word_embeddings); they must be equal"
            )


def to_theirs(params, rows):
    """The inverse of `to_ours`: {name: numpy array}, without ignored and tied tensors."""
    leaves = tables.flatten(params)
    return {
        name: join(pieces, lambda path, index: np.asarray(leaves[path][index]))
        for name, pieces in by_tensor(expand(rows, params)).items()
    }


def by_tensor(pieces):
    """{name of theirs: its Pieces in order}, in the table's order.

    Raises:
      WeightsError: a tensor of several parts of which one is absent.
    """
    groups = {}
    for piece in pieces:
        groups.setdefault(piece.theirs, []).append(piece)
    for name, group in groups.items():
        group.sort(key=lambda piece: piece.row.part or (0, 1))
        parts = [piece.row.part or (0, 1) for piece in group]
        if parts != [(j, len(parts)) for j in range(len(parts))]:
            raise WeightsError(f"{name} is made of the parts {parts}; each must be there once")
    return groups


def join(pieces, take):
    """One of their tensors from its pieces; `take(path, index)` is a slice of ours."""
    parts = [
        piece.write(take(piece.ours, ... if piece.index is None else piece.index))
        for piece in pieces
    ]
    return np.asarray(parts[0] if len(parts) == 1 else np.concatenate(parts), order="C")


def _copies(rows, headers):
    """{tensor: a tied copy of it that is in the checkpoint}."""
    return {row.tied: row.theirs for row in rows if row.tied and row.theirs in headers}


def _listed(name, rows):
    """Whether a row says that this tensor has no parameter."""
    for row in rows:
        if row.ours is None:
            pattern = re.escape(row.theirs).replace(re.escape("{i}"), r"\d+")
            if re.fullmatch(pattern, name):
                return True
    return False


def _same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _numbered(names):
    """Names that differ by one number only, told once: "layers.{i}.weight (i = 0…11)"."""
    groups = {}
    for name in dict.fromkeys(names):
        numbers = re.findall(r"(?<=\.)\d+(?=\.)", name)
        pattern = re.sub(r"(?<=\.)\d+(?=\.)", "{i}", name, count=1)
        groups.setdefault(pattern if numbers else name, []).append((name, numbers))
    told = []
    for pattern, members in groups.items():
        if len(members) == 1:
            told.append(members[0][0])
        else:
            told.append(f"{pattern} (i = {', '.join(numbers[0] for _, numbers in members)})")
    return told


def _nearest(name, candidates):
    names = {str(c).split(" (i = ")[0]: None for c in candidates}
    found = difflib.get_close_matches(name.split(" (i = ")[0], list(names), n=1, cutoff=0.6)
    return f"; did you mean `{found[0]}`?" if found else ""


def _raise(problems, what):
    if problems:
        raise WeightsError("\n  ".join([f"{what}:", *problems]))
