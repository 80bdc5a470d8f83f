"""Who may install a package of the system, and what is said when nobody may."""

import io
import os
import unittest
from unittest import mock

import packages


class Packages(unittest.TestCase):
    def setUp(self):
        self.ran = []
        self.root = True
        self.terminal = None

    def install(self, status=0, **environment):
        """Runs `install` on a Debian where nothing is really run."""
        def run(command, **_):
            self.ran.append(" ".join(command))
            return mock.Mock(returncode=status)

        # Names of their own, so that what this very run was told does not count.
        kept = {k: v for k, v in os.environ.items() if k not in ("CI", packages.SETTING)}
        said = io.StringIO()
        said.isatty = lambda: self.terminal is not None
        typed = io.StringIO(self.terminal or "")
        typed.isatty = said.isatty
        with mock.patch.dict(os.environ, {**kept, **environment}, clear=True), \
                mock.patch("packages.shutil.which", lambda name: f"/usr/bin/{name}"), \
                mock.patch("packages.os.geteuid", lambda: 0 if self.root else 1000), \
                mock.patch("packages.subprocess.run", run), \
                mock.patch("packages.sys.stdin", typed), mock.patch("packages.sys.stderr", said):
            said.fileno = lambda: 2
            packages.install("PostgreSQL", "postgresql")

    def refused(self, **environment):
        with self.assertRaises(packages.Problem) as raised:
            self.install(**environment)
        self.assertEqual(self.ran, [])
        return str(raised.exception)

    def test_nobody_who_was_not_told_to_installs_anything_not_even_root(self):
        for self.root, command in (True, "`apt-get install"), (False, "`sudo apt-get install"):
            said = self.refused()
            self.assertIn(command, said)
            self.assertIn("NUDGE_INSTALL=yes", said)
            self.assertEqual(len(said.splitlines()), 1)

    def test_what_CI_may_and_how_to_forbid_it(self):
        self.install(CI="true")
        self.assertEqual(len(self.ran), 2)
        self.ran = []
        self.refused(CI="true", NUDGE_INSTALL="no")
        self.refused(CI="false")

    def test_the_setting_allows_it_and_no_password_is_asked_for(self):
        self.root = False
        self.install(NUDGE_INSTALL="yes")
        self.assertEqual([command[:15] for command in self.ran], ["sudo -n apt-get"] * 2)

    def test_a_person_at_a_terminal_is_asked(self):
        self.root, self.terminal = False, "yes\n"
        self.install()
        self.assertEqual([command[:12] for command in self.ran], ["sudo apt-get"] * 2)
        for answer in ("no\n", "\n", ""):
            self.ran, self.terminal = [], answer
            self.refused()

    def test_a_word_that_is_neither_yes_nor_no_is_an_error(self):
        self.assertIn("it is yes or no", self.refused(NUDGE_INSTALL="maybe"))

    def test_a_package_manager_that_fails_is_a_problem(self):
        with self.assertRaises(packages.Problem):
            self.install(status=100, CI="true")
