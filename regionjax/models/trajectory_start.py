"""Where a Q-Former starts that nobody has trained: it looks at the patches under the points.

The published model begins with BERT's words and with queries that have looked at 129 million
images. From noise a Q-Former has to find out what a number is, which of two numbers is x, and where
in the image that lies, before a region tells it anything; until then it learns what most regions
say. Here words, positions and the heads of the first layer start as waves of the coordinates, which
is also how the positions of a ViT of ours start; what other layers add, in the tower too, starts
small. Whatever is imported replaces this start.
"""

import jax.numpy as jnp
import numpy as np

RIDGE = 0.01  # keeps solutions short, so that what else a vector says adds little
BRANCH = 0.2  # what a layer adds to a token, of what it would add
SELF_LOGIT = 6.0  # of a coordinate among all words and queries, which are near 0
SELF_GAIN = 4.0  # of coordinates in a query whose other entries are near 1
CROSS_GAIN = 1.0  # a head looks a twentieth to a tenth of the image around its place
LOOKS = (0.35, 2)  # shortest and longest waves that a head compares places by, of the image's side
REACH = 0.085  # how far from the points a head looks, of the image's side


def waves(places, lengths):
    """Sines and cosines of places [n] for wavelengths [f]: [n, 2·f]."""
    angle = 2 * np.pi * np.asarray(places)[:, None] / lengths
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def further(by, lengths):
    """A matrix [2·f, 2·f]: waves of a place @ it are the waves of that place + `by`."""
    angle = 2 * np.pi * by / lengths
    sine, cosine = np.diag(np.sin(angle)), np.diag(np.cos(angle))
    return np.block([[cosine, -sine], [sine, cosine]])


def ordered(table, embedding, positions):
    """Numbers as waves of their value, and positions alike for the pieces of every point.

    Args:
      table: TrajectoryWords.
      embedding: f32 [V, D] noise; its spread sets the height of the waves.
      positions: f32 [T, D] noise.

    Returns:
      embedding and positions
    """
    width, spread = embedding.shape[-1], embedding.std()
    numbers = waves(np.arange(101) / 100, np.geomspace(0.125, 4, -(-width // 2)))[:, :width]
    embedding = embedding.at[jnp.array(table.numbers)].set(2 * 2**0.5 * spread * numbers)
    # The piece of a point that stands at each position; [CLS] has the first one to itself.
    piece = np.arange(len(positions) - 1) % table.point_pieces + 1
    same = jnp.concatenate([jnp.zeros((1, width)), 2 * positions[piece]])
    own = jnp.concatenate([positions[:1], 0.3 * positions[1:]])
    return embedding, same + own


def quiet(layers):
    """Layers, stacked or not, that add little to their tokens at first.

    With a norm behind every addition, the nine of three layers leave 1/500 of what the first saw,
    and what two layers of a ViT of ours add has 13 times the power of its patches. As in DeepNet
    (Wang et al. 2022).

    Args:
      layers: nested dictionary; the products whose names end in `_out` are those that add.
    """
    return {
        name: part | {"kernel": BRANCH * part["kernel"]} if name.endswith("_out") else part
        for name, part in layers.items()
    }


def coordinates(table, embedding, positions, place):
    """Every word at every piece of a point, and whether that is the wanted coordinate.

    It is more than a text has, but without brackets [SEP] does stand where an x would; it says
    nothing of x, and must not be taken in.

    Args:
      embedding, positions: `ordered`.
      place: where the first point's x, or y, stands.

    Returns:
      f32 [n, D], words with their positions, normalised; f32 [n, 1], 1 for numbers at `place`
    """
    numbers = jnp.array(table.numbers)
    others = jnp.array([id for id in table.ids if id not in table.numbers])
    words, wanted = [embedding[numbers] + positions[place]], [jnp.ones(len(numbers))]
    for piece in range(1, 1 + table.point_pieces):
        rest = others if piece == place else jnp.concatenate([numbers, others])
        words.append(embedding[rest] + positions[piece])
        wanted.append(jnp.zeros(len(rest)))
    return _normed(jnp.concatenate(words)), jnp.concatenate(wanted)[:, None]


def looking(table, former, patches, grid):
    """A Q-Former whose queries look at the patches under the points they read.

    In the first layer, one head of self-attention gathers what x is on average, a second one what y
    is, and the heads of cross-attention compare that with where each patch lies, each of them
    `REACH` away in a direction of its own, so that together they see how a thing is laid out. They
    look softly, so that what they see follows the points from patch to patch and does not jump.
    Where there are no points, they look at everything alike; for this the entries of a query that
    hold a place start at 0. All other heads and layers stay as they are, but `quiet`.

    Args:
      table: TrajectoryWords.
      former: parameters of a models/bert.py with queries, freshly initialised.
      patches: f32 [grid², Dv], positions as the ViT adds them to its patches.

    Returns:
      parameters of the same shapes
    """
    embedding, positions = ordered(table, former["embedding"], former["position_embedding"])
    layers = {kind: quiet(layer) for kind, layer in former["layers"].items()}
    layer = layers["cross"]
    size = layer["query"]["kernel"].shape[-1] // 2  # entries of a coordinate
    lengths = np.geomspace(*LOOKS, size // 2)
    size = 2 * (size // 2)
    hundredths = np.arange(101) / 100 + 0.005  # whole ones were cut off
    numbers, said = embedding[jnp.array(table.numbers)], waves(hundredths, lengths)

    def change(name, part, where, value):
        array = layer[name][part]
        layer[name] = layer[name] | {part: array.at[(0, *where)].set(value)}

    # A text without points names no place: [CLS], [SEP] behind it and the queries say nothing.
    ends = embedding[jnp.array([table.begin, table.end])] + positions[:2]
    near = slice(2 * size)  # of a query's entries; there the place will stand
    queries = former["query_tokens"].at[:, near].set(0.0)
    silent = _normed(jnp.concatenate([ends, queries]))
    said = np.concatenate([said, np.zeros((len(silent), size))])
    every = slice(None)
    for head, place in enumerate(table.first_xy):
        words = jnp.concatenate([_normed(numbers + positions[place]), silent])
        role = _solved(*coordinates(table, embedding, positions, place))[:, 0]
        change("query", "kernel", (every, head), 0.0)
        change("query", "bias", (head, 0), SELF_LOGIT * layer["query"]["kernel"].shape[-1] ** 0.5)
        change("key", "kernel", (every, head), 0.0)
        change("key", "kernel", (every, head, 0), role)
        change("value", "kernel", (every, head, slice(size)), _solved(words, said))
        change("attention_out", "kernel", (head,), 0.0)
        entries = head * size + np.arange(size)
        change("attention_out", "kernel", (head, np.arange(size), entries), SELF_GAIN)
    centres = (np.arange(grid) + 0.5) / grid
    line = waves(centres, lengths)
    both = np.concatenate([np.tile(line, (grid, 1)), np.repeat(line, grid, axis=0)], axis=1)
    places = _solved(patches, both)
    heads = layer["cross_query"]["kernel"].shape[-2]
    for head in range(heads):
        turn = np.zeros((2 * size, 2 * size))
        angle = 2 * np.pi * (head + 0.5) / heads
        for axis, by in enumerate((REACH * np.cos(angle), REACH * np.sin(angle))):
            own = slice(axis * size, (axis + 1) * size)
            turn[own, own] = further(by, lengths)
        change("cross_query", "kernel", (every, head), 0.0)
        change("cross_query", "kernel", (near, head, near), CROSS_GAIN * turn)
        change("cross_key", "kernel", (every, head, near), places)
    change("cross_out", "kernel", (every,), former["layers"]["cross"]["cross_out"]["kernel"][0])
    start = {"embedding": embedding, "position_embedding": positions, "query_tokens": queries}
    return former | start | {"layers": layers}


def _normed(x):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True))


def _solved(vectors, wanted):
    """A short matrix [D, m] that takes vectors [n, D] to what is wanted of them, [n, m]."""
    alike = vectors @ vectors.T
    alike = alike + RIDGE * jnp.trace(alike) / len(alike) * jnp.eye(len(alike))
    return vectors.T @ jnp.linalg.solve(alike, jnp.asarray(wanted, vectors.dtype))
