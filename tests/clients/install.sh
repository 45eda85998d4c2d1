#!/usr/bin/env bash
# Installs the client libraries that tests send through Breakwater (tests/it/clients.rs): a Python environment and
# Node packages below target/clients, in the exact versions of python/requirements.txt and node/package.json.
#
# Running it again changes nothing and needs no network, until one of those two files changes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
me=install-clients
. deploy/apt.sh

pins=(tests/clients/python/requirements.txt tests/clients/node/package.json)
target=target/clients
# A copy of the pins, written last: what is there is what they ask for, and whole.
stamp=$target/installed

is_installed() {
  cat "${pins[@]}" | cmp -s - "$stamp" &&
    # An environment is bound to the Python that made it, which may have gone since.
    "$target/python/bin/python" -c 'import redis' 2>/dev/null &&
    command -v node >/dev/null 2>&1
}

# Debian's packages of what is not found.
missing_packages() {
  # Debian ships Python without the part that makes environments.
  python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
  command -v node >/dev/null 2>&1 || echo nodejs
  command -v npm >/dev/null 2>&1 || echo npm
}

install_tools() {
  local packages
  read -r -a packages <<<"$(missing_packages | tr '\n' ' ')"
  [ "${#packages[@]}" -eq 0 ] && return 0
  require_apt "Install Python 3.11 and Node.js 18, or later ones, with venv and npm, and run this again." \
    "${packages[@]}"
  say "installing ${packages[*]}"
  install_packages "${packages[@]}"
}

# Nothing but the pinned versions: pip complains if one of their dependencies is not among them.
install_python() {
  local pip=("$target/python/bin/python" -m pip --no-input --disable-pip-version-check)
  python3 -m venv "$target/python" &&
    "${pip[@]}" install --quiet --no-deps --requirement tests/clients/python/requirements.txt &&
    # What it complains about it says on the other channel.
    { "${pip[@]}" check --quiet || "${pip[@]}" check >&2; }
}

# Without a lock file, which would record where this machine downloads from; without programs that packages
# would like to run; without optional packages, which are compiled code for speed.
install_node() {
  mkdir "$target/node" &&
    cp tests/clients/node/package.json "$target/node/" &&
    npm --prefix "$target/node" install --no-package-lock --ignore-scripts --omit=optional \
      --no-audit --no-fund --loglevel=error >/dev/null
}

is_installed && exit 0
install_tools
rm -rf "$target"
mkdir -p "$target"
say "Python packages"
install_python || fail "the Python packages could not be installed; pip's message stands above."
say "Node packages"
install_node || fail "the Node packages could not be installed; npm's message stands above."
cat "${pins[@]}" >"$stamp"
say "done, in $target"
