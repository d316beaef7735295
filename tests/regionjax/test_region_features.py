"""Masking, pooling and geometry against loops over pixels; the heatmap loss by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from regionjax.grid import downsample_weights, overlap_weights
from regionjax.losses.caption import token_nll
from regionjax.losses.pointing import pointing
from regionjax.models.region_features import geometry, geometry_size, pooling_weights

GRID, SIZE = 4, 8


def mask_of(pixels):
    mask = np.zeros((1, 1, SIZE, SIZE), np.float32)
    for x, y in pixels:
        mask[0, 0, y, x] = 1
    return mask


def test_equation_3_and_area_normalised_pooling():
    """alpha = 0: F ⊙ M averaged over the mask, here 3 pixels in one patch and 1 in another."""
    mask = mask_of([(0, 0), (1, 0), (0, 1), (2, 0)])
    box = np.array([[[0, 0, 1, 1]]], np.float32)
    features = np.random.default_rng(0).normal(size=(GRID * GRID, 5)).astype(np.float32)
    weights = pooling_weights(mask, box, np.zeros((1, 1), np.float32), GRID, cells=2)
    pooled = np.asarray(weights[0, 0] @ features)
    np.testing.assert_allclose(pooled[0], (3 * features[0] + features[1]) / 4, rtol=1e-5)
    np.testing.assert_allclose(pooled[1], pooled[0], rtol=1e-5)  # all of it is in the first cell
    np.testing.assert_array_equal(pooled[2:], 0)  # cells without mask


def test_alpha_keeps_context_and_one_removes_the_mask():
    mask, box = mask_of([(6, 6)]), np.array([[[0, 0, 1, 1]]], np.float32)
    half = pooling_weights(mask, box, np.full((1, 1), 0.5, np.float32), GRID, 1)[0, 0, 0]
    outside, inside = half[0], half[15]
    assert inside / outside == pytest.approx((0.25 + 0.5 * 0.75) / 0.5, rel=1e-5)
    whole = pooling_weights(mask, box, np.ones((1, 1), np.float32), GRID, 1)[0, 0, 0]
    np.testing.assert_allclose(whole, 1 / 16, rtol=1e-6)


def test_cells_cut_the_box_exactly():
    """A full mask: cell (row 1, column 0) of the box is the mean over its own rectangle."""
    box = np.array([[[0.25, 0.25, 1.0, 0.75]]], np.float32)
    weights = pooling_weights(
        np.ones((1, 1, SIZE, SIZE), np.float32), box, np.zeros((1, 1), np.float32), GRID, 2
    )[0, 0, 3].reshape(GRID, GRID)
    fine = np.zeros((64, 64))
    fine[32:48, 16:40] = 1  # rows 0.5…0.75, columns 0.25…0.625
    expected = fine.reshape(GRID, 16, GRID, 16).sum((1, 3))
    np.testing.assert_allclose(weights, expected / expected.sum(), atol=1e-6)


def test_downsampling_is_an_area_average_also_when_sizes_do_not_divide():
    fine = np.repeat(np.arange(6.0), 4)  # each of 6 pixels as 4 samples; 4 cells of 6 samples
    expected = fine.reshape(4, 6).mean(1)
    np.testing.assert_allclose(downsample_weights(4, 6) @ np.arange(6.0), expected, rtol=1e-6)
    np.testing.assert_allclose(overlap_weights(jnp.zeros(()), jnp.ones(()), 4, 6).sum(0), 1)


def test_geometry_describes_the_silhouette_and_its_own_size():
    mask = mask_of([(2, 2), (3, 2), (2, 3)])  # an L in the box 2…4
    box = np.array([[[0.25, 0.25, 0.5, 0.5]]], np.float32)
    points = np.zeros((1, 1, 3, 2), np.float32)
    out = np.asarray(geometry(mask, box, points, 2))[0, 0]
    assert out.size == geometry_size(3, 2)
    np.testing.assert_allclose(out[-4:], [1, 1, 1, -1], atol=1e-6)


def test_pointing_is_the_cross_entropy_to_the_box():
    heat = np.log(np.full((1, 2, 4), 0.25, np.float32))
    heat[0, 1] = np.log([0.7, 0.1, 0.1, 0.1])
    boxes = np.zeros((1, 2, 4), np.float32)
    boxes[0, 1] = [0, 0, 0.5, 0.25]  # half of the first of 2×2 cells
    total, weight = pointing(jnp.asarray(heat), boxes, 2)
    assert weight == 1  # the slot without a box weighs nothing
    assert float(total) == pytest.approx(-np.log(0.7), rel=1e-5)


def test_token_nll_is_log_softmax_whatever_the_chunks_of_v():
    rng = np.random.default_rng(0)
    hidden, table = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(7, 5))
    target = rng.integers(0, 7, (2, 3, 4))
    logits = hidden @ table.T
    log_probability = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_probability, target[..., None], -1)[..., 0]
    for chunks in (1, 7):
        got = token_nll(np.float32(hidden), np.float32(table), np.int32(target), chunks)
        np.testing.assert_allclose(got, expected, atol=1e-5)
    with pytest.raises(ValueError, match="vocabulary_chunks=3 does not divide"):
        token_nll(np.float32(hidden), np.float32(table), np.int32(target), 3)
