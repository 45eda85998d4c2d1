"""Prints what was measured: a table a cell, then the bars; and the same as JSON.

Owns the layout. Never computes a figure that it prints: medians, ratios and verdicts come from
`rounds.py` and `bars.py`. Missing figures are a dash, missing peers a line of their own that cannot
be overlooked. Columns are padded by characters, so headings keep to characters one cell wide.
"""

import dataclasses
import json
import os
import platform

import bars


def heading(arguments, versions):
    """What the figures depend on besides the code."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    print(f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs "
          f"(shared with the load generator), load {load}")
    print(f"{arguments.rounds} rounds, interleaved, of about {arguments.seconds:g} s; figures are "
          "medians over rounds, ratios medians of ratios within a round")
    for line in versions:
        print(f"  {line}")


def missing_block(missing):
    """Who does not take part."""
    for name, reason in missing.items():
        print(f"*** MISSING: {name}: {reason}")


def load_table(result, subject):
    """The table of one load cell, and the CPU ratios of the subject with the A/A ratio."""
    rows = [["", "req/s", "× direct", "p50 ms", "p99 ms", "proxy CPU µs", "redis CPU µs",
             "syscalls/req", "RSS"]]
    for name, outcome in result.outcomes.items():
        is_direct = name == "direct"
        throughput = result.ratios("rps", name, "direct")
        rows.append([
            name, _number(outcome.median("rps"), "{:,.0f}"),
            _number(bars.median_of(throughput), "{:.2f}"),
            _number(outcome.median("p50_ms"), "{:.3f}"),
            _number(outcome.median("p99_ms"), "{:.3f}"),
            _number(outcome.median("proxy_cpu_us"), "{:.2f}"),
            _number(outcome.median("redis_cpu_us"), "{:.2f}"),
            "–" if is_direct else _number(outcome.system_calls, "{:.2f}", "not available"),
            "–" if is_direct else _bytes(outcome.memory_bytes)])
    print(f"\n{result.cell.title()}")
    print_table(rows)
    for name in result.outcomes:
        ratios = result.ratios("proxy_cpu_us", subject, name)
        if ratios and name != subject:
            label = "A/A" if name == f"{subject}-aa" else name
            print(f"  CPU µs {subject} ÷ {label}: {bars.spread(ratios)}")
    for name, outcome in result.outcomes.items():
        for failure in outcome.failures:
            print(f"  *** {name}: {failure}")


def idle_table(results):
    """The table of the idle cell."""
    rows = [["", "clients", "RSS before", "RSS with them", "each", "RSS after 16 KiB", "each"]]
    for name, found in results.items():
        rows.append([name, str(found.clients), _bytes(found.before), _bytes(found.after_small),
                     _bytes(found.bytes_a_client("after_small")), _bytes(found.after_large),
                     _bytes(found.bytes_a_client("after_large"))])
    print("\nidle: clients that ask once for 64 B, later once for 16 KiB, and then keep quiet "
          "(a fresh process each)")
    print_table(rows)
    _failures(results)


def slow_reader_table(results):
    """The table of the slow-reader cell."""
    rows = [["", "RSS before", "peak stalled", "peak in all", "cost", "verified", "read in",
             "others p50/p99/max ms before", "stalled", "reading"]]
    for name, found in results.items():
        phases = [_phase(found.phases.get(phase)) for phase in ("before", "stalled", "reading")]
        rows.append([name, _bytes(found.before), _bytes(found.peak_stalled),
                     _bytes(found.peak_reading), _bytes(found.cost()), str(found.verified),
                     _number(found.read_seconds, "{:.1f} s"), *phases])
    print("\nslow-reader: 1,000 GETs of 1 MiB pipelined, nothing read for 10 s; 20 others ask "
          "every 10 ms (a fresh process each; for direct: redis-server)")
    print_table(rows)
    _failures(results)


def bars_table(results):
    """The verdicts of the cells that were run, and a line that names the others."""
    verdicts = bars.judge(results)
    not_run = list(dict.fromkeys(v.cell for v in verdicts if not v.was_run))
    rows = [["cell", "bar", "bound", "measured", "", ""]]
    words = {True: "holds", False: "DOES NOT HOLD", None: "not measured"}
    for verdict in (v for v in verdicts if v.was_run):
        rows.append([verdict.cell, verdict.text, verdict.bound, verdict.measured,
                     words[verdict.holds], verdict.beside])
    print(f"\nbars of {results.subject}")
    print_table(rows, left={0, 1, 4, 5})
    if not_run:
        print(f"  cells with bars that were not run: {', '.join(not_run)}")


def write_json(path, results, versions):
    """All samples and verdicts, for whoever wants to compute something else from them."""
    document = {
        "versions": versions, "verdicts": [dataclasses.asdict(v) for v in bars.judge(results)],
        **dataclasses.asdict(results)}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def print_table(rows, left=frozenset({0})):
    """Prints rows as aligned columns; those in `left` to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        padded = [text.ljust(width) if column in left else text.rjust(width)
                  for column, (text, width) in enumerate(zip(row, widths, strict=True))]
        print("  " + "  ".join(padded).rstrip())


def _failures(results):
    for name, found in results.items():
        if found.failure:
            print(f"  *** {name}: {found.failure}")


def _phase(phase):
    return "–" if phase is None else f"{phase.p50_ms:.2f}/{phase.p99_ms:.2f}/{phase.max_ms:.1f}"


def _number(value, form, absent="–"):
    return absent if value is None else form.format(value)


def _bytes(value):
    return "–" if value is None else bars.bytes_text(value)
