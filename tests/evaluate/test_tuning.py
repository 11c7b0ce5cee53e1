"""Grids that are extended, on successes that are known."""

import math

import pytest

from qgf_eqx.evaluate._tuning import Choice, check_weights, tune
from qgf_eqx.evaluate.comparison import WEIGHTS
from qgf_eqx.evaluate.names import size
from qgf_eqx.weights import LinearDecay


class Curve:
    """Success that peaks at a weight: a stand-in for episodes, which counts what it is asked."""

    def __init__(self, peak, episodes=50, width=1.5):
        self.peak, self.episodes, self.width, self.asked = peak, episodes, width, []

    def __call__(self, pairs):
        before = [weight for weights in self.asked for weight in weights]
        self.asked.append([weight for _, weight in pairs if weight not in before])
        return [self.at(size(weight)) for _, weight in pairs]

    def at(self, weight):
        return round(self.episodes * math.exp(-(math.log(weight / self.peak) ** 2) / self.width))


def one(score, weights, extensions=3):
    return tune(score, ["qgf"], weights, extensions=extensions)["qgf"]


@pytest.mark.parametrize("peak", [0.003, 0.03, 0.1, 0.4, 0.8, 3.0, 10.0])
def test_the_default_weights_find_a_peak_within_and_beyond_them(peak):
    found = one(Curve(peak), WEIGHTS)
    assert 1 / 2 < found.weight / peak < 2 and found.edge is None and not found.tied


def test_a_grid_that_ends_at_its_best_goes_on_by_its_own_ratio_and_says_where_it_stopped():
    curve = Curve(1e9)
    assert one(curve, [1.0, 2.0, 4.0]) == Choice(2.0, None, True)  # all 0: nothing to go by
    curve = Curve(1e3, width=60)
    assert one(curve, [1.0, 2.0, 4.0]) == Choice(32.0, "upper")
    assert curve.asked == [[1.0, 2.0, 4.0], [8.0], [16.0], [32.0]]
    assert one(Curve(1e-3, width=60), [1.0, 2.0, 4.0]) == Choice(0.125, "lower")
    assert one(Curve(1e3, width=60), [1.0, 2.0, 4.0], extensions=0) == Choice(4.0, "upper")
    assert one(Curve(2.0), [1.0, 2.0, 4.0], extensions=0) == Choice(2.0)


def known(scores):
    return lambda pairs: [scores.get(weight, 0) for _, weight in pairs]


def test_of_several_best_weights_the_middle_one_is_chosen():
    scores = {1.0: 3, 2.0: 9, 4.0: 9, 8.0: 9, 16.0: 1}
    assert one(known(scores), list(scores)) == Choice(4.0)
    assert one(known({}), [0.1, 1.0, 3.0]) == Choice(1.0, None, True)
    for low, high, best in ((8, 1, 2.0), (1, 8, 4.0), (5, 5, 2.0)):  # away from the cliff
        assert one(known({1.0: low, 2.0: 9, 4.0: 9, 8.0: high}), [1.0, 2.0, 4.0, 8.0]) == Choice(
            best
        )


def test_two_best_weights_at_the_edge_go_on_until_one_has_the_best_on_both_sides():
    # Five of five at 0.3 by luck, on the way up: a weight well inside is the better choice.
    asked = []

    def score(pairs):
        asked.append([weight for _, weight in pairs])
        return [5 * (weight > 0.2) for _, weight in pairs]

    assert one(score, [0.1, 0.3, 1.0]) == Choice(1.0) and asked[1:] == [[0.1, 0.3, 1.0, 3.16]]
    assert one(known({0.1: 0, 0.3: 5, 1.0: 5, 3.16: 4}), [0.1, 0.3, 1.0]) == Choice(1.0)


def test_the_order_of_the_weights_plays_no_role():
    weights = [0.1, 1.0, 3.0, LinearDecay(0.2), LinearDecay(2.0)]
    scores = {0.1: 4, 1.0: 9, 3.0: 9, LinearDecay(0.2): 9, LinearDecay(2.0): 9, 16.4: 8}
    assert one(known(scores), weights) == one(known(scores), weights[::-1]) == Choice(3.0)


def test_decays_are_a_grid_of_their_own():
    scores = {10.0: 5, 20.0: 6, LinearDecay(1.0): 7, LinearDecay(3.0): 8, LinearDecay(9.0): 9}
    found = one(known(scores), [10.0, 20.0, LinearDecay(1.0), LinearDecay(3.0)])
    assert found == Choice(LinearDecay(9.0)), "and 27 was tried, which is worse"
    scores = {1.0: 1, LinearDecay(1.0): 5, LinearDecay(3.0): 6}
    assert one(known(scores), [1.0, LinearDecay(1.0)]) == Choice(LinearDecay(3.0))


def test_each_method_has_its_own_grid_and_they_are_scored_together():
    asked = []

    def score(pairs):
        asked.append(list(pairs))
        return [Curve(100.0 if name == "ood" else 2.0, width=6).at(w) for name, w in pairs]

    found = tune(score, ["qgf", "ood"], [1.0, 2.0, 4.0], extensions=2)
    assert found["qgf"] == Choice(2.0) and found["ood"] == Choice(16.0, "upper")
    assert [len(pairs) for pairs in asked] == [6, 7, 8] and asked[1][6:] == [("ood", 8.0)]


@pytest.mark.parametrize(
    "weights",
    [[], [0.0], [-1.0], [math.nan], [0.1, math.inf], [LinearDecay(math.nan)], [0.1, 0.2, 0.1]],
)
def test_weights_that_cannot_be_are_refused(weights):
    with pytest.raises(ValueError, match="`weights`"):
        check_weights(weights)


def test_the_end_of_a_grid_is_said_also_where_another_is_as_good():
    assert one(known({0.1: 5, 0.3: 3, 1.0: 5}), [0.1, 0.3, 1.0], 0).edge in ("lower", "upper")
    assert one(known({0.1: 5, 0.3: 5, 1.0: 3}), [0.1, 0.3, 1.0], 0).edge is None


def test_all_that_was_played_is_scored_again_in_every_round():
    """Returns are counted against the worst of all, which later rounds may lower."""
    asked = []

    def score(pairs):
        asked.append([weight for _, weight in pairs])
        return [{1.0: 9, 2.0: 10, 4.0: 11, 8.0: 5}[w] - (len(pairs) > 3) * (w == 4.0) * 9 for w in asked[-1]]  # fmt: skip

    assert one(score, [1.0, 2.0, 4.0], 1) == Choice(2.0)
    assert asked == [[1.0, 2.0, 4.0], [1.0, 2.0, 4.0, 8.0]]
