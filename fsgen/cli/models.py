"""fsgen models: what can be trained, and what is. Reads source and results, so it answers without importing torch."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from fsgen.cli.parsing import Parser
from fsgen.published import published
from fsgen.registry import LEARNERS, MODELS, trained_by
from fsgen.report.tables import read_results


def parser() -> Parser:
    """The options of the listing."""
    p = Parser(
        "models",
        "Lists the registered models and learners, and trained ones; with a NAME, its meaning, options and presets.",
    )
    p.add_argument("name", type=str, nargs="?", default=None, metavar="NAME", help="one model or learner")
    return p


def run(args: Namespace) -> int:
    """Prints the catalogue or one entry."""
    if args.name is None:
        width = max(map(len, [*MODELS, *LEARNERS]))
        for registry, heading in ((MODELS, ""), (LEARNERS, "\nDiscriminative learners, for fsgen classify:\n")):
            print(heading, end="")
            for name, entry in registry.catalogue().items():
                print(f"{name:{width}}  {entry.summary}")
        _print_published()
        print("\n`fsgen models NAME` shows the options of one; set them with --model.options.KEY VALUE.")
        return 0
    entry = trained_by(args.name).entry(args.name)
    print(entry.doc)
    print("\nDefaults:")
    for option, default in entry.options.items():
        print(f"  {option} = {default}")
    if entry.presets:
        print(f"Presets (--model.preset): {', '.join(entry.presets)}")
    return 0


def _print_published() -> None:
    """The trained models that fsgen finds by name, with a figure of each."""
    found = published()
    if not found:
        return
    width = max(map(len, found))
    print('\nTrained, for fsgen.load("NAME") and commands that take one RUN:')
    for name, folder in found.items():
        print(f"{name:{width}}  {_figure(folder / 'results.jsonl')}")


def _figure(results: Path) -> str:
    """The score at the fewest and the most shots, or the first accuracy."""
    if not results.is_file():
        return "not evaluated yet"
    if likelihoods := [r for r in read_results(results) if (r["protocol"], r["ways"]) == ("strict", 1)]:
        ends = sorted(likelihoods, key=lambda r: r["shots"])
        least, most = ends[0], ends[-1]
        spread = f"{least['nats']:.1f} nats at {least['shots']} shots, {most['nats']:.1f} at {most['shots']}"
        return f"{spread} ({most['data']['name']}, strict, {most['sets']} sets)"
    told = [r for r in read_results(results, "classification") if r["task"] == "random"]
    first = min(told, key=lambda r: (r["ways"], r["shots"]), default=None)
    if first is None:
        return "not evaluated yet"
    tasks = f"{first['ways']}-way {first['shots']}-shot"
    return f"{first['accuracy']:.1%} {tasks} ({first['data']['name']}, {first['episodes']} episodes)"
