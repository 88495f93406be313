"""What every registered classifier satisfies with every registered model it can read; none is named here.

Double precision and 2x2 binary images, as in the contract of the models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_contract import EVENT, binary, louder
from test_contract import same_noise as the_same_draws
from torch import Tensor

from fsgen.classification import Decision, EpisodicClassifier
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.inference import latent_sites
from fsgen.registry import CLASSIFIERS, MODELS

MEMBERS: dict[str, Any] = dict(CLASSIFIERS.discover())
LATENT = {"cosine": "z", "context": "c"}  # how the latents are named that a classifier reads
same = {"rtol": 0, "atol": 1e-9}


def latents_of(model: Any) -> list[str]:
    images = next(model.parameters()).new_zeros(1, 2, *EVENT)
    with torch.random.fork_rng():
        return latent_sites(model, Episode(images, images))


def reads(classifier: str, model: str) -> bool:
    start = LATENT.get(classifier)
    return start is None or any(site.startswith(start) for site in latents_of(MODELS.require(model).tiny(EVENT)))


MODELLED = [name for name in MEMBERS if MEMBERS[name].reads_model]
PAIRS = [(name, None) for name in MEMBERS if name not in MODELLED]
PAIRS += [(name, model) for name in MODELLED for model in sorted(MODELS.discover()) if reads(name, model)]
REFUSED = [(name, model) for name in MODELLED for model in MODELS if (name, model) not in PAIRS]


def made(classifier: str, model: str | None, **options: Any) -> Any:
    if classifier == "likelihood":
        options = {"particles": 12, "screen": 0, **options}
    if model is None:
        return MEMBERS[classifier](**options)
    return MEMBERS[classifier](louder(MODELS.require(model).tiny(EVENT)), **options)


@pytest.fixture(params=PAIRS, ids=lambda pair: "-".join(filter(None, pair)))
def pair(request: pytest.FixtureRequest) -> tuple[str, str | None]:
    return request.param


@pytest.fixture
def classifier(pair: tuple[str, str | None]) -> EpisodicClassifier:
    return made(*pair)


def shown(count: int = 9) -> tuple[Tensor, list[str]]:
    """Images of three classes, of unequal numbers."""
    return binary(count), list("abbcccabc")[:count]


def test_every_classifier_is_tried() -> None:
    assert {name for name, _ in PAIRS} == set(MEMBERS)


@pytest.mark.parametrize(("name", "model"), REFUSED, ids=lambda value: str(value))
def test_a_model_without_the_latents_that_are_read_is_refused(name: str, model: str) -> None:
    with pytest.raises(InputError, match="give a model"):
        made(name, model).fit(*shown()).predict(binary(1))


def test_probabilities_are_those_of_the_classes(classifier: Any) -> None:
    images, queries = shown(), binary(7)
    p = classifier.fit(*images).predict_proba(queries)
    assert p.shape == (7, 3)
    assert p.dtype == np.float64
    assert abs(p.sum(1) - 1).max() <= 1e-12
    assert (p >= 0).all()
    assert classifier.classes_.tolist() == ["a", "b", "c"]
    assert classifier.predict(queries).tolist() == classifier.classes_[p.argmax(1)].tolist()
    np.testing.assert_allclose(np.exp(classifier.predict_log_proba(queries)), p, atol=1e-15)
    assert classifier.predict_proba(queries[:0]).shape == (0, 3)


def test_relabelling_classes_permutes_their_scores(classifier: Any) -> None:
    (images, labels), queries = shown(), binary(5)
    p = classifier.fit(images, labels).predict_proba(queries)
    other = classifier.fit(images, [{"a": 3, "b": 1, "c": 2}[label] for label in labels]).predict_proba(queries)
    np.testing.assert_allclose(other, p[:, [1, 2, 0]], **same)


def test_the_order_of_the_images_is_irrelevant(classifier: Any) -> None:
    (images, labels), queries = shown(), binary(5)
    p = classifier.fit(images, labels).predict_proba(queries)
    order = torch.randperm(9)
    classifier.fit(images[order], [labels[i] for i in order])
    np.testing.assert_allclose(classifier.predict_proba(queries), p, **same)


def test_partial_fit_is_fit_on_the_union(classifier: Any) -> None:
    (images, labels), queries = shown(), binary(5)
    p = classifier.fit(images, labels).predict_proba(queries)
    classifier.fit(images[:2], labels[:2]).partial_fit(images[2:5], labels[2:5]).partial_fit(images[5:], labels[5:])
    assert np.array_equal(classifier.predict_proba(queries), p)


def test_nothing_is_changed_by_a_prediction(classifier: Any) -> None:
    images = shown()
    before, model = torch.get_rng_state(), getattr(classifier, "model", None)
    if model is not None:
        model.train()
        weights = [p.clone() for p in model.parameters()]
    first = classifier.fit(*images).predict_proba(images[0])
    assert np.array_equal(first, classifier.predict_proba(images[0]))
    assert torch.equal(before, torch.get_rng_state())
    if model is not None:
        assert model.training
        assert all(map(torch.equal, model.parameters(), weights))


def test_padding_of_smaller_classes_is_no_evidence(classifier: Any) -> None:
    """Two images too many are hidden, whatever they hold."""
    sets, query = binary(1, 3, 4), binary(1, 2)
    held = torch.ones(1, 3, 4, dtype=torch.bool)
    held[:, 1, 2:] = False
    scores = []
    for padding in (0.0, 1.0):
        sets[:, 1, 2:] = padding
        torch.manual_seed(1)
        scores.append(classifier.log_scores(Decision(sets, query, held)))
    torch.testing.assert_close(*scores, rtol=0, atol=1e-10)
    torch.manual_seed(1)
    apart = [sets[0, 0], sets[0, 1, :2], sets[0, 2]]
    torch.testing.assert_close(classifier.log_scores(Decision.between(apart, query[0])), scores[0], **same)


def steady(shape: list[int], **kind: Any) -> Tensor:
    """Noise that depends on the particle and on the latent's index alone, as the contract's ``same_noise``."""
    particle, index = torch.arange(shape[0]).reshape(-1, 1, 1, 1), torch.arange(shape[-1])
    return (1 + 3 * particle + 2 * index).double().sin().expand(shape)


def test_a_decision_is_answered_alone(classifier: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sets, query = binary(3, 2, 3), binary(3, 4)
    with the_same_draws():
        monkeypatch.setattr(torch, "randn", steady)
        together = classifier.log_scores(Decision(sets, query))
        alone = torch.cat([classifier.log_scores(Decision(sets[[b]], query[[b]])) for b in range(3)])
    assert together.shape == (3, 4, 2)
    torch.testing.assert_close(together, alone, **same)


def test_priors_weigh_the_classes(pair: tuple[str, str | None]) -> None:
    (images, labels), queries = shown(), binary(5)
    torch.manual_seed(3)
    flat = made(*pair).fit(images, labels).predict_log_proba(queries)
    for prior, weights in (
        ("empirical", [2, 3, 4]),
        ({"c": 1, "b": 5, "a": 2, "unseen": 9}, [2, 5, 1]),
        ([0.5, 0.2, 0.3], [5, 2, 3]),
    ):
        torch.manual_seed(3)
        found = made(*pair, prior=prior).fit(images, labels).predict_log_proba(queries)
        expected = flat + np.log(weights)
        expected -= np.logaddexp.reduce(expected, 1, keepdims=True)
        np.testing.assert_allclose(found, expected, **same)


# The conventions do not depend on the classifier


@pytest.fixture
def pixels() -> Any:
    return MEMBERS["pixel-neighbours"]()


@pytest.mark.parametrize(
    "labels",
    [[0, 1, 2], [2.5, -1.0, 0.0], ["α", "b", "ñ"], [(1, "x"), (0, "y"), (0, "x")], [True, False, True]],
    ids=str,
)
def test_labels_are_anything_that_sorts(labels: list[Any], pixels: Any) -> None:
    images = torch.eye(4).reshape(4, 1, 2, 2)[:3]
    pixels.fit(images, labels)
    assert pixels.classes_.tolist() == sorted(set(labels))
    assert [pixels.predict(image[None])[0] for image in images] == labels


@pytest.mark.parametrize("kind", [np.array, torch.tensor, tuple])
def test_arrays_and_tensors_are_taken_alike(kind: Any, pixels: Any) -> None:
    images, labels = binary(6), [0, 1, 2, 0, 1, 2]
    expected = pixels.fit(images, labels).predict_proba(images)
    found = pixels.fit(images.numpy(), kind(labels)).predict_proba(images.numpy())
    assert np.array_equal(found, expected)
    assert pixels.classes_.dtype.kind == "i"
    np.testing.assert_allclose(pixels.fit(images.bool(), labels).predict_proba(images.numpy() > 0), expected)


WRONG: list[tuple[Any, Any, str]] = [
    (binary(3), [0, 1], "3 images and 2 labels"),
    (binary(0), [], "0 images and 0 labels"),
    (binary(2), [0, "a"], "sortable among each other"),
    (binary(2), [[0], [1]], "can be hashed, got list"),
    (binary(2), 3, "a list of values that can be hashed, got int"),
    (binary(2), [0.0, float("nan")], "a label is NaN"),
    (binary(2)[0], [0], r"expected \[N, .*\], got \[1, 2, 2\]"),
    (2 * binary(2), [0, 1], r"values must lie in \[0, 1\]"),
    (np.full((2, 1, 2, 2), 200, np.uint8), [0, 1], r"got uint8; use images.astype\('float32'\) / 255"),
    (binary(2).int(), [0, 1], "expected floating-point values"),
    ("pictures", [0], "expected a tensor or an array"),
]


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(("images", "labels", "said"), WRONG, ids=[said for *_, said in WRONG])
def test_what_cannot_be_learned_is_refused_and_leaves_what_was_known(
    images: Any, labels: Any, said: str, pixels: Any
) -> None:
    known = binary(2)
    expected = pixels.fit(known, ["x", "y"]).predict_proba(known)
    for learn in (pixels.fit, pixels.partial_fit):
        with pytest.raises(InputError, match=said):
            learn(images, labels)
    assert np.array_equal(pixels.predict_proba(known), expected)


@pytest.mark.usefixtures("as_a_user")
def test_what_cannot_be_predicted_is_refused(pixels: Any) -> None:
    for call in (pixels.predict, pixels.predict_proba, pixels.predict_log_proba):
        with pytest.raises(InputError, match=r"PixelNeighbours: no class was shown yet; call fit"):
            call(binary(1))
    with pytest.raises(InputError, match="no class was shown"):
        _ = pixels.classes_
    pixels.fit(binary(2), ["x", "y"])
    with pytest.raises(InputError, match=r"expected \[N, 1, 2, 2\], got \[1, 1, 3, 3\]"):
        pixels.predict(torch.zeros(1, 1, 3, 3))
    with pytest.raises(InputError, match=r"expected \[N, 1, 2, 2\], got \[1, 1, 3, 3\]"):
        pixels.partial_fit(torch.zeros(1, 1, 3, 3), ["z"])
    assert pixels.fit(torch.zeros(1, 1, 3, 3), ["z"]).classes_.tolist() == ["z"]


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("pixel-neighbours", {"prior": "flat"}, "no prior 'flat'"),
        ("pixel-neighbours", {"neighbours": 0}, "neighbours 0"),
        ("pixel-neighbours", {"temperature": 0.0}, "temperature 0.0"),
        ("kernel-density", {"kernel": "box"}, "no kernel 'box'. Known: bernoulli, gaussian"),
        ("kernel-density", {"bandwidth": 0.5}, "bandwidth 0.5; give a positive one, below 1/2"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        MEMBERS[name](**options)


@pytest.mark.parametrize("prior", [{"x": 1}, [1.0], [1.0, -1.0], [1.0, 0.0], [1.0, float("nan")]], ids=str)
def test_a_prior_that_does_not_fit_the_classes_is_refused(prior: Any) -> None:
    with pytest.raises(InputError, match="give a positive number for each"):
        MEMBERS["pixel-neighbours"](prior=prior).fit(binary(2), ["x", "y"]).predict(binary(1))
