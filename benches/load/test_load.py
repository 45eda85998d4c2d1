"""Tests of what turns measurements into verdicts; `python3 -m unittest discover -s benches/load`.

Owns examples worked out by hand for the parts that could be wrong without anybody noticing: reading
redis-benchmark's output, pairing rounds, judging bars, counting percentiles, choosing cells.
Never starts a server.
"""

import os
import sys
import unittest

sys.dont_write_bytecode = True

import bars  # noqa: E402
import cells  # noqa: E402
import measure  # noqa: E402
import resp  # noqa: E402
import rounds  # noqa: E402
import slow_reader  # noqa: E402

CSV = ('WARNING: Could not fetch server CONFIG\n'
       '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms",'
       '"p99_latency_ms","max_latency_ms"\n'
       '"GET","50000.00","0.5","0.1","0.431","0.9","1.215","3.0"\n')


def _sample(cpu, rps=100.0):
    return measure.Sample(1000, rps, 0.1, 0.2, cpu, 1.0)


def _results(breakwater, nutcracker, calls=None):
    """Results of cell p1 with the given CPU figures, a round each; None is a failed run."""
    def outcome(figures):
        return rounds.Outcome([None if cpu is None else _sample(cpu) for cpu in figures])

    results = bars.Results("breakwater", 16 * bars.MIB)
    results.loads["p1"] = rounds.CellResult(cells.default()[0], {
        "direct": outcome([]), "nutcracker": outcome(nutcracker),
        "breakwater": outcome(breakwater)})
    results.loads["p1"].outcomes["breakwater"].system_calls = calls
    return results


def _verdict(results, cell, text):
    return next(v for v in bars.judge(results) if v.cell == cell and v.text == text)


class Measurements(unittest.TestCase):
    def test_the_csv_row_is_found_behind_a_warning(self):
        row = measure.parse_benchmark(CSV)
        self.assertEqual((row["rps"], row["p50_latency_ms"]), ("50000.00", "0.431"))

    def test_a_run_without_a_row_is_an_error_and_no_zero(self):
        with self.assertRaises(measure.RunError):
            measure.parse_benchmark("Error from server: ERR", "")

    def test_percentiles_are_values_that_occurred(self):
        values = [float(n) for n in range(1, 101)]
        self.assertEqual(measure.percentile(values, 50), 50.0)
        self.assertEqual(measure.percentile(values, 99), 99.0)
        self.assertEqual(measure.percentile([7.0], 99), 7.0)

    def test_the_clock_of_a_process_counts_its_work(self):
        before = measure.cpu_ns(os.getpid())
        sum(range(1_000_000))
        self.assertGreater(measure.cpu_ns(os.getpid()), before)


class Ratios(unittest.TestCase):
    def test_rounds_are_paired_and_failed_ones_left_out(self):
        result = _results([1.0, None, 3.0], [2.0, 5.0, 2.0]).loads["p1"]
        self.assertEqual(result.ratios("proxy_cpu_us", "breakwater", "nutcracker"), [0.5, 1.5])

    def test_the_median_is_of_ratios_and_not_a_ratio_of_medians(self):
        results = _results([1.0, 10.0, 9.0], [1.0, 20.0, 3.0])
        verdict = _verdict(results, "p1", "CPU a request ÷ nutcracker's")
        # The ratio of the medians, 9 ÷ 3, would be 3.
        self.assertEqual((verdict.measured, verdict.holds), ("1.000", True))


class Verdicts(unittest.TestCase):
    def test_a_bar_holds_at_its_bound_and_not_above(self):
        at, above = _results([1.0], [1.0], calls=2.1), _results([1.0], [0.99], calls=2.11)
        self.assertTrue(_verdict(at, "p1", "system calls a request").holds)
        self.assertFalse(_verdict(above, "p1", "system calls a request").holds)
        self.assertTrue(_verdict(at, "p1", "CPU a request ÷ nutcracker's").holds)
        self.assertFalse(_verdict(above, "p1", "CPU a request ÷ nutcracker's").holds)

    def test_what_is_missing_is_never_held(self):
        verdicts = bars.judge(_results([], [1.0]))
        self.assertEqual({verdict.holds for verdict in verdicts}, {None})

    def test_every_bar_names_a_cell_that_exists(self):
        names = {cell.name for cell in cells.default() + cells.cluster()}
        names |= {cells.IDLE, cells.SLOW_READER}
        self.assertLessEqual({bar.cell for bar in bars.all_bars(1)}, names)


class Counting(unittest.TestCase):
    def test_a_command_of_many_keys_counts_once_however_it_is_cut(self):
        many, one = (measure.Load("MGET", 1, 50, 64, 100, width) for width in (10, 1))
        self.assertEqual((many.requests_of(30, 10), one.requests_of(30, 10)), (10, 30))
        with self.assertRaises(measure.RunError):
            many.requests_of(9, 10)

    def test_each_key_of_a_command_is_chosen_by_itself(self):
        argv = measure.Load("MGET", 1, 50, 64, 100, 3).argv(1, 10)
        self.assertEqual(argv[-4:], ["MGET", *["key:__rand_int__"] * 3])


class Shapes(unittest.TestCase):
    def test_cells_have_names_and_loads_of_their_own(self):
        full = cells.full()
        self.assertEqual(len({cell.load for cell in full}), len(full))
        everything = full + cells.cluster()
        self.assertEqual(len({cell.name for cell in everything}), len(everything))

    def test_every_shape_of_the_matrix_is_run_or_named_as_left_out(self):
        gets = [cell for cell in cells.full() if cell.load.verb == "GET"]
        matrix = len(cells.PIPELINES) * len(cells.CLIENTS) * len(cells.SIZES)
        # One default cell, 1 MiB with 10 clients, is no member of the matrix.
        self.assertEqual(len(gets) - 1 + len(cells.left_out()), matrix)

    def test_values_differ_by_key_and_have_their_size(self):
        self.assertNotEqual(resp.value_of(0, 1024), resp.value_of(1, 1024))
        self.assertEqual(len(resp.value_of(3, 64)), 64)

    def test_a_wait_belongs_to_the_phase_in_which_it_ended(self):
        times = [10.0, 20.0]
        phases = slow_reader._phases([(9.0, 0.001), (9.9, 0.5), (20.5, 0.002)], times)
        counts = {name: (phase.count, phase.max_ms) for name, phase in phases.items()}
        self.assertEqual(counts, {"before": (1, 1.0), "stalled": (1, 500.0), "reading": (1, 2.0)})


if __name__ == "__main__":
    unittest.main()
