# Read by the scripts that install Debian's packages where a command is missing; does nothing by itself.
#
# They speak under the name that is in `me`, ask for root only if something is to be installed, and on a machine
# without apt they say what a person has to do instead of guessing at another package manager.

say() { printf '%s: %s\n' "$me" "$*"; }

fail() {
  printf "$me: %s\n" "$@" >&2
  exit 1
}

# Runs a command as root: directly, or by sudo, which may ask only if somebody is there to answer.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif [ -t 0 ]; then
    sudo "$@"
  else
    sudo -n "$@"
  fi
}

apt() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3 "$@" </dev/null
}

# Ends the script unless these packages could be installed: the advice for machines without apt, then the packages.
require_apt() {
  local advice=$1
  shift
  command -v apt-get >/dev/null 2>&1 ||
    fail "missing here: $* (Debian's names)." "This machine has no apt-get. $advice"
  if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null 2>&1; then
    fail "missing here: $*, and this user is not root and has no sudo." "Run as root:  apt-get install $*"
  fi
  as_root true || fail "missing here: $*, and sudo refused (without a terminal it may not ask)." \
    "Run as root:  apt-get install $*"
}

# Installs packages.
install_packages() {
  # The lists may be fresh enough; on a new machine there are none.
  apt install --no-install-recommends -y "$@" >/dev/null 2>&1 && return 0
  say "refreshing the package lists"
  apt update || say "some package lists could not be refreshed"
  apt install --no-install-recommends -y "$@" >/dev/null ||
    fail "apt-get could not install $*; its own message stands above."
}
