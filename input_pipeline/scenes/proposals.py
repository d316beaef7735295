"""Segmentation proposals: one good mask for each object, and distractors.

Distractors are parts of objects, two neighbours in one, filled boxes, and patches of ground. All
have ragged edges, as a segmenter's masks do, so that nothing but the picture says which is which.
"""

import numpy as np

from input_pipeline.scenes.scene import bounding_boxes

RAGGED = 80  # of 256: the largest share of edge pixels that are flipped


def propose(scene, rng):
    """Masks in random order, about twice as many as things.

    Returns:
      masks: bool [n, size, size], none of them empty.
      bounds: list of n pixel edges [x0, y0, x1, y1].
      scores: list of n confidences in [0.5, 1], which say nothing.
    """
    found = [*scene.masks]
    for index, kind in enumerate(rng.integers(0, 6, len(scene.things)).tolist()):
        if kind < 3:
            found.append(_part(scene, index, rng))
        elif kind == 3:
            found.append(scene.masks[index] | scene.masks[_neighbour(scene, index)])
        elif kind == 4:
            found.append(_filled(scene, index))
    for _ in range(rng.integers(1, 4)):
        found.append(_ground(scene, rng))
    masks = _ragged(np.stack(found), rng)
    masks = masks[rng.permutation(np.flatnonzero(masks.any(axis=(1, 2))))]
    return masks, bounding_boxes(masks).tolist(), rng.uniform(0.5, 1, len(masks)).tolist()


def _ragged(masks, rng):
    """Flips a share of the pixels on both sides of every edge, another share for each mask."""
    edge = np.zeros_like(masks)
    across, down = masks[:, :, 1:] ^ masks[:, :, :-1], masks[:, 1:] ^ masks[:, :-1]
    edge[:, :, 1:] |= across
    edge[:, :, :-1] |= across
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    noise = rng.integers(0, 256, masks.shape[1:], dtype=np.uint8)
    shares = rng.integers(0, RAGGED, (len(masks), 1, 1), dtype=np.uint8)
    return masks ^ (edge & (noise < shares))


def _part(scene, index, rng):
    """One side of a thing, cut along a random line through its middle."""
    rows, columns = np.indices(scene.masks.shape[1:], sparse=True)
    x, y = (scene.centres[index] * scene.size).tolist()
    direction = rng.uniform(-1, 1, 2)
    return scene.masks[index] & ((columns - x) * direction[0] + (rows - y) * direction[1] > 0)


def _neighbour(scene, index):
    """The thing whose middle is nearest to that of thing `index`."""
    distances = ((scene.centres - scene.centres[index]) ** 2).sum(axis=1)
    distances[index] = np.inf
    return int(distances.argmin())


def _filled(scene, index):
    """The bounding box of a thing."""
    x0, y0, x1, y1 = scene.bounds[index]
    mask = np.zeros_like(scene.masks[index])
    mask[y0:y1, x0:x1] = True
    return mask


def _ground(scene, rng):
    """A patch of ground, as large as an object; what lies on it is left out."""
    rows, columns = np.indices(scene.masks.shape[1:], sparse=True)
    x, y, width, height = rng.uniform((0, 0, 0.08, 0.08), (1, 1, 0.22, 0.22)) * scene.size
    patch = ((columns - x) / width) ** 2 + ((rows - y) / height) ** 2 < 1
    return patch & ~scene.masks.any(axis=0)
