"""Where an untrained Q-Former starts: what is in order, and where it looks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from regionjax.models import bert, trajectory, trajectory_start, vit
from regionjax.models.trajectory import COMPACT, TrajectoryWords

BRACKETS = [TrajectoryWords(), TrajectoryWords(left=0, right=0)]


@pytest.mark.parametrize("table", BRACKETS)
def test_numbers_begin_in_order_and_positions_alike_for_each_piece_of_a_point(table):
    rng = np.random.default_rng(0)
    words_before, places_before = (
        rng.normal(0, 0.02, (n, 64)).astype(np.float32) for n in (COMPACT, 42)
    )
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
    # The second point's `x` stands where the first one's does, a point's pieces later.
    alike = unit(places) @ unit(places).T
    same = (np.arange(41)[:, None] - np.arange(41)) % table.point_pieces == 0
    assert alike[1:, 1:][same].min() > 0.9 > 0.5 > np.abs(alike[1:, 1:][~same]).max()
    assert np.abs(alike[0, 1:]).max() < 0.5


def untrained(table, grid=8, width=128):
    """Q-Former, its parameters before and after; trajectories, their middles, image features."""
    tower = vit.ViT(vit.ViTConfig(64, 8, width, depth=1, heads=4, mlp_width=64))
    config = bert.BertConfig(
        width, 2, 4, 64, COMPACT, 42, queries=4, cross_every=1, encoder_width=width, dropout=0.0
    )
    former = bert.Bert(config)
    rng = np.random.default_rng(1)
    images = np.broadcast_to(rng.integers(0, 256, (3, 1, 1, 3), dtype=np.uint8), (3, 64, 64, 3))
    middle = rng.uniform(0.1, 0.9, (3, 40, 1, 2))
    points = (middle + rng.uniform(-0.04, 0.04, (3, 40, 10, 2))).astype(np.float32)
    said = trajectory.words(table, jnp.array(points), np.zeros((3, 40), bool))
    params = tower.init(jax.random.key(0), images)["params"]
    params["layers"] = trajectory_start.quiet(params["layers"])
    seen, positions = tower.apply({"params": params}, images), params["position_embedding"]
    before = former.init(jax.random.key(1), said, said > 0, seen[0])["params"]
    after = trajectory_start.looking(table, before, positions, grid)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, before)
    return former, before, after, said, middle, seen[0]


@pytest.mark.parametrize("table", BRACKETS)
def test_queries_look_at_the_patches_under_the_points(table):
    grid = 8
    former, before, after, said, middle, seen = untrained(table, grid)
    place = (np.stack([np.arange(grid**2) % grid, np.arange(grid**2) // grid], -1) + 0.5) / grid

    def looks(params):
        """Where each head looks, from the points, and how far around that: [B, N, R, 2]."""
        looks = former.apply({"params": params}, said, said > 0, seen)[1]["probabilities"][0]
        looks = np.asarray(looks).mean(3)  # [B, N, R, P] from [B, N, R, Q, P]
        mean = looks @ place
        around = np.sqrt((looks[..., None] * (place - mean[..., None, :]) ** 2).sum(-2))
        return mean - middle[:, None, :, 0], around

    inside = (np.abs(middle[:, :, 0] - 0.5) < 0.3).all(-1)  # no part of a look is cut off
    offsets, around = (x.swapaxes(1, 2)[inside] for x in looks(after))  # [n, N, 2]
    # Four heads look into four corners, REACH away.
    side = trajectory_start.REACH * np.sqrt(0.5)
    corners = side * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    np.testing.assert_allclose(offsets.mean(0), corners, rtol=0, atol=0.015)
    # They follow the points within a patch: looking at the nearest one would leave 0.036.
    assert offsets.std(0).max() < 0.03
    # Everywhere would be 0.29.
    assert around.mean() < 0.12 < 0.25 < looks(before)[1].mean()


@pytest.mark.parametrize("table", BRACKETS)
def test_queries_look_at_everything_where_there_are_no_points(table):
    former, _, after, said, _, seen = untrained(table)

    def spread(said):
        """How many of 64 patches each head sees, from every region and query: [B, N, R, Q]."""
        looks = former.apply({"params": after}, said, said > 0, seen)[1]["probabilities"][0]
        return np.exp(-(looks * np.log(looks)).sum(-1))

    whole = trajectory.words(table, jnp.zeros((3, 1, 10, 2)), np.ones((3, 1), bool))
    assert spread(whole).min() > 0.8 * 64 > 16 > spread(said).max()


def test_what_lies_under_the_points_reaches_the_last_layer():
    """Most of what changes the first query's output is where the points are: 9 patches of 64."""
    grid = 8
    former, before, after, said, middle, seen = untrained(TrajectoryWords(), grid)
    cell = np.floor(middle[:, 0, 0] * grid)  # of each image's first region
    place = np.stack([np.arange(grid**2) % grid, np.arange(grid**2) // grid], -1)
    near = (np.abs(place - cell[:, None]) <= 1).all(-1)  # [B, P]
    direction = np.random.default_rng(2).normal(size=(4, 128)).astype(np.float32)

    def share(params):
        def answer(seen):
            hidden = former.apply({"params": params}, said[:, :1], said[:, :1] > 0, seen)[0]
            return (hidden[:, 0, :4] * direction).sum()

        strength = np.asarray((jax.grad(answer)(seen) ** 2).sum(-1))  # [B, P]
        return (strength * near).sum(-1) / strength.sum(-1)

    assert share(after).min() > 0.8 and share(before).max() < 0.5


def test_quiet_layers_add_a_fifth():
    layers = {name: {"kernel": np.ones(2), "bias": np.ones(2)} for name in ("query", "mlp_out")}
    after = trajectory_start.quiet(layers)
    np.testing.assert_array_equal(after["mlp_out"]["kernel"], [0.2, 0.2])
    np.testing.assert_array_equal(after["mlp_out"]["bias"], [1, 1])
    np.testing.assert_array_equal(after["query"]["kernel"], [1, 1])


def test_waves_move_by_a_product():
    lengths = np.geomspace(0.3, 2, 5)
    places = np.linspace(-1, 1, 7)
    moved = trajectory_start.waves(places, lengths) @ trajectory_start.further(0.17, lengths)
    np.testing.assert_allclose(
        moved, trajectory_start.waves(places + 0.17, lengths), rtol=0, atol=1e-12
    )
