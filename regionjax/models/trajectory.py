"""A trajectory as words, made on the device: `[CLS] [ x y ] [ x y ] … [SEP]`, what RegionVLM reads.

x and y are whole hundredths of the image's sides, cut off and not rounded. The same text on the
host, for people and for comparison, is input_pipeline/trajectory_text.py. A vocabulary of nothing
else can do without the brackets.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

ENDS = 2  # [CLS] and [SEP]


@dataclasses.dataclass(frozen=True)
class TrajectoryWords:
    """Ids of the words in the vocabulary of the model that reads them; 0 is padding.

    The defaults are a vocabulary of these words and no others, `COMPACT` in all.

    Attributes:
      begin, end: [CLS] and [SEP]; left, right: the square brackets, or 0 and 0: points without.
      numbers: of "0" to "100".
    """

    begin: int = 1
    end: int = 2
    left: int = 3
    right: int = 4
    numbers: tuple[int, ...] = tuple(range(5, 106))

    def __post_init__(self):
        if len(self.numbers) != 101:
            raise ValueError(f"numbers are {len(self.numbers)} ids, expected 101 (0 to 100)")
        if bool(self.left) != bool(self.right):
            raise ValueError(f"left is {self.left} and right {self.right}; 0 and 0 is no brackets")
        if min(self.ids) < 1:
            raise ValueError(f"id {min(self.ids)}: 0 is padding, words begin at 1")

    @property
    def ids(self):
        """All of them."""
        brackets = (self.left, self.right) if self.left else ()
        return (self.begin, self.end, *brackets, *self.numbers)

    @property
    def point_pieces(self):
        """Word pieces of one point: [ x y ], or x y."""
        return 4 if self.left else 2

    @property
    def first_xy(self):
        """Positions of the first point's x and y, behind [CLS]."""
        return (2, 3) if self.left else (1, 2)


COMPACT = 106
# bert-base-uncased, whose words the Q-Former of InstructBLIP reads.
BERT = TrajectoryWords(
    begin=101,
    end=102,
    left=1031,
    right=1033,
    # fmt: off
    numbers=(
        1014,
        1015,
        1016,
        1017,
        1018,
        1019,
        1020,
        1021,
        1022,
        1023,
        2184,
        2340,
        2260,
        2410,
        2403,
        2321,
        2385,
        2459,
        2324,
        2539,
        2322,
        2538,
        2570,
        2603,
        2484,
        2423,
        2656,
        2676,
        2654,
        2756,
        2382,
        2861,
        3590,
        3943,
        4090,
        3486,
        4029,
        4261,
        4229,
        4464,
        2871,
        4601,
        4413,
        4724,
        4008,
        3429,
        4805,
        4700,
        4466,
        4749,
        2753,
        4868,
        4720,
        5187,
        5139,
        4583,
        5179,
        5401,
        5388,
        5354,
        3438,
        6079,
        5786,
        6191,
        4185,
        3515,
        5764,
        6163,
        6273,
        6353,
        3963,
        6390,
        5824,
        6421,
        6356,
        4293,
        6146,
        6255,
        6275,
        6535,
        3770,
        6282,
        6445,
        6640,
        6391,
        5594,
        6564,
        6584,
        6070,
        6486,
        3938,
        6205,
        6227,
        6109,
        6365,
        5345,
        5986,
        5989,
        5818,
        5585,
        2531,
    ),
    # fmt: on
)


def _smallest_of_each_hundredth():
    """f32 [100]: the smallest float32 x with 100·x at least 1, 2, … 100, without rounding."""
    edges = (np.arange(1, 101) / 100).astype(np.float32)
    low = np.nextafter(edges, np.float32(0))
    high = np.nextafter(edges, np.float32(1))
    for edge in (edges, high):
        low = np.where(low.astype(np.float64) * 100 < np.arange(1, 101), edge, low)
    return low


_EDGES = _smallest_of_each_hundredth()


def hundredths(x):
    """trunc(100·x) of f32 in [0, 1], i32, exact: 100·x in float32 may round up to the next one."""
    return (x[..., None] >= _EDGES).sum(-1)


def room(table, points, pieces=0):
    """How many word pieces a text of K points has: `pieces`, or all that K points need."""
    return pieces or table.point_pieces * points + ENDS


def words(table, points, whole, pieces=0):
    """The text of each region as word ids.

    Args:
      table: TrajectoryWords.
      points: f32 [B, R, K, 2] xy; clipped to the image.
      whole: bool [B, R], regions that are the whole image: their text is [CLS] [SEP].
      pieces: of the text, see `room`. Where there are fewer than the points need, the last ones are
        cut off, and [SEP] stands after what is left, in the middle of a point if need be.

    Returns:
      i32 [B, R, pieces], padded with 0
    """
    xy = jnp.asarray(table.numbers, jnp.int32)[hundredths(jnp.clip(points, 0, 1))]
    if table.left:
        bracket = jnp.broadcast_to(jnp.array([table.left, table.right], jnp.int32), xy.shape)
        xy = jnp.concatenate([bracket[..., :1], xy, bracket[..., 1:]], axis=-1)
    said = xy.reshape(*xy.shape[:2], -1)
    pieces = room(table, points.shape[2], pieces)
    said = said[..., : pieces - ENDS]
    length = jnp.where(whole, 0, said.shape[-1])[..., None]
    place = jnp.arange(pieces)
    said = jnp.pad(said, ((0, 0), (0, 0), (1, pieces - 1 - said.shape[-1])))
    said = jnp.where(place <= length, said, 0)
    said = jnp.where(place == length + 1, table.end, said)
    return jnp.where(place == 0, table.begin, said)
