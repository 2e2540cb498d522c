"""Type keys into Rime's library and print the candidates after each sequence as a row of JSON.

It takes the folder with schema, dictionary and scripts, the name of the schema, and sequences of
keys. The library keeps global state, so it runs in a separate process.
"""

import json
import sys
from ctypes import CDLL, POINTER, Structure, byref, c_char_p, c_int, c_size_t, c_void_p, sizeof

TRAITS = ("shared_data_dir", "user_data_dir", "distribution_name", "distribution_code_name")
TRAITS += ("distribution_version", "app_name")
NUMBERS = ("page_size", "page_no", "is_last_page", "highlighted", "num_candidates")


class Traits(Structure):
    """rime_traits_t up to ``app_name``."""

    _fields_ = [("data_size", c_int), *[(name, c_char_p) for name in TRAITS]]


class Candidate(Structure):
    """rime_candidate_t."""

    _fields_ = [("text", c_char_p), ("comment", c_char_p), ("reserved", c_void_p)]


class Composition(Structure):
    """RimeComposition."""

    _fields_ = [("places", 4 * c_int), ("preedit", c_char_p)]


class Menu(Structure):
    """RimeMenu."""

    _fields_ = [
        *[(name, c_int) for name in NUMBERS],
        ("candidates", POINTER(Candidate)),
        ("select_keys", c_char_p),
    ]


class Context(Structure):
    """rime_context_t up to ``menu``."""

    _fields_ = [("data_size", c_int), ("composition", Composition), ("menu", Menu)]


def main(folder: str, schema: str, *sequences: str) -> None:
    """Deploy the folder, and type."""
    rime = CDLL("librime.so.1")
    rime.RimeCreateSession.restype = c_size_t
    traits = Traits(sizeof(Traits) - sizeof(c_int), *[folder.encode()] * 2, *[b"rime.test"] * 4)
    rime.RimeSetup(byref(traits))
    rime.RimeInitialize(byref(traits))
    rime.RimeStartMaintenance(1)
    rime.RimeJoinMaintenanceThread()
    session = c_size_t(rime.RimeCreateSession())
    if not rime.RimeSelectSchema(session, schema.encode()):
        raise SystemExit(f"{schema}: Rime has no such schema")
    for keys in sequences:
        rime.RimeSimulateKeySequence(session, keys.encode())
        context = Context(sizeof(Context) - sizeof(c_int))
        rime.RimeGetContext(session, byref(context))
        menu = context.menu
        texts = [menu.candidates[place].text.decode() for place in range(menu.num_candidates)]
        print(json.dumps(texts))  # noqa: T201
        rime.RimeFreeContext(byref(context))
    rime.RimeFinalize()


if __name__ == "__main__":
    main(*sys.argv[1:])
