"""Where an untrained Q-Former starts: what is in order, and where it looks."""

import jax
import jax.numpy as jnp
import numpy as np

from regionjax.models import bert, trajectory, trajectory_start, vit
from regionjax.models.trajectory import COMPACT, TrajectoryWords


def test_numbers_begin_in_order_and_positions_alike_for_each_piece_of_a_point():
    rng = np.random.default_rng(0)
    words_before, places_before = (
        rng.normal(0, 0.02, (n, 64)).astype(np.float32) for n in (COMPACT, 42)
    )
    table = TrajectoryWords()
    after, places = map(
        np.asarray,
        trajectory_start.ordered(
            table, jax.numpy.array(words_before), jax.numpy.array(places_before)
        ),
    )
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    numbers = unit(after[list(table.numbers)])
    alike = numbers @ numbers.T
    # The next number is the most like it; near ones are more alike than ones far away.
    assert (np.argsort(alike)[1:-1, -1] == np.arange(1, 100)).all()
    assert all({*np.argsort(alike[n])[-3:]} == {n - 1, n, n + 1} for n in range(1, 100))
    assert alike[10, 14] > alike[10, 30] and alike[50, 46] > alike[50, 30]
    others = [id for id in range(COMPACT) if id not in table.numbers]
    np.testing.assert_array_equal(after[others], words_before[others])
    # The second point's `x` stands where the first one's does, four pieces later.
    alike = unit(places) @ unit(places).T
    same = (np.arange(41)[:, None] - np.arange(41)) % 4 == 0
    assert alike[1:, 1:][same].min() > 0.9 > 0.5 > np.abs(alike[1:, 1:][~same]).max()
    assert np.abs(alike[0, 1:]).max() < 0.5


def test_queries_look_at_the_patches_under_the_points():
    grid, width = 8, 128
    tower = vit.ViT(vit.ViTConfig(64, 8, width, depth=1, heads=4, mlp_width=64))
    config = bert.BertConfig(
        width, 2, 4, 64, COMPACT, 42, queries=4, cross_every=1, encoder_width=width, dropout=0.0
    )
    former = bert.Bert(config)
    rng = np.random.default_rng(1)
    images = np.broadcast_to(rng.integers(0, 256, (3, 1, 1, 3), dtype=np.uint8), (3, 64, 64, 3))
    middle = rng.uniform(0.1, 0.9, (3, 40, 1, 2))
    points = (middle + rng.uniform(-0.04, 0.04, (3, 40, 10, 2))).astype(np.float32)
    said = trajectory.words(TrajectoryWords(), jnp.array(points), np.zeros((3, 40), bool))
    seen, params = tower.init_with_output(jax.random.key(0), images)
    positions = params["params"]["position_embedding"]
    before = former.init(jax.random.key(1), said, said > 0, seen[0])["params"]
    after = trajectory_start.looking(TrajectoryWords(), before, positions, grid)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, before)

    def distances(params):
        """Of the patch that each head of the first layer looks at most from the points: [N]."""
        looks = former.apply({"params": params}, said, said > 0, seen[0])[1]["probabilities"][0]
        most = np.asarray(looks).mean(3).argmax(-1)  # [B, N, R] from [B, N, R, Q, P]
        xy = (np.stack([most % grid, most // grid], -1) + 0.5) / grid
        return np.abs(xy - middle[:, None, :, 0]).max(-1).mean((0, 2))

    # Half a patch is 0.06; anywhere is 0.4.
    assert distances(after)[:2].max() < 0.11
    assert distances(after)[2:].min() > 0.25 and distances(before).min() > 0.25
