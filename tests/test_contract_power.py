"""The contract has power: it passes sound models of every kind and rejects each planted fault by its own test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import planted
import pytest
import test_contract as contract

EVERY: dict[str, Callable[[Any], None]] = {
    "shapes": lambda model: contract.test_log_weights_are_finite_and_one_a_particle_an_episode_and_a_unit(
        model, 5, "guide"
    ),
    "gradient": contract.test_gradient_reaches_every_parameter,
    "episodes": contract.test_an_episode_is_scored_alone,
    "queries": contract.test_a_query_is_scored_alone_where_no_latent_couples_them,
    "generative": contract.test_the_generative_program_never_reads_the_query,
    "order": contract.test_the_order_of_the_support_is_irrelevant,
    "masks": contract.test_masking_is_deletion,
    "causal": contract.test_one_causal_pass_is_an_episode_for_every_shot_count,
    "sum": lambda model: contract.test_probabilities_of_all_sixteen_images_sum_to_one(model, 3),
    "frequencies": contract.test_simulated_images_have_the_frequencies_of_their_scores,
    "guide": contract.test_a_fitted_guide_agrees_with_the_prior_as_proposal,
    "alone": contract.test_a_density_scores_each_image_on_its_own,
    "seeds": contract.test_a_seed_repeats_draws_and_leaves_the_generator_alone,
}


def instance(kind: type[planted.Sound], check: str) -> planted.Sound:
    """A model as the fixture of the test would make it."""
    return contract.louder(kind.tiny(contract.EVENT), 0.2 if check == "guide" else 0.5)


@pytest.mark.parametrize("check", EVERY)
@pytest.mark.parametrize("kind", [planted.Sound, planted.Coupled])
def test_a_sound_model_passes(kind: type[planted.Sound], check: str) -> None:
    EVERY[check](instance(kind, check))


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (planted.AcrossEpisodes, "episodes"),
        (planted.AcrossQueries, "queries"),
        (planted.AcrossQueries, "alone"),
        (planted.ReadsTheQuery, "generative"),
        (planted.ReadsTheQuery, "sum"),
        (planted.Ordered, "order"),
        (planted.Unmasked, "masks"),
        (planted.Unmasked, "causal"),
        (planted.CountsTheHidden, "masks"),
        (planted.SeesItself, "causal"),
        (planted.Silent, "gradient"),
        (planted.HalfAnImage, "sum"),
        (planted.Cold, "frequencies"),
        (planted.Boastful, "guide"),
    ],
)
def test_a_planted_fault_is_rejected(kind: type[planted.Sound], check: str) -> None:
    with pytest.raises(AssertionError, match=r"^(?!too little to compare)"):
        EVERY[check](instance(kind, check))
