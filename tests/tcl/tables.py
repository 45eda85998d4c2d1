"""Prints what the comparison found: a row a file as soon as it is done, totals, then differences.

Owns the layout, and the same as JSON. Never computes a figure that it prints: those come from
`verdicts.py`. Error texts are cut here and whole in the JSON.
"""

import dataclasses
import json

import verdicts

ERROR_LINES_MAX = 3
ERROR_CHARACTERS_MAX = 300
REMARK_CHARACTERS_MAX = 100
# Where the Tcl stack of an error begins: of use to nobody who reads a list.
STACK = "    while executing"
FORM = "  {:<30}{:>8}{:>9}{:>8}  {}"


def heading(lines):
    """What is compared with what, and the head of the table."""
    print("\n".join(lines) + "\n")
    print(FORM.format("file", "direct", "through", "%", "").rstrip())


def row(comparison):
    """One file. The counts are of tests that are [ok]. Files in which there is nothing to run, and
    they are many, are named by `baseline`."""
    asked, passed = len(comparison.asked), len(comparison.passed)
    through = str(passed) if comparison.tries else "–"
    share = verdicts.percent(passed, asked) if comparison.tries else None
    remarks = "; ".join(_remarks(comparison))
    if asked or remarks:
        print(FORM.format(comparison.unit, asked, through, _percent(share), remarks).rstrip())


def total(comparisons):
    """The last row: the figure of the bar."""
    asked = sum(len(c.asked) for c in comparisons)
    passed = sum(len(c.passed) for c in comparisons)
    print(FORM.format("all", asked, passed, _percent(verdicts.total_percent(comparisons)), ""))


def baseline(comparisons):
    """What is not asked for, and why: nobody should have to guess what the figure leaves out."""
    empty = [c.unit for c in comparisons if not c.asked]
    if empty:
        print(f"\nnothing to run against a server that the suite did not start: {', '.join(empty)}")
    ignored = sum(c.direct.ignored for c in comparisons)
    if ignored:
        print(f"\nblocks and tests that the suite leaves out here, by their tags: {ignored}")
    failed = [(c.unit, name, text) for c in comparisons for name, text in c.direct.failed.items()]
    if failed:
        print(f"\nnot [ok] directly, hence not asked for: {len(failed)}")
    for unit, name, text in failed:
        print(f"  {unit}: {name}\n{_indented(text)}")


def difference_list(found):
    """Each test that is [ok] directly and not through Breakwater, with its error and its reason.
    Tests of a file that share both stand together."""
    if found:
        without = sum(d.reason is None for d in found)
        print(f"\n[ok] directly and not through Breakwater: {len(found)}, "
              f"{without} without a reason")
    together = {}
    for difference in found:
        alike = (difference.unit, _indented(difference.error), difference.reason)
        together.setdefault(alike, []).append(difference.name)
    for (unit, error, reason), names in together.items():
        print("\n".join(f"  {unit}: {name}" for name in names))
        print(f"{error}\n      {reason or '*** no reason is given in reasons.toml'}")


def repaired_list(comparisons):
    """Tests that needed another try: passed, and worth a look."""
    found = [f"{c.unit}: {name}" for c in comparisons for name in sorted(c.repaired)]
    if found:
        print(f"\npassed at a repetition only: {len(found)}")
    for line in found:
        print(f"  {line}")


def stale_list(keys):
    """Reasons that explain nothing any more."""
    for key in keys:
        print(f"*** stale in reasons.toml, the test passes or is not asked for: {key}")


def verdict(comparisons):
    """The bar, and whether it holds."""
    share, holds = verdicts.total_percent(comparisons), verdicts.holds(comparisons)
    print(f"\nbar: {verdicts.BAR_PERCENT:g} % of the tests that are [ok] directly; measured: "
          f"{_percent(share)} %; {'holds' if holds else 'DOES NOT HOLD'}")
    for comparison in comparisons:
        if comparison.direct.ended_early:
            print(f"*** {comparison.unit} was not run to its end directly: nothing is proven")
    return holds


def write_json(path, lines, comparisons, found):
    """Everything, with whole error texts, for whoever wants to compare two runs."""
    document = {
        "versions": lines,
        "percent": verdicts.total_percent(comparisons),
        "files": [_as_json(c) for c in comparisons],
        "differences": [dataclasses.asdict(difference) for difference in found]}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _as_json(comparison):
    return {
        "file": comparison.unit, "asked": len(comparison.asked), "passed": len(comparison.passed),
        "repaired": sorted(comparison.repaired), "direct": _run_as_json(comparison.direct),
        "tries": [_run_as_json(run) for run in comparison.tries]}


def _run_as_json(run):
    return {
        **dataclasses.asdict(run), "passed": sorted(run.passed), "seconds": round(run.seconds, 1)}


def _remarks(comparison):
    """What a reader of the row should know besides the counts."""
    if comparison.direct.ended_early:
        yield f"*** directly: {_cut(comparison.direct.ended_early)}"
    if comparison.direct.broken:
        yield f"*** directly, between tests: {_cut(comparison.direct.broken[0])}"
    for number, run in enumerate(comparison.tries, 1):
        if run.ended_early:
            yield f"try {number}: {_cut(run.ended_early)}"
        elif run.broken:
            yield f"try {number}, between tests: {_cut(run.broken[0])}"


def _indented(text):
    lines = text.partition(f"\n{STACK}")[0].splitlines()[:ERROR_LINES_MAX] or ["no text"]
    return "\n".join(f"      {line.strip()[:ERROR_CHARACTERS_MAX]}" for line in lines)


def _cut(text):
    """The first line, short enough for a row."""
    return (text.splitlines() or [""])[0][:REMARK_CHARACTERS_MAX]


def _percent(value):
    # Rounded down: 97.96 is not to be read as 98.0.
    return "–" if value is None else f"{int(value * 10) / 10:.1f}"
