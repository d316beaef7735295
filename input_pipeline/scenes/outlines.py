"""Masks as polygons that have exactly their pixels, for formats that know outlines alone."""

import numpy as np


def outlines(mask):
    """Polygons along the edges of pixels, without holes; they share no pixel.

    A part with a hole is cut in two where the hole is.

    Args:
      mask: bool [height, width].

    Returns:
      list of polygons [[x, y], …] in whole pixels; their insides together are the mask.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return []
    x, y = int(columns[0]), int(rows[0])
    return [
        [[x + across, y + down] for across, down in loop]
        for loop in _without_holes(mask[y : rows[-1] + 1, x : columns[-1] + 1])
    ]


def _without_holes(mask):
    loops = _loops(mask)
    for loop in loops:
        if _area(loop) < 0:  # goes round a hole
            edges = [x for x, _ in loop]
            cut = (min(edges) + max(edges)) // 2
            left, right = mask.copy(), mask.copy()
            left[:, cut:], right[:, :cut] = False, False
            return _without_holes(left) + _without_holes(right)
    return loops


def _area(loop):
    """The area inside, negative where the loop goes the other way round."""
    x, y = np.array(loop).T
    return (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2


def _loops(mask):
    """All edges of a mask as closed loops of corners (x, y), with the mask on their right."""
    padded = np.pad(mask, 1).astype(np.int8)
    down, across = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    steps = {}  # corner: the directions in which edges leave it
    for edges, (x, y), step in (
        (down == 1, (0, 0), (1, 0)),  # tops of pixels, passed to the right
        (across == -1, (0, 0), (0, 1)),
        (down == -1, (1, 0), (-1, 0)),
        (across == 1, (0, 1), (0, -1)),
    ):
        for row, column in np.argwhere(edges).tolist():
            steps.setdefault((column + x, row + y), []).append(step)
    loops = []
    while steps:
        start = corner = min(steps)  # one edge leaves it: nothing that is left lies to its left
        loop, step = [], None
        while not loop or corner != start:
            ahead = steps[corner]
            # where two pixels touch with their corners, stay with the one on the right
            turn = (-step[1], step[0]) if len(ahead) == 2 else ahead[0]
            ahead.remove(turn)
            if not ahead:
                del steps[corner]
            if turn != step:
                loop.append(corner)
            step, corner = turn, (corner[0] + turn[0], corner[1] + turn[1])
        loops.append(loop)
    return loops
