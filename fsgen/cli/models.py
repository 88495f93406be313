"""fsgen models: what can be trained. Reads source text, so it answers without importing torch."""

from __future__ import annotations

from jsonargparse import Namespace

from fsgen.cli.parsing import Parser
from fsgen.registry import LEARNERS, MODELS, trained_by


def parser() -> Parser:
    """The options of the listing."""
    p = Parser("models", "Lists the registered models and learners; with a NAME, its meaning, options and presets.")
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
