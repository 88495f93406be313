"""Configs as YAML: no tags, no aliases, no depth, so that reading one is quick whatever it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from fsgen.errors import CheckpointError
from fsgen.storage.files import RESTORE

_BYTES = 1 << 16
_DEPTH = 40
_OPEN = (
    yaml.BlockMappingStartToken
    | yaml.BlockSequenceStartToken
    | yaml.FlowMappingStartToken
    | yaml.FlowSequenceStartToken
)
_CLOSE = yaml.BlockEndToken | yaml.FlowMappingEndToken | yaml.FlowSequenceEndToken


def config_to_bytes(config: Mapping[str, Any]) -> bytes:
    """A mapping of numbers, text, lists and mappings as YAML; tuples become lists.

    Raises:
        TypeError: it holds what YAML has no safe form for, such as a Path.
    """
    try:
        # not allow_unicode: PyYAML then turns line breaks such as U+0085 in keys into spaces
        return yaml.dump(dict(config), Dumper=_Dumper, sort_keys=False).encode()
    except yaml.YAMLError as error:
        raise TypeError(f"a config is numbers, text, lists and mappings: {' '.join(map(str, error.args))}") from error


def config_from_bytes(data: bytes, *, source: str) -> dict[str, Any]:
    """The mapping written by ``config_to_bytes``, or by hand; ``source`` names it in messages.

    Raises:
        CheckpointError: no YAML mapping, over 64 kB, nested beyond 40, or with aliases, of which a few lines
            make gigabytes, or with tags that name Python objects.
    """
    try:
        if len(data) > _BYTES:
            raise ValueError(f"{len(data)} bytes, more than {_BYTES}")
        text = data.decode()
        _check_tokens(text)
        config = yaml.safe_load(text)
        if not isinstance(config, dict):
            raise ValueError(f"it holds {type(config).__name__}, not a mapping")
    except Exception as error:  # odd tags raise a dozen types
        reason = ascii(" ".join(str(error).split()))[1:-1][:120]
        raise CheckpointError(f"{source} is no config: {reason}. {RESTORE}") from error
    return config


def _check_tokens(text: str) -> None:
    """Stops at the first token that a config does not need; PyYAML takes a minute for 60 kB of ``[``."""
    depth = 0
    for token in yaml.scan(text):
        if isinstance(token, yaml.AliasToken):
            raise ValueError("aliases (`*name`) are not allowed")
        depth += isinstance(token, _OPEN) - isinstance(token, _CLOSE)
        if depth > _DEPTH:
            raise ValueError(f"nested more than {_DEPTH} deep")


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True
