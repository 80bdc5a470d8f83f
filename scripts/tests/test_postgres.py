"""When a process of the server counts as gone."""

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import unittest
from pathlib import Path
from unittest import mock

SCRIPT = Path(__file__).resolve().parent.parent / "postgres"
sys.path.insert(0, str(SCRIPT.parent))
loader = importlib.machinery.SourceFileLoader("postgres_script", str(SCRIPT))
postgres = importlib.util.module_from_spec(importlib.util.spec_from_loader("postgres_script", loader))
# Without a copy of it compiled beside it.
with mock.patch("sys.dont_write_bytecode", True):
    loader.exec_module(postgres)


class Lives(unittest.TestCase):
    def test_who_runs_lives(self):
        self.assertTrue(postgres.lives(os.getpid()))

    @unittest.skipUnless(os.path.exists("/proc/self/stat") and hasattr(os, "waitid"), "told by /proc alone")
    def test_who_has_ended_does_not_even_if_nobody_asked_how(self):
        child = subprocess.Popen([sys.executable, "-c", ""])
        # It has ended, and is left to be asked.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        self.assertFalse(postgres.lives(child.pid))
        child.wait()
        self.assertFalse(postgres.lives(child.pid))
