"""Evaluations that are stopped: what was answered is not asked again, nothing is lost or mixed."""

import numpy as np
import pytest
from test_predictor import caption_nll, generate, predictor, queries

from regionjax.decode import GenerationConfig
from regionjax.evaluators.answers import Answers, OtherQuestions
from regionjax.evaluators.predictor import AHEAD


class Stopped(Exception):
    pass


def asked_until(stop_at, path, prompts=(2, 3, 1, 2, 3, 3, 2, 1, 3, 3), rounds=1, devices=1):
    """Scores questions, at most `stop_at` of the rows in all; returns (found, expected, tally)."""
    asked, expected = queries(prompts)
    model = predictor(devices, devices, {"caption_nll": caption_nll}, Answers(path))
    encoded, encode = 0, model._encode

    def stopping(record, segments, spec, texts_only=False):
        nonlocal encoded
        if not texts_only:
            if encoded == stop_at:
                raise Stopped
            encoded += 1
        return encode(record, segments, spec, texts_only)

    model._encode = stopping
    found = [model.caption_nll(asked, 1)[:, 0] for _ in range(rounds)]
    return found, expected, model.tallies["caption_nll"]


@pytest.mark.parametrize("stop_at", [0, 5, 8, 9])
def test_it_goes_on_where_it_was_stopped(tmp_path, stop_at):
    with pytest.raises(Stopped):
        asked_until(stop_at, tmp_path / "kept")
    least = max(0, stop_at - AHEAD)  # the others were under way
    (found,), expected, tally = asked_until(10 - least, tmp_path / "kept")
    np.testing.assert_array_equal(found, 2 * expected)
    assert tally.queries == len(expected)
    assert tally.kept == sum((2, 3, 1, 2, 3, 3, 2, 1, 3, 3)[:least])


def test_it_goes_on_with_other_devices(tmp_path):
    with pytest.raises(Stopped):
        asked_until(9, tmp_path)
    (found,), expected, tally = asked_until(10, tmp_path, devices=8)
    np.testing.assert_array_equal(found, 2 * expected)
    assert tally.kept == 2 + 3 + 1 + 2 + 3 and tally.batches == 1


def test_rounds_are_kept_apart(tmp_path):
    with pytest.raises(Stopped):
        asked_until(16, tmp_path, rounds=2)
    found, expected, tally = asked_until(8, tmp_path, rounds=2)
    np.testing.assert_array_equal(found, [2 * expected] * 2)
    assert tally.kept == len(expected) + 2 + 3  # 16 - AHEAD rows of 10 a round


def test_a_row_cut_short_on_disk_is_asked_again(tmp_path):
    asked_until(10, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for end in (len(whole) - 1, len(whole) - 5, len(whole) - 130, 10, 0):
        path.write_bytes(whole[:end])
        (found,), expected, _ = asked_until(10, tmp_path)
        np.testing.assert_array_equal(found, 2 * expected)
        assert path.read_bytes() == whole


def test_answers_to_other_questions_are_refused(tmp_path):
    asked_until(10, tmp_path)
    with pytest.raises(OtherQuestions, match="001-caption_nll.npy has answers to other questions"):
        asked_until(10, tmp_path, prompts=(2, 2, 2))


def test_sampled_texts_are_the_same_after_a_stop(tmp_path):
    """The generator of a batch depends on its number, not on what was asked before the stop."""
    import jax

    def sampled(params, batch, rng, *, eos_id, config):
        ids = generate(params, batch, rng, eos_id=eos_id, config=config)
        return ids.at[:, :, 1].set(jax.random.randint(rng, ids.shape[:2], 0, 1000))

    asked, _ = queries([2, 3, 1, 2])
    config = GenerationConfig(max_new_tokens=2)
    model = predictor(1, 1, {"generate": sampled}, Answers(tmp_path))
    whole = model.generate(asked, config)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    model = predictor(1, 1, {"generate": sampled}, Answers(tmp_path))
    assert model.generate(asked, config) == whole
    assert model.tallies["generate"].kept == 6


def test_only_the_first_process_writes_and_clears(tmp_path):
    folder = tmp_path / "kept"
    other = Answers(folder, writes=False)
    other.next_round("generate").append(b"1", np.zeros(2))
    assert not folder.exists()
    first = Answers(folder)
    first.next_round("generate").append(b"1", np.arange(2))
    other.clear()
    np.testing.assert_array_equal(Answers(folder).next_round("generate").kept(b"1"), [0, 1])
    assert first.begun
    first.clear()
    assert not first.begun
