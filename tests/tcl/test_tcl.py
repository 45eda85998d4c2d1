"""Tests of the counting; `python3 -m unittest discover -s tests/tcl`.

Owns examples worked out by hand for the parts that could be wrong without anybody noticing: reading
the output, counting over tries, matching reasons, recognising the source. Never starts a server and
needs no network.
"""

import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
# As `__main__` does: servers are started by the same code as those of the load tests.
sys.path.append(str(Path(__file__).resolve().parents[2] / "benches" / "load"))

import source  # noqa: E402
import stage  # noqa: E402
import suite  # noqa: E402
import verdicts  # noqa: E402

WHOLE = """Cleanup: may take some time... OK
Starting test server at port 21079
[ready]: 4711
Testing unit/demo
[ok]: first (3 ms)
[ok]: of a kind (in brackets) (12 ms)
[err]: second in tests/unit/demo.tcl
Expected 'a' to be equal to 'b' (context: type eval line 3 cmd {assert_equal a b} proc ::test)
[err]: third in tests/unit/demo.tcl
 breakwater: no
ERR breakwater: no
    while executing
"[srv $level "client"] {*}$args"
[ok]: first (1 ms)
[ignore]: fourth: Not supported on external server
[err]: no such thing
can't read "x": no such thing
    while executing
[1/1 done]: unit/demo (2 seconds)

                   The End

!!! WARNING The following tests failed:

*** [err]: second in tests/unit/demo.tcl
Expected 'a' to be equal to 'b'
"""

STALLED = """[ok]: first (3 ms)
[TIMEOUT]: clients state report follows.
sock55d0 => (IN PROGRESS) BLPOP: waits (and waits)

                   The End
"""


def _run(passed=(), failed=(), **fields):
    return suite.Run(set(passed), dict.fromkeys(failed, "ERR no"), **fields)


def _comparison(direct, *tries):
    return verdicts.Comparison("unit/demo", direct, list(tries))


class Output(unittest.TestCase):
    def test_a_name_with_brackets_loses_only_its_time(self):
        self.assertIn("of a kind (in brackets)", suite.read(WHOLE).passed)

    def test_a_name_that_comes_back_is_a_test_of_its_own(self):
        self.assertEqual(suite.read(WHOLE).passed, {"first", "of a kind (in brackets)", "first @2"})

    def test_errors_of_the_summary_are_not_counted_again(self):
        self.assertEqual(list(suite.read(WHOLE).failed), ["second", "third"])

    def test_the_torn_message_of_an_exception_is_dropped(self):
        self.assertEqual(suite.read(WHOLE).failed["third"].splitlines()[0], "ERR breakwater: no")

    def test_the_message_of_an_assertion_stays(self):
        self.assertTrue(suite.read(WHOLE).failed["second"].startswith("Expected 'a'"))

    def test_an_error_between_tests_belongs_to_no_test(self):
        self.assertEqual(suite.read(WHOLE).broken,
                         ["can't read \"x\": no such thing\n    while executing"])

    def test_a_whole_run_did_not_end_early(self):
        found = suite.read(WHOLE)
        self.assertEqual((found.ended_early, found.ignored), (None, 1))

    def test_a_stall_names_its_test(self):
        found = suite.read(STALLED)
        self.assertEqual(found.stalled_in, "BLPOP: waits (and waits)")
        self.assertIn("no progress", found.ended_early)

    def test_a_stall_in_a_test_of_the_same_name_is_told_apart(self):
        found = suite.read("[ok]: first (3 ms)\n[TIMEOUT]: report.\nsock1 => (IN PROGRESS) first\n")
        self.assertEqual((found.passed, found.stalled_in), ({"first"}, "first @2"))
        self.assertEqual(_comparison(_run(["first", "first @2"]), found).stallers, {"first"})

    def test_an_exception_ends_a_run_with_its_text(self):
        found = suite.read("[ok]: first (3 ms)\n[exception]: Test client: ERR no.\nERR no\n")
        self.assertEqual(found.ended_early, "exception: Test client: ERR no.\nERR no")

    def test_output_that_breaks_off_is_no_whole_run(self):
        self.assertIn("killed", suite.read("[ok]: first (3 ms)\nkilled\n").ended_early)
        self.assertIn("no output", suite.read("").ended_early)

    def test_colours_do_not_hide_an_event(self):
        self.assertEqual(suite.read("[\x1b[0;32;49mok\x1b[0m]: first (3 ms)\n").passed, {"first"})


class Counting(unittest.TestCase):
    def test_what_fails_directly_is_not_asked_for(self):
        comparison = _comparison(_run("a", "b"), _run("ab"))
        self.assertEqual((comparison.asked, comparison.passed), ({"a"}, {"a"}))

    def test_one_passed_try_suffices_and_is_told(self):
        comparison = _comparison(_run("abcd"), _run("a", "bc"), _run("bd", "c"))
        self.assertEqual(comparison.differences, {"c"})
        self.assertEqual(comparison.repaired, {"b"}, "d was not reached and did not fail")

    def test_what_is_not_reached_has_failed_with_the_reason_of_the_end(self):
        comparison = _comparison(_run("ab"), _run("a", ended_early="exception: gone"))
        self.assertEqual(comparison.differences, {"b"})
        self.assertEqual(comparison.error_of("b"), "not reached: exception: gone")

    def test_a_test_that_hangs_is_left_out_of_the_next_try(self):
        first = _run("a", ended_early="no progress in: b", stalled_in="b")
        comparison = _comparison(_run("abc"), first)
        self.assertEqual(comparison.stallers, {"b"})
        comparison.tries.append(_run("ac"))
        self.assertEqual(comparison.differences, {"b"})
        self.assertIn("no reply", comparison.error_of("b"))

    def test_the_percentage_is_over_tests_and_not_over_files(self):
        small = _comparison(_run("a"), _run(failed="a"))
        large = _comparison(_run("abc"), _run("abc"))
        self.assertEqual(verdicts.total_percent([small, large]), 75.0)

    def test_nothing_asked_is_no_percentage(self):
        self.assertIsNone(verdicts.total_percent([_comparison(_run())]))

    def test_the_bar_is_98_percent_of_a_baseline_that_was_whole(self):
        tests = [str(number) for number in range(100)]
        self.assertTrue(verdicts.holds([_comparison(_run(tests), _run(tests[2:]))]))
        self.assertFalse(verdicts.holds([_comparison(_run(tests), _run(tests[3:]))]))
        broken_off = _run(tests, ended_early="no progress in: 100")
        self.assertFalse(verdicts.holds([_comparison(broken_off, _run(tests))]))
        self.assertFalse(verdicts.holds([]))

    def test_tries_go_on_while_a_difference_has_no_reason(self):
        reasons = {"unit/demo: b": "It is so."}
        self.assertTrue(verdicts.wants_a_try(_comparison(_run("b")), reasons))
        self.assertFalse(verdicts.wants_a_try(_comparison(_run("b"), _run()), reasons))
        self.assertTrue(verdicts.wants_a_try(_comparison(_run("ab"), _run()), reasons))
        self.assertFalse(verdicts.wants_a_try(_comparison(_run("a"), _run("a")), {}))
        self.assertFalse(verdicts.wants_a_try(_comparison(_run()), {}))


class Reasons(unittest.TestCase):
    def test_a_name_stands_for_all_its_tests_and_a_number_for_one(self):
        reasons = {"unit/demo: a": "All.", "unit/demo: b @2": "One."}
        found = [verdicts.reason_for(reasons, "unit/demo", name) for name in ("a @3", "b", "b @2")]
        self.assertEqual(found, ["All.", None, "One."])
        self.assertIsNone(verdicts.reason_for(reasons, "unit/demo", "a #2"))

    def test_a_reason_makes_no_difference_less(self):
        found = verdicts.differences([_comparison(_run("a"), _run())], {"unit/demo: a": "So."})
        self.assertEqual([(d.name, d.reason) for d in found], [("a", "So.")])

    def test_a_reason_for_a_passed_test_is_stale_in_the_files_that_ran(self):
        reasons = {"unit/demo: a": "Used.", "unit/demo: b": "Stale.", "unit/other: a": "Not run."}
        comparison = _comparison(_run(["a", "a @2", "b"]), _run(["a", "b"]))
        self.assertEqual(verdicts.stale_reasons([comparison], reasons), ["unit/demo: b"])

    def test_the_file_of_reasons_is_read_and_its_form_checked(self):
        real = Path(verdicts.__file__).with_name("reasons.toml")
        self.assertIsInstance(verdicts.read_reasons(real), dict)
        for text in ('"no colon" = "So."', '"unit/demo: a" = "no sentence"', '"unit/demo: a" = 1',
                     '"unit/demo: a" = "Two\\nlines."', "not TOML"):
            with self.subTest(text), tempfile.TemporaryDirectory() as directory:
                path = Path(directory) / "reasons.toml"
                path.write_text(text)
                self.assertRaises(verdicts.ReasonsError, verdicts.read_reasons, path)


class Flags(unittest.TestCase):
    def test_what_the_command_line_gives_is_given_once(self):
        """A flag that comes twice is refused, and nothing would start."""
        argv = stage.Stage("breakwater", "--profile open")._proxy(1, 2).argv
        flags = [word for word in argv if word.startswith("--")]
        self.assertEqual(len(flags), len(set(flags)), argv)


class Source(unittest.TestCase):
    def test_a_source_of_another_version_is_refused_and_nothing_kept(self):
        with tempfile.TemporaryDirectory() as directory:
            given, target = Path(directory) / "given", Path(directory) / "target"
            (given / "src").mkdir(parents=True)
            (given / "src" / "version.h").write_text('#define REDIS_VERSION "7.2.4"\n')
            self.assertRaisesRegex(source.SourceError, "7.2.4", source.obtain, target, given)
            self.assertFalse((target / f"redis-{source.TAG}").exists())

    def test_a_directory_without_a_version_is_no_source(self):
        with tempfile.TemporaryDirectory() as directory:
            self.assertIsNone(source.version_of(Path(directory)))


if __name__ == "__main__":
    unittest.main()
