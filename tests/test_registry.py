"""Names: what the source text says is what importing gives."""

from __future__ import annotations

import inspect

import pytest

import fsgen
from fsgen.errors import UnknownNameError, UnknownOptionError
from fsgen.registry import MODELS, REQUIRED, SOURCES, Registry


@pytest.mark.parametrize("registry", [MODELS, SOURCES], ids=["models", "sources"])
def test_the_catalogue_agrees_with_the_imported_members(registry):
    assert list(registry) == sorted(registry.discover())
    for name, member in registry.items():
        entry = registry.entry(name)
        keywords = {k: p for k, p in inspect.signature(member).parameters.items() if p.kind is p.KEYWORD_ONLY}
        assert list(entry.options) == list(keywords)
        for option, parameter in keywords.items():
            required = parameter.default is parameter.empty
            assert entry.options[option] == REQUIRED if required else eval_literal(entry, option) == parameter.default
        assert entry.presets == tuple(getattr(member, "presets", {}))
        assert entry.doc == inspect.getdoc(member)
        assert entry.summary


def eval_literal(entry, option):
    import ast

    return ast.literal_eval(entry.options[option])


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_preset_builds(name):
    for preset in MODELS.entry(name).presets:
        options = MODELS[name].presets[preset]
        assert fsgen.build(name, preset=preset).recipe["options"].items() >= dict(options).items()


def test_a_recipe_is_complete_and_options_override_a_preset():
    recipe = fsgen.build("gmn", preset="paper", steps=2).recipe["options"]
    assert set(recipe) == set(MODELS.entry("gmn").options)
    assert recipe["steps"] == 2
    assert recipe["kernels"] == (4, 3, 2)


def test_unknown_names_name_the_nearest():
    with pytest.raises(UnknownNameError, match=r"no model 'gnm'. Did you mean 'gmn'"):
        fsgen.build("gnm")
    with pytest.raises(UnknownOptionError, match=r"no option 'dim_zz'. Did you mean 'dim_z'"):
        fsgen.build("gmn", dim_zz=3)
    with pytest.raises(UnknownNameError, match=r"no preset 'papre'. Did you mean 'paper'"):
        fsgen.build("gmn", preset="papre")
    with pytest.raises(UnknownOptionError, match="'folder' needs the option 'path'"):
        fsgen.load_images("folder")


def test_a_name_is_taken_once():
    registry = Registry("thing", "fsgen.models", "no_such_decorator")
    registry.register("a")(int)
    assert list(registry) == ["a"]
    with pytest.raises(ValueError, match="thing 'a' already names int; pick another name"):
        registry.register("a")(float)


def test_public_names_load_and_unknown_ones_do_not():
    for name in fsgen.__all__:
        assert getattr(fsgen, name) is not None
    with pytest.raises(AttributeError, match=r"no attribute 'trian'"):
        _ = fsgen.trian
