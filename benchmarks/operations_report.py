"""The table of drills in docs/operations.md, from committed figures; and what of them must not be."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.contestants import ROOT
from benchmarks.report import insert, table

DOCUMENT = ROOT / "docs" / "operations.md"
FIGURES = ROOT / "docs" / "results" / "operations.json"
BEGIN, END = "<!-- drills: begin -->", "<!-- drills: end -->"
NOT_YET = "Not measured yet."
SOAKS = ("soak", "soak_without_reloads")
# A shorter soak is still filling caches and pools: whether its memory stays flat says nothing.
LONG_SECONDS = 600.0
Part = Mapping[str, Any]


def write(figures: Path, document: Path) -> None:
    """Write the table into *document*."""
    text = (
        markdown(json.loads(figures.read_text("utf-8"))["parts"]) if figures.exists() else NOT_YET
    )
    document.write_text(insert(document.read_text("utf-8"), text, BEGIN, END), encoding="utf-8")


def markdown(parts: Mapping[str, Part]) -> str:
    """A row for each part that was measured, and where that was."""
    measured = {name: parts[name] for name in ROWS if name in parts}
    if not measured:
        return NOT_YET
    rows = [
        [what, figure(measured[name]), _when(measured[name])]
        for name, (what, figure) in ROWS.items()
        if name in measured
    ]
    places = dict.fromkeys(_where(part) for part in measured.values())
    return table(["drill", "came of it", "when, commit"], rows) + "\n\n" + "\n\n".join(places)


def failed(parts: Mapping[str, Part]) -> list[str]:
    """What was measured and must not be, a line each; of no figure that depends on how fast a machine is."""
    bad = {
        "load": ("errors",),
        "reloads": ("failed", "lost"),
        "restarts": ("failed", "lost"),
        "fuzz": ("server_errors", "not_conforming"),
        "mutations": ("wrong", "broken"),
        **dict.fromkeys(SOAKS, ("server_errors", "leaked_descriptors")),
    }
    found = [
        f"{name}: {key} {parts[name][key]}"
        for name, keys in bad.items()
        if name in parts
        for key in keys
        if parts[name][key]
    ]
    for name in SOAKS:
        soak = parts.get(name, {})
        if soak.get("broken"):
            found.append(f"{name}: {soak['broken']} connections broken")
        if soak and soak["seconds"] >= LONG_SECONDS and not soak["flat"]:
            resident = soak["resident_mib"]
            found.append(
                f"{name}: resident {resident['first']} to {resident['last']} MiB is not flat"
            )
    for kind, counts in _kinds(parts.get("faults", {})).items():
        if counts["survived"] < counts["injected"] or not counts["injected"]:
            found.append(f"faults: {kind}: {counts['survived']} of {counts['injected']} survived")
    for name in ("overload_keystrokes", "overload_blanks"):
        part = parts.get(name, {})
        for each in part.get(
            "rounds", [part]
        ):  # older figures have no rounds, and do not say what was unanswered
            wrong = {
                status: times
                for status, times in each.get("status", {}).items()
                if status not in _EXPECTED
            }
            if wrong:
                found.append(f"{name}: {wrong}")
            if unanswered := each.get("unanswered"):
                found.append(f"{name}: {unanswered} unanswered")
    return found


# Under overload: answered, refused in time, or given up at the deadline.
_EXPECTED = ("200", "429", "504")


def _capacity(part: Part) -> str:
    keys, blanks = (part["answers_per_second"][route] for route in ("/predict", "/cloze"))
    return f"{keys:,.0f} key presses or {blanks:,.0f} open blanks a second"


def _prefix(part: Part) -> str:
    return f"{part['bytes_per_text'] / 1024:,.1f} KiB for a text of {part['characters']:.0f} characters"


def _load(part: Part) -> str:
    return (
        f"{part['rate']:,.0f} a second for {part['seconds']:g} s: {part['errors']} errors of {part['requests']:,};"
        f" p50 {_ms(part['p50_ms'])}, p99 {_ms(part['p99_ms'])}"
    )


def _overload(part: Part) -> str:
    goodput = f"{part['goodput_per_second']:,.0f} a second in time, {part['share_of_peak']:.0%} of the peak"
    late = f"p99 of the accepted {_seconds(part['accepted_p99_seconds'])} of {part['deadline_seconds']:g} s"
    if "sent" not in part:  # figures from before the client told what it had really sent
        return f"{goodput}; {late}"
    if len(rounds := part.get("rounds", ())) > 1:  # older figures have none
        shares = [each["share_of_peak"] for each in rounds]
        goodput += (
            f" (the median of {len(rounds)} rounds, from {min(shares):.0%} to {max(shares):.0%})"
        )
    if "share_of_thinned_peak" in part:
        goodput += f" and {part['share_of_thinned_peak']:.0%} of that where one of ten is asked"
    unsent = (
        f", {part['abandoned'] / part['scheduled']:.1%} given up unsent"
        if part["abandoned"]
        else ""
    )
    late = (
        f"p99 of the accepted, from sending, {_seconds(part['accepted_p99_from_sending_seconds'])}"
    )
    return (
        f"{part['sent_per_second']:,.0f} a second sent{unsent}; {goodput}"
        f" ({part['share_of_peak_from_sending']:.0%} from sending); {late} of {part['deadline_seconds']:g} s"
    )


def _reloads(part: Part) -> str:
    return f"{part['lost']} lost of {part['requests']:,} in {part['reloads']} reloads{_waits(part)}"


def _restarts(part: Part) -> str:
    again = f"{part['retries']} asked again{_waits(part)}"
    return f"{part['lost']} lost of {part['requests']:,} in {part['restarts']} restarts, {again}"


def _waits(part: Part) -> str:
    if "median_seconds" not in part:  # older figures do not say
        return ""
    return f"; answered after {_seconds(part['median_seconds'])}, at most {_seconds(part['slowest_seconds'])}"


def _faults(part: Part) -> str:
    return "; ".join(
        f"{kind}: {counts['survived']} of {counts['injected']}"
        for kind, counts in _kinds(part).items()
    )


def _fuzz(part: Part) -> str:
    return f"{part['server_errors']} 5xx and {part['not_conforming']} undocumented answers in {part['cases']:,} cases"


def _mutations(part: Part) -> str:
    return (
        f"{part['wrong']} wrongly accepted and {part['broken']} broken of {part['mutations']}:"
        f" {part['refused']} refused, {part['same']} the same answers, {part['told']} another digest"
    )


def _soak(part: Part) -> str:
    resident, slope = part["resident_mib"], part["mib_per_hour"]
    broken = (
        f"{part['broken']} connections broken, " if "broken" in part else ""
    )  # older figures do not say
    return (
        f"{part['seconds'] / 60:g} min, {part['requests']:,} requests, {part['reloads']} reloads: "
        f"{part['server_errors']} 5xx, {broken}{part['leaked_descriptors']} descriptors leaked, resident "
        f"{resident['first']:.0f} to {resident['last']:.0f} MiB ({'flat' if part['flat'] else 'not flat'}, "
        f"{slope:+.1f} MiB an hour)"
    )


ROWS: Mapping[str, tuple[str, Callable[[Part], str]]] = {
    "capacity": ("Capacity of one core", _capacity),
    "prefix": ("CacheLM of the prefix cache", _prefix),
    "load": ("70 % of that capacity, key presses", _load),
    "overload_keystrokes": ("Ten times the capacity offered, key presses", _overload),
    "overload_blanks": ("Ten times the capacity offered, blanks", _overload),
    "reloads": ("Reloads under load", _reloads),
    "restarts": ("Restarts under load, clients that ask again", _restarts),
    "faults": ("Faults injected, survived", _faults),
    "fuzz": ("Fuzzing the OpenAPI document", _fuzz),
    "mutations": ("Checkpoints altered", _mutations),
    "soak": ("Everything at once, for long", _soak),
    "soak_without_reloads": ("Everything at once, without reloads", _soak),
}


def _kinds(part: Part) -> dict[str, dict[str, int]]:
    return {
        kind: counts
        for kind, counts in part.items()
        if isinstance(counts, dict) and "injected" in counts
    }


def _when(part: Part) -> str:
    return f"{part['date'][:10]}, {part['machine']['git_commit']}"


def _where(part: Part) -> str:
    found = part["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    return (
        f"{found['cpu']}, {found['cores']} cores, {found['memory_gib']} GiB, Linux {found['kernel']}, Python "
        f"{found['python']}; checkpoint {part['checkpoint']}; {versions}."
    )


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"
