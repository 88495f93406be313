"""Names for models, learners, data sources and classifiers: one decorator each, listed without importing torch."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fsgen.errors import UnknownNameError, UnknownOptionError

REQUIRED = "required"
T = TypeVar("T", bound=Callable[..., Any])


def nearest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the closest known name, or nothing.

    >>> nearest("gnm", ["gmn", "vae"])
    " Did you mean 'gmn'?"
    """
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


@dataclass(frozen=True)
class Entry:
    """What a registered name offers, read from its source text.

    Attributes:
        name: the registered name.
        module: the module that defines it.
        summary: first line of its docstring.
        options: option name to default value, as written in the signature.
        presets: names of the presets it declares.
        doc: the whole docstring.
    """

    name: str
    module: str
    summary: str
    options: Mapping[str, str]
    presets: tuple[str, ...] = ()
    doc: str = ""


class Registry(Mapping[str, Callable[..., Any]]):
    """A table of names, filled by the decorator ``register`` in the modules of one package.

    As a mapping it lists names from the source text and imports a member when it is asked for.

    Args:
        kind: what a name stands for, used in messages ("model", "data source", "classifier").
        package: package whose modules register themselves when imported.
        decorator: name of the decorator in the source text of those modules.
    """

    def __init__(self, kind: str, package: str, decorator: str) -> None:
        self.kind, self.package, self.decorator = kind, package, decorator
        self.members: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Class or function decorator that enters its target under ``name``."""

        def add(member: T) -> T:
            if name in self.members:
                raise ValueError(
                    f"register: {self.kind} '{name}' already names {self.members[name].__qualname__}; "
                    f"pick another name."
                )
            self.members[name] = member
            return member

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self.catalogue(), *self.members}))

    def __len__(self) -> int:
        return len({*self.catalogue(), *self.members})

    def __contains__(self, name: object) -> bool:
        return name in self.members or name in self.catalogue()

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return self.require(name)

    def discover(self) -> dict[str, Callable[..., Any]]:
        """Imports every module of the package, so that its members register themselves; returns them."""
        for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        return self.members

    def require(self, name: str) -> Callable[..., Any]:
        """The member called ``name``; its module is imported if need be.

        Raises:
            UnknownNameError: unknown name; the message gives the nearest known one and all names.
        """
        if name not in self.members:
            entry = self.entry(name)
            importlib.import_module(entry.module)
        return self.members[name]

    def entry(self, name: str) -> Entry:
        """The catalogue entry of ``name``, without importing its module.

        Raises:
            UnknownNameError: as ``require``.
        """
        catalogue = self.catalogue()
        if name in catalogue:
            return catalogue[name]
        if name in self.members:
            return _entry_of_object(name, self.members[name])
        raise UnknownNameError(f"no {self.kind} '{name}'.{nearest(name, self)} Known: {', '.join(self)}.")

    def check_options(self, name: str, options: Mapping[str, Any]) -> None:
        """Refuses an option that ``name`` does not take, naming the nearest one it does, or lacks one it needs.

        Raises:
            UnknownNameError: unknown name. UnknownOptionError: unknown option.
        """
        known = self.entry(name).options
        if missing := [option for option, default in known.items() if default == REQUIRED and option not in options]:
            raise UnknownOptionError(f"{self.kind} '{name}' needs the option '{missing[0]}'; give it.")
        for option in options:
            if option not in known:
                raise UnknownOptionError(
                    f"{self.kind} '{name}' has no option '{option}'.{nearest(option, known)} "
                    f"It takes: {', '.join(known) or 'no options'}."
                )

    def check_preset(self, name: str, preset: str | None) -> None:
        """Refuses a preset that ``name`` does not declare; None is no preset.

        Raises:
            UnknownNameError: names the nearest preset.
        """
        known = self.entry(name).presets
        if preset is not None and preset not in known:
            raise UnknownNameError(
                f"{self.kind} '{name}' has no preset '{preset}'.{nearest(preset, known)} "
                f"Known: {', '.join(known) or 'none'}."
            )

    def catalogue(self) -> dict[str, Entry]:
        """Every name that the package's source text registers, read without running it."""
        return _catalogue(self.package, self.decorator)


@functools.cache
def _catalogue(package: str, decorator: str) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and (name := _registered(node, decorator)):
                    found[name] = _entry_of_source(name, f"{package}.{path.stem}", node)
    return dict(sorted(found.items()))


def _registered(node: ast.ClassDef | ast.FunctionDef, decorator: str) -> str | None:
    for call in node.decorator_list:
        if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] == decorator:
            return ast.literal_eval(call.args[0])
    return None


def _entry_of_source(name: str, module: str, node: ast.ClassDef | ast.FunctionDef) -> Entry:
    options: dict[str, str] = {}
    presets: tuple[str, ...] = ()
    functions = node.body if isinstance(node, ast.ClassDef) else [node]
    for part in functions:
        if isinstance(part, ast.FunctionDef) and part.name in ("__init__", node.name):
            keywords = zip(part.args.kwonlyargs, part.args.kw_defaults, strict=True)
            options = {a.arg: ast.unparse(default) if default else REQUIRED for a, default in keywords}
        if isinstance(part, ast.AnnAssign) and ast.unparse(part.target) == "presets":
            keys = part.value.keys if isinstance(part.value, ast.Dict) else []
            presets = tuple(ast.literal_eval(key) for key in keys if key is not None)
    doc = ast.get_docstring(node) or ""
    return Entry(name, module, doc.split("\n")[0], options, presets, doc)


def _entry_of_object(name: str, member: Callable[..., Any]) -> Entry:
    doc = inspect.getdoc(member) or ""
    parameters = inspect.signature(member).parameters
    keywords = {k: p for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    options = {k: REQUIRED if p.default is p.empty else repr(p.default) for k, p in keywords.items()}
    presets = tuple(getattr(member, "presets", {}))
    return Entry(name, member.__module__, doc.split("\n")[0], options, presets, doc)


MODELS = Registry("model", "fsgen.models", "register")
LEARNERS = Registry("learner", "fsgen.learners", "learner")
SOURCES = Registry("data source", "fsgen.data", "source")
CLASSIFIERS = Registry("classifier", "fsgen.classification", "classifier")
register = MODELS.register
learner = LEARNERS.register
source = SOURCES.register
classifier = CLASSIFIERS.register


def trained_by(name: str) -> Registry:
    """The registry that holds ``name`` among those whose members ``fsgen train`` takes: models and learners.

    Raises:
        UnknownNameError: neither does; the message gives the nearest name of both.
    """
    for registry in (MODELS, LEARNERS):
        if name in registry:
            return registry
    known = [*MODELS, *LEARNERS]
    raise UnknownNameError(f"no model '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")


def build(name: str, *, preset: str | None = None, **options: Any) -> Any:
    """A new model by its registered name, with random weights.

    Args:
        name: a model or learner listed by ``fsgen models``.
        preset: a named set of options the model declares (such as gmn's "paper"); ``options`` override it.
        options: keyword arguments of the model; ``event_shape`` is one image, (C, H, W).

    Raises:
        UnknownNameError: unknown model or preset, with the nearest known one.
        UnknownOptionError: unknown option, with the nearest known one.

    >>> build("beta-bernoulli", event_shape=(1, 4, 4)).event_shape
    (1, 4, 4)
    """
    registry = trained_by(name)
    registry.check_options(name, options)
    registry.check_preset(name, preset)
    cls: Any = registry.require(name)
    if "event_shape" in options:
        options["event_shape"] = tuple(options["event_shape"])
    if preset is not None:
        options = {**cls.presets[preset], **options}
    complete = inspect.signature(cls).bind(**options)
    complete.apply_defaults()  # a saved recipe must not change its meaning when a default does
    model = cls(**complete.kwargs)
    model.recipe = {"name": name, "options": dict(complete.kwargs)}
    return model
