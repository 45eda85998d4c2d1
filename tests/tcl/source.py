"""Obtains Redis's test-suite: the folder `tests` of the source of one tag.

Owns target/tcl and what lies in it. The source comes from a directory that the user names, else by
a shallow clone of the public repository, whose commit is compared with the one the tag has always
had. Nothing of Redis is built: the programs that the suite calls as src/… are links to those that
are installed. A suite that is there already is used again, so only the first run needs a network.
"""

import re
import shutil
import subprocess

TAG = "7.0.15"
COMMIT = "f35f36a265403c07b119830aa4bb3b7d71653ec9"
REPOSITORY_URL = "https://github.com/redis/redis"
CLONE_SECONDS_MAX = 600
PROGRAMS = ("redis-server", "redis-cli", "redis-benchmark")


class SourceError(Exception):
    """The source cannot be had, or is not that of the tag."""


def obtain(target, given=None):
    """Returns the folder to run the suite in. `given` is a source directory of the user's, which
    stays as it is: its tests are copied. Raises SourceError."""
    suite = target / f"redis-{TAG}"
    if given is not None or not (suite / "tests" / "test_helper.tcl").is_file():
        _renew(suite, given)
    _link_programs(suite / "src")
    return suite


def version_of(directory):
    """What src/version.h of a source directory says; None without such a file."""
    try:
        text = (directory / "src" / "version.h").read_text()
    except OSError:
        return None
    found = re.search(r'#define\s+REDIS_VERSION\s+"([^"]+)"', text)
    return found and found[1]


def _renew(suite, given):
    """Copies under another name first: an interrupted copy is never taken for a whole one."""
    fresh, clone = suite.with_name("unfinished"), suite.with_name("clone")
    for leftover in (fresh, clone):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    source = given if given is not None else _clone(clone)
    version = version_of(source)
    if version != TAG:
        raise SourceError(f"{source} is the source of {version or 'something else'}, not of {TAG}")
    shutil.copytree(source / "tests", fresh / "tests", symlinks=True)
    shutil.rmtree(suite, ignore_errors=True)
    fresh.rename(suite)
    shutil.rmtree(clone, ignore_errors=True)


def _clone(directory):
    _git("clone", "--quiet", "--depth", "1", "--branch", TAG, REPOSITORY_URL, str(directory))
    commit = _git("-C", str(directory), "rev-parse", "HEAD").strip()
    if commit != COMMIT:
        raise SourceError(f"tag {TAG} of {REPOSITORY_URL} is {commit}, and was {COMMIT}")
    return directory


def _git(*arguments):
    # What git says of a detached HEAD is for people; what went wrong is on the last line.
    argv = ["git", "-c", "advice.detachedHead=false", *arguments]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False,
                              timeout=CLONE_SECONDS_MAX, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(f"git: {error}") from error
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or ["no output"]
        raise SourceError(f"git {arguments[0]}: {words[-1]}")
    return done.stdout


def _link_programs(directory):
    """The suite calls src/redis-cli and its like; those of the machine are the ones to talk to."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name in PROGRAMS:
        program = shutil.which(name)
        if program is None:
            raise SourceError(f"{name} is not installed (Debian: redis-server and redis-tools)")
        (directory / name).symlink_to(program)
