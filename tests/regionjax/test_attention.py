"""The structured one-image-many-regions attention against the dense mask that defines it."""

import jax
import numpy as np
import pytest

from regionjax.models import attention

P, R, L, N, K, H = 5, 3, 4, 4, 2, 8
FREQUENCY = attention.frequencies(H, 10_000.0)


def test_segment_mask_is_the_docstring_example():
    drawn = ["xx....", "xx....", "xxx...", "xxxx..", "xx..x.", "xx..xx"]
    assert [["x" if c else "." for c in row] for row in attention.segment_mask(2, 2, 2)] == [
        list(row) for row in drawn
    ]


def dense_reference(q, k, v, mask):
    """Attention in numpy, one head at a time, float64."""
    out = np.zeros(q.shape)
    for b in range(q.shape[0]):
        for n in range(q.shape[2]):
            scores = q[b, :, n] @ k[b, :, n * K // N].T / np.sqrt(H)
            scores = np.where(mask, scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[b, :, n] = weights / weights.sum(-1, keepdims=True) @ v[b, :, n * K // N]
    return out


@pytest.fixture
def qkv():
    rng = np.random.default_rng(0)
    s = P + R * L
    return tuple(rng.normal(size=(2, s, heads, H)) for heads in (N, K, K))


def test_attend_is_masked_softmax_attention(qkv):
    mask = attention.segment_mask(P, R, L)
    got = attention.attend(*(np.float32(t) for t in qkv), mask)
    np.testing.assert_allclose(got, dense_reference(*qkv, mask), rtol=0, atol=2e-6)


def test_bias_scale_and_a_mask_an_image(qkv):
    rng = np.random.default_rng(3)
    s = P + R * L
    bias, mask = rng.normal(size=(N, s, s)), rng.random((2, 1, s)) < 0.7
    got = attention.attend(*(np.float32(t) for t in qkv), mask, np.float32(bias), scale=0.9)
    q, k, v = qkv
    for b in range(2):
        for n in range(N):
            scores = 0.9 * q[b, :, n] @ k[b, :, n * K // N].T + bias[n]
            weights = np.exp(np.where(mask[b], scores, -np.inf))
            expected = weights / weights.sum(-1, keepdims=True) @ v[b, :, n * K // N]
            np.testing.assert_allclose(got[b, :, n], expected, rtol=0, atol=4e-6)


def test_attend_segments_is_the_dense_mask_without_its_empty_blocks(qkv):
    expected = dense_reference(*qkv, attention.segment_mask(P, R, L))
    q, k, v = (np.float32(t) for t in qkv)

    def own(t):
        return t[:, P:].reshape(2, R, L, *t.shape[2:])

    causal = np.tril(np.ones((L, L), bool))
    got = attention.attend_segments(own(q), k[:, :P], v[:, :P], own(k), own(v), causal)
    np.testing.assert_allclose(got, own(expected), rtol=0, atol=2e-6)
    image = attention.attend(q[:, :P], k[:, :P], v[:, :P])
    np.testing.assert_allclose(image, expected[:, :P], rtol=0, atol=2e-6)


def test_rotated_scores_depend_on_the_distance_only():
    rng = np.random.default_rng(1)
    q, k = (np.float32(rng.normal(size=(1, 1, 1, H))) for _ in range(2))

    def score(i, j):
        at = lambda p: np.full((1, 1), p)  # noqa: E731
        turned = [attention.rotate(x, at(p), FREQUENCY) for x, p in ((q, i), (k, j))]
        return float((turned[0] * turned[1]).sum())

    assert score(3, 1) == pytest.approx(score(12, 10), abs=1e-5)
    assert score(3, 1) != pytest.approx(score(3, 2), abs=1e-3)


def test_rotation_keeps_length_and_position_zero():
    x = np.float32(np.random.default_rng(2).normal(size=(2, 7, N, H)))
    rotated = attention.rotate(x, np.arange(7), FREQUENCY)
    np.testing.assert_allclose(rotated[:, 0], x[:, 0], atol=1e-6)
    np.testing.assert_allclose(
        np.linalg.norm(rotated, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5
    )


def test_a_row_without_any_key_stays_finite():
    q = np.ones((1, 2, N, H), np.float32)
    k = v = np.ones((1, 2, K, H), np.float32)
    out = attention.attend(q, k, v, np.zeros((2, 2), bool))
    assert np.isfinite(jax.device_get(out)).all()
