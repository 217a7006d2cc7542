"""What a pickle would import, read from its opcodes without running it."""

import pickletools
import re
from typing import IO, Any

OPCODE_LIMIT = 2_000_000
LEGACY_STREAMS = 5  # torch.save before 1.6: magic, protocol, system, object, storage keys
EXTENSION = "a copyreg extension"
UNKNOWN = "an unknown name"
STRINGS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "SHORT_BINSTRING")
TENSOR_ONLY = re.compile(
    r"collections\.OrderedDict|_codecs\.encode|torch\.(Size|device|Tensor|\w*Storage)"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.storage\.(UntypedStorage|TypedStorage|_load_from_bytes)"
    r"|torch\.nn\.parameter\.(Parameter|Buffer)|torch\.serialization\._get_layout"
    r"|torch\.(u?int\d+|b?float\d+\w*|complex\d+|bool|half|double|float|int|long|short|strided)"
)


def foreign_names(stream: IO[bytes], pickles: int = 1) -> list[str]:
    """Names a pickle would import beyond those a plain dictionary of tensors needs.

    Args:
        stream: Positioned at the first pickle.
        pickles: How many pickles follow one another.

    Raises:
        ValueError: If it is not a pickle or too long to read.
    """
    names: set[str] = set()
    for _ in range(pickles):
        names |= _imported(stream)
    return sorted(name for name in names if not TENSOR_ONLY.fullmatch(name))


def _imported(stream: IO[bytes]) -> set[str]:
    names: set[str] = set()
    strings: list[str] = []
    memo: dict[int, str] = {}
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count > OPCODE_LIMIT:
            raise ValueError("the pickle is too long")
        match opcode.name:
            case "GLOBAL" | "INST":
                names.add(argument.replace(" ", "."))
            case "STACK_GLOBAL":
                names.add(".".join(strings[-2:]) if len(strings) > 1 else UNKNOWN)
            case "EXT1" | "EXT2" | "EXT4":
                names.add(EXTENSION)
            case "MEMOIZE" if strings:
                memo[len(memo)] = strings[-1]
            case "BINPUT" | "LONG_BINPUT" | "PUT" if strings:
                memo[argument] = strings[-1]
            case "BINGET" | "LONG_BINGET" | "GET" if argument in memo:
                strings.append(memo[argument])
            case name if name in STRINGS:
                strings.append(argument)
    return names
