"""A run folder: what was asked (config.yaml), what was learnt (weights, checkpoints), what was seen (logs).

::

    config.yaml  weights.safetensors  MANIFEST.json      verified on reading; weights are the selected ones
    checkpoints/step-00001000/                           weights.safetensors, state.pt, MANIFEST.json; the last two
    metrics.jsonl  results.jsonl  sessions.jsonl          one JSON object a line, appended
    lock                                                 number and host of the process that trains
"""

from fsgen.run.folder import CONFIG, STATE, WEIGHTS, Checkpoint, Run
from fsgen.run.provenance import provenance

__all__ = ["CONFIG", "STATE", "WEIGHTS", "Checkpoint", "Run", "provenance"]
