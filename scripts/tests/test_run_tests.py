"""What run-tests makes of its arguments, and of what nextest reports."""

import importlib.machinery
import importlib.util
import io
import tempfile
import unittest
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

SCRIPT = Path(__file__).resolve().parent.parent / "run-tests"
loader = importlib.machinery.SourceFileLoader("run_tests", str(SCRIPT))
run_tests = importlib.util.module_from_spec(importlib.util.spec_from_loader("run_tests", loader))
# Without a copy of it compiled beside it.
with mock.patch("sys.dont_write_bytecode", True):
    loader.exec_module(run_tests)

REPORT = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run"><testsuite name="a::integration">
<testcase name="good" classname="a::integration" time="1.5"/>
<testcase name="slow" classname="a::integration" time="70"><failure type="test timeout"/></testcase>
<testcase name="torn" classname="a::integration" time="0.1"><error type="execution failure"/></testcase>
</testsuite></testsuites>"""


class RunTests(unittest.TestCase):
    def arguments(self, *given):
        arguments = run_tests.Arguments(list(given))
        return arguments.cargo, arguments.words, arguments.with_doc

    def test_everything_is_run_unless_packages_are_named(self):
        self.assertEqual(self.arguments(), (["--workspace"], [], True))
        self.assertEqual(self.arguments("--", "word"), (["--workspace"], ["word"], True))
        for package in ["-p", "review"], ["-preview"], ["--package", "review"], ["--package=review"]:
            self.assertEqual(self.arguments(*package, "--", "w"), (package, ["w"], True))

    def test_options_of_nextest_mean_its_tests_alone(self):
        self.assertEqual(self.arguments("-E", "test(x)"), (["--workspace", "-E", "test(x)"], [], False))
        self.assertFalse(self.arguments("-p", "review", "-j", "2")[2])

    def run_with(self, report, status):
        with tempfile.TemporaryDirectory() as directory, redirect_stdout(io.StringIO()) as said:
            path = Path(directory) / run_tests.REPORT.format("sqlite")

            def wait(*_):
                if report:
                    path.parent.mkdir(parents=True)
                    path.write_text(report, "utf-8")
                return status

            tests = run_tests.Tests()
            tests.wait = wait
            with mock.patch.object(run_tests, "ROOT", Path(directory)):
                tests.part("sqlite", tests.nextest, ["nextest"], "sqlite", run_tests.Arguments([]), {})
            status = tests.summary(0)
        return status, said.getvalue().splitlines()

    def test_failures_timeouts_and_errors_count(self):
        status, said = self.run_with(REPORT, 100)
        self.assertEqual((status, said[-1]), (1, "1 passed, 2 failed"))
        slowest = said.index("The slowest tests:")
        self.assertTrue(said[slowest + 1].endswith("slow"))

    def test_a_run_that_ends_badly_without_a_failed_test_is_one_failed(self):
        good = REPORT.replace("failure", "skip").replace("error", "skip")
        self.assertEqual(self.run_with(good, 0)[0], 0)
        status, said = self.run_with(good, 101)
        self.assertEqual((status, said[-1]), (1, "3 passed, 1 failed"))
        self.assertEqual(self.run_with(None, 101)[1][-1], "0 passed, 1 failed")

    def test_nothing_that_ran_is_a_failure(self):
        status, said = self.run_with(None, 0)
        self.assertEqual((status, said[-1]), (1, "0 passed, 0 failed"))
