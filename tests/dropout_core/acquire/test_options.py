import math
import re

import pytest
import torch

from dropout_core.acquire import RankOptions, exact_score, pointwise, scores_of
from dropout_core.acquire.vocabulary import SCORES
from dropout_core.errors import InvalidInput, UnknownMeasure
from dropout_core.measures.measures import OUTPUT_KINDS

CLASSIFICATION = (
    "mutual_information, predictive_entropy, expected_entropy, least_confidence, margin, vote_variation_ratio, "
    "mean_std, variance, epig, random"
)
MULTILABEL = "mutual_information, predictive_entropy, expected_entropy, least_confidence, mean_std, variance, random"
REGRESSION = "variance, epistemic_variance, upper_confidence_bound, thompson, random"
WITH_VARIANCE = "variance, epistemic_variance, gaussian_mutual_information, upper_confidence_bound, thompson, random"
BY_KIND = {
    "logits": CLASSIFICATION,
    "probabilities": CLASSIFICATION,
    "multilabel_logits": MULTILABEL,
    "multilabel_probabilities": MULTILABEL,
    "mean": REGRESSION,
    "mean_and_log_variance": WITH_VARIANCE,
}


def asked(output="logits", num_rows=4, k=1, **given):
    return RankOptions(output, num_rows, k, **given)


def test_the_scores_of_every_output_kind():
    assert {output: ", ".join(scores_of(output)) for output in OUTPUT_KINDS} == BY_KIND


def test_every_score_but_chance_is_a_function_of_samples_too():
    others = {"epig", "random"}
    assert all(callable(getattr(pointwise, name)) for name in SCORES if name not in others)


@pytest.mark.parametrize("output", OUTPUT_KINDS)
def test_a_name_is_exact_or_one_of_two_aliases(output):
    known = scores_of(output)
    assert all(exact_score(name, output) == name for name in known)
    for alias, exact in (("bald", "mutual_information"), ("entropy", "predictive_entropy")):
        if exact in known:
            assert exact_score(alias, output) == exact
            assert asked(output, score=alias).score == exact


@pytest.mark.parametrize("output", OUTPUT_KINDS)
@pytest.mark.parametrize(
    "name", ["variation_ratio", "uncertainty", "std", "confidence", "mean", "", "BALD", "max_prob"]
)
def test_ambiguous_and_unknown_names_are_refused_with_the_exact_ones(name, output):
    with pytest.raises(UnknownMeasure, match=re.escape(f"There are {BY_KIND[output]}.")) as refused:
        asked(output, score=name)
    ambiguous = {"variation_ratio": "vote_variation_ratio, 1 −", "uncertainty": "expected_entropy", "std": "mean_std"}
    assert ambiguous.get(name, "") in str(refused.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 0}, "k is 0; ask for at least 1 row"),
        ({"seed": -1}, "the seed is -1"),
        ({"selector": "top-k"}, "no selector 'top-k'; there are top_k, power"),
        ({"beta": 1.0}, "beta belongs to power, softmax, softrank; top_k has none"),
        ({"beta": -1.0, "selector": "power"}, "beta is -1.0"),
        ({"beta": math.nan, "selector": "softmax"}, "beta is nan"),
        ({"beta": 1.0, "selector": "batchbald"}, "beta belongs to"),
        ({"candidates": 9}, "candidates belongs to batchbald, k_centre, badge"),
        ({"candidates": 2, "k": 3, "selector": "batchbald"}, "candidates is 2 with k = 3"),
        ({"num_samples": 9, "selector": "badge"}, "num_samples belongs to batchbald"),
        ({"num_samples": 0, "selector": "batchbald"}, "num_samples is 0"),
        ({"deviations": 1.0}, "deviations belong to the score upper_confidence_bound"),
        ({"deviations": -1.0, "output": "mean", "score": "upper_confidence_bound"}, "deviations is -1.0"),
        ({"reduction": "median"}, "no reduction 'median'"),
        ({"reduction": "top_fraction"}, "top_fraction, and no other, has one"),
        ({"fraction": 0.5}, "top_fraction, and no other, has one"),
        ({"reduction": "top_fraction", "fraction": 0.0}, "the fraction is 0.0"),
        ({"selector": "badge", "score": "bald"}, "badge picks without a score; leave 'bald' out"),
        ({"selector": "k_centre", "score": "random"}, "k_centre picks without a score"),
        ({"selector": "badge", "output": "mean"}, "badge is of classes.*mean is regression"),
        ({"selector": "badge", "output": "multilabel_logits"}, "multilabel_logits is multilabel"),
        ({"selector": "batchbald", "output": "mean_and_log_variance"}, "batchbald is of classes"),
        ({"selector": "batchbald", "output": "multilabel_probabilities"}, "batchbald is of classes"),
        ({"selector": "batchbald", "score": "margin"}, "batchbald picks by mutual_information.*not by 'margin'"),
        ({"selector": "power", "score": "random"}, "ask for it without power"),
        ({"selector": "batchbald", "score": "random"}, "batchbald picks by"),
        ({"selector": "power", "score": "thompson", "output": "mean"}, "thompson can be below 0"),
        ({"score": "epig"}, "epig asks about targets"),
        ({"num_targets": 3}, "targets are for epig; mutual_information takes none"),
        ({"num_targets": 3, "selector": "badge"}, "targets are for epig; badge takes none"),
        ({"num_targets": 3, "selector": "batchbald", "score": "bald"}, "targets are for epig"),
        ({"num_labelled": 3}, "labelled rows are for k_centre; top_k takes none"),
        ({"num_labelled": 3, "selector": "badge"}, "labelled rows are for k_centre; badge"),
        ({"masks": "independent", "selector": "batchbald"}, "a row and its copy look independent"),
        ({"masks": "independent", "score": "epig", "num_targets": 1}, "needs shared masks"),
        ({"masks": "independent", "score": "thompson", "output": "mean"}, "thompson of top_k needs shared masks"),
        ({"costs": torch.ones(4), "score": "random"}, "random has no score that costs could divide"),
        ({"costs": torch.ones(4), "selector": "k_centre"}, "k_centre has no score that costs could divide"),
        ({"costs": torch.ones(4), "score": "thompson", "output": "mean"}, "a score per cost cannot"),
        ({"costs": torch.ones(3)}, r"shape \[3\]; \[4\] is wanted"),
        ({"costs": torch.zeros(4)}, "costs above 0 are wanted"),
        ({"exclude": [4]}, "not among the 4 rows"),
        ({"groups": [0] * 4}, "not both"),
        ({"quotas": 1}, "not both"),
        ({"groups": [0] * 3, "quotas": 1}, "3 groups"),
        ({"groups": [0] * 4, "quotas": -1}, "the quotas are -1"),
        ({"groups": "class", "quotas": 1}, "the groups are 'class'"),
        ({"groups": "predicted_class"}, "no quotas"),
        ({"groups": "predicted_class", "quotas": {0: -2}}, "at least 0"),
        ({"groups": "predicted_class", "quotas": 1, "output": "mean"}, "needs a classifier that is run"),
        ({"groups": "predicted_class", "quotas": 1, "score": "random"}, "needs a classifier that is run"),
        ({"groups": "predicted_class", "quotas": 1, "output": "multilabel_logits"}, "Give each row's group"),
    ],
)
def test_what_means_nothing_is_refused_before_anything_runs(given, message):
    with pytest.raises(InvalidInput, match=message):
        asked(**given)


def test_passes_with_masks_of_their_own_may_be_ranked_row_by_row():
    for given in ({}, {"selector": "power"}, {"selector": "badge"}, {"score": "random"}):
        assert asked(masks="independent", **given).masks == "independent"


def test_selectors_consider_at_least_the_rows_they_pick():
    assert asked(k=9, selector="batchbald", num_rows=10**6).most_candidates == 1000
    assert asked(k=100, selector="batchbald", num_rows=10**6).most_candidates == 2000
    assert asked(k=9, selector="batchbald", num_targets=5).most_candidates == 180
    assert asked(k=9, selector="badge").most_candidates == 50_000
    assert asked(k=70_000, selector="k_centre").most_candidates == 70_000
    assert asked(k=9, selector="batchbald", candidates=11).most_candidates == 11
