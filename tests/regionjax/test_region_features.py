"""Masking, pooling and geometry against loops over pixels; the heatmap loss by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from regionjax.grid import downsample_weights, overlap_weights
from regionjax.losses.caption import token_nll
from regionjax.losses.pointing import pointing
from regionjax.models.region_features import focus, geometry, geometry_size, pooling_weights
from regionjax.models.windows import overlapping, squares

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


def test_the_focus_is_the_box_of_the_masked_image():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 16, 16, 3)).astype(np.uint8)
    mask = mask_of([(x, y) for x in range(2, 6) for y in range(2, 5)])
    box = np.array([[[0.25, 0.25, 0.75, 0.75]]], np.float32)  # pixels 4…12, mask cells 2…6
    got = np.asarray(focus(image, mask, box, np.zeros((1, 1), np.float32), 8))[0, 0]
    inside = np.repeat(np.repeat(mask[0, 0, 2:6, 2:6], 2, axis=0), 2, axis=1)
    np.testing.assert_allclose(got[..., 3], inside, atol=1e-6)
    pixels = image[0, 4:12, 4:12] / 127.5 - 1
    np.testing.assert_allclose(got[..., :3], pixels * inside[..., None], atol=1e-5)
    context = np.asarray(focus(image, mask, box, np.ones((1, 1), np.float32), 8))[0, 0]
    np.testing.assert_allclose(context[..., :3], pixels, atol=1e-5)


@pytest.mark.parametrize(("size", "stride"), [(4, 2), (3, 1), (2, 2), (5, 3)])
def test_a_product_over_windows_is_a_convolution(size, stride):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 6, 12, 3)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 3, 5)).astype(np.float32)
    before, after = (size - stride) // 2, (size - stride + 1) // 2
    expected = jax.lax.conv_general_dilated(
        image,
        kernel,
        (stride, stride),
        ((before, after), (before, after)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    got = overlapping(image, size, stride) @ kernel.reshape(-1, 5)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    if size == stride:
        np.testing.assert_array_equal(squares(image, size), overlapping(image, size, stride))


def test_pointing_is_the_cross_entropy_to_a_bell_on_the_box():
    heat = np.random.default_rng(0).normal(size=(1, 2, 4, 6)).astype(np.float32)
    boxes = np.zeros((1, 2, 4), np.float32)
    boxes[0, 1] = [0, 0.25, 1, 0.75]  # 6 cells wide, 2 high, its middle at (3, 2)
    bell = np.zeros((4, 6))
    for y in range(4):
        for x in range(6):  # a fifth of 6 cells; a fifth of 2 is less than the least, 0.5
            bell[y, x] = np.exp(-((x - 2.5) ** 2) / (2 * 1.2**2) - (y - 1.5) ** 2 / (2 * 0.5**2))
    log_probability = heat[0, 1] - np.log(np.exp(heat[0, 1]).sum())
    total, weight = pointing(jnp.asarray(heat), boxes)
    assert weight == 1  # the slot without a box weighs nothing
    expected = -(bell / bell.sum() * log_probability).sum()
    assert float(total) == pytest.approx(expected, rel=1e-5)


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
