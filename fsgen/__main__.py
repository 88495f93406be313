"""``python -m fsgen`` is the command ``fsgen``."""

from fsgen.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
