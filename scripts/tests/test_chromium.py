"""Which Chromium is used."""

import importlib.machinery
import importlib.util
import os
import sys
import unittest
from pathlib import Path
from unittest import mock

SCRIPT = Path(__file__).resolve().parent.parent / "chromium"
sys.path.insert(0, str(SCRIPT.parent))
loader = importlib.machinery.SourceFileLoader("chromium_script", str(SCRIPT))
chromium = importlib.util.module_from_spec(importlib.util.spec_from_loader("chromium_script", loader))
# Without a copy of it compiled beside it.
with mock.patch("sys.dont_write_bytecode", True):
    loader.exec_module(chromium)


class Chromium(unittest.TestCase):
    def present(self, which=lambda name: None, **environment):
        with mock.patch.dict(os.environ, environment, clear=True), \
                mock.patch.object(chromium.shutil, "which", which), \
                mock.patch.object(chromium, "PLACES", ()):
            return chromium.present()

    def test_the_setting_is_meant(self):
        self.assertEqual(self.present(CHROMIUM_BIN=sys.executable), sys.executable)
        with self.assertRaisesRegex(chromium.Problem, "CHROMIUM_BIN is set to /no/such, which is not"):
            self.present(which=lambda name: "/usr/bin/chromium", CHROMIUM_BIN="/no/such")

    def test_the_script_itself_is_no_chromium(self):
        found = {"chromium": str(SCRIPT), "google-chrome": "/opt/chrome"}
        self.assertEqual(self.present(which=found.get), "/opt/chrome")
        self.assertIsNone(self.present(which={"chromium": str(SCRIPT)}.get))

    def test_there_may_be_none(self):
        self.assertIsNone(self.present())


if __name__ == "__main__":
    unittest.main()
