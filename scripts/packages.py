"""The system's packages: installed only by somebody who was told to.

Installing one takes the rights of root, and changes a machine for everything else on it. A script of
a project must not do that to a person who only wanted to run its tests, also where it could: as root
in a container, or where sudo asks for no password. So it happens

  * when NUDGE_INSTALL is `yes`;
  * when CI is `true`, as CI systems set it, and NUDGE_INSTALL is not `no`;
  * when a person at a terminal answers `yes`, seeing the command.

Otherwise the script ends with the command for that person to run.
"""

import os
import shutil
import subprocess
import sys

SETTING = "NUDGE_INSTALL"


class Problem(Exception):
    """Something that the person at the terminal can act on, in one line."""


def told():
    """Whether somebody has said that packages may be installed; None when nobody said anything."""
    said = os.environ.get(SETTING, "").strip().lower()
    if said in ("yes", "no"):
        return said == "yes"
    if said:
        raise Problem(f"{SETTING} is set to {said}: it is yes or no")
    return True if os.environ.get("CI") == "true" else None


def command_for(package, as_root, ask_password=True):
    """What installs a package here: a list of arguments, or None where we know of nothing."""
    if not shutil.which("apt-get"):
        return None
    rights = [] if as_root else ["sudo"] if ask_password else ["sudo", "-n"]
    return [*rights, "apt-get", "install", "-y", "--no-install-recommends", package]


def install(what, package):
    """Installs a package of the system, or raises a Problem that says how to."""
    as_root = os.geteuid() == 0
    shown = command_for(package, as_root)
    if shown is None:
        raise Problem(f"there is no {what} here, and no apt-get to install it with")
    by_hand = f"there is no {what} here. Run `{' '.join(shown)}`, or let this script do so with {SETTING}=yes"
    answer = told()
    asked = answer is None and at_a_terminal()
    if asked:
        answer = ask(what, shown)
    if not answer:
        raise Problem(by_hand)
    if not as_root and not shutil.which("sudo"):
        raise Problem(f"{by_hand} as root: there is no sudo")
    command = command_for(package, as_root, ask_password=asked)
    print(f"there is no {what} here: running `{' '.join(command)}`", file=sys.stderr, flush=True)
    update = [*command[: command.index("apt-get") + 1], "update"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (update, command):
        # sudo reads a password from the terminal itself.
        done = subprocess.run([*step, "-qq"], env=environment, stdin=subprocess.DEVNULL,
                              stdout=sys.stderr.fileno(), check=False)
        if done.returncode != 0:
            raise Problem(f"`{' '.join(step)}` failed (see above)")


def at_a_terminal():
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def ask(what, command):
    print(f"there is no {what} here. Run `{' '.join(command)}`? [yes/no] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
