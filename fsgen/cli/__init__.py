"""The command line: each command parses, loads, makes one call and prints; its module is imported on demand."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import fsgen
from fsgen.errors import FsgenError, ToldElsewhereError, UnknownNameError
from fsgen.registry import nearest

COMMANDS = {
    "train": "train a model on episodes of a data source; resume a run",
    "evaluate": "held-out likelihood of a trained run: nats per image at each shot count",
    "merge": "join the shards of an evaluation",
    "adjust": "results beside means adjusted for the ink of the scored images, without scoring again",
    "classify": "few-shot accuracy of a trained run, or of a baseline: each class known by a few images",
    "quality": "samples beside real images: recognized by a critic, as diverse as their class, copied or new",
    "sample": "draw images like a few given ones",
    "pictures": "of a run, for its report: nearest training images, reconstructions, a map of set codes",
    "report": "tables, charts and intervals from the results of runs, as one page",
    "models": "list the models, or show the options of one",
    "data": "list the data sources, or check and show one",
}

USAGE = """usage: fsgen COMMAND [options]

A few images in, a probability distribution over images out.

commands:
{commands}

`fsgen COMMAND --help` explains a command. `fsgen --version` prints the version.

A first run, without any download:
  fsgen train --out runs/first --steps 300 --validation.every 100
  fsgen evaluate runs/first --sets 50 --particles 50
  fsgen sample runs/first --data glyphs --out samples.png"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0, 1 for a failed job, 2 for wrong input, 128 + n after signal n."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE.format(commands="\n".join(f"  {name:10}{text}" for name, text in COMMANDS.items())))
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"fsgen {fsgen.__version__}")
        return 0
    name = words[0]
    try:
        if name not in COMMANDS:
            raise UnknownNameError(f"no command '{name}'.{nearest(name, COMMANDS)} Known: {', '.join(COMMANDS)}.")
        command = importlib.import_module(f"fsgen.cli.{name}")
        status: int = command.run(command.parser().parse(words[1:]))
        sys.stdout.flush()  # so that a reader that has gone is met here and not at exit
        return status
    except ToldElsewhereError as error:
        return error.exit_status
    except FsgenError as error:
        print(f"fsgen {name}: {error}", file=sys.stderr)
        return error.exit_status
    except MemoryError as error:
        print(f"fsgen {name}: not enough memory ({error}); ask for smaller images, sets or batches.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
