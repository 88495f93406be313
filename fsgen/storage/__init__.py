"""How bytes reach the disk, and how far they are trusted when read back.

Every file appears whole or not at all, and is used only if its sha256 is the one its folder's MANIFEST.json lists,
because neither ``torch.load`` nor safetensors notices a flipped bit.
"""

from fsgen.storage.config import config_from_bytes, config_to_bytes
from fsgen.storage.files import (
    NO_LINKS,
    RESTORE,
    clean_stale,
    refusals,
    remove_folder,
    sync_folder,
    write_all,
    write_bytes,
)
from fsgen.storage.folders import MANIFEST, read_file, update_folder, write_folder
from fsgen.storage.tensors import (
    check_state_dict,
    state_from_bytes,
    state_to_bytes,
    tensors_from_bytes,
    tensors_to_bytes,
)

__all__ = [
    "MANIFEST",
    "NO_LINKS",
    "RESTORE",
    "check_state_dict",
    "clean_stale",
    "config_from_bytes",
    "config_to_bytes",
    "read_file",
    "refusals",
    "remove_folder",
    "state_from_bytes",
    "state_to_bytes",
    "sync_folder",
    "tensors_from_bytes",
    "tensors_to_bytes",
    "update_folder",
    "write_all",
    "write_bytes",
    "write_folder",
]
