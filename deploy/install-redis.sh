#!/usr/bin/env bash
# Installs redis-server, redis-cli and redis-sentinel where they are missing. Tests and the demo
# need them; Breakwater itself does not. Running it again changes nothing.
#
# Debian's packages start their services and enable them at boot. A Redis that nobody asked for must
# not listen on 6379 because of us, so services of packages that this script installs stay off.
set -euo pipefail

# Command and Debian package, side by side.
needed=(redis-server:redis-server redis-cli:redis-tools redis-sentinel:redis-sentinel)
policy=/usr/sbin/policy-rc.d

say() { printf 'install-redis: %s\n' "$*"; }

fail() {
  printf 'install-redis: %s\n' "$@" >&2
  exit 1
}

# The packages whose command is not found. Daemons live in sbin on some systems.
missing_packages() {
  local pair
  for pair in "${needed[@]}"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null 2>&1 || printf '%s\n' "${pair##*:}"
  done
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

# Debian asks this file before it starts a service; 101 means no.
forbid_services() {
  [ -e "$policy" ] && return 0
  trap allow_services EXIT
  printf '#!/bin/sh\n# Put here by install-redis.sh while it runs.\nexit 101\n' | as_root tee "$policy" >/dev/null
  as_root chmod 755 "$policy"
}

allow_services() { as_root rm -f "$policy"; }

# Off now, if the machine's own policy let it start, and off at the next boot.
switch_off() {
  local service=$1
  if [ -d /run/systemd/system ] && command -v systemctl >/dev/null 2>&1; then
    as_root systemctl disable --quiet --now "$service" >/dev/null 2>&1 || true
  else
    as_root "/etc/init.d/$service" stop >/dev/null 2>&1 || true
    as_root update-rc.d "$service" disable >/dev/null 2>&1 || true
  fi
}

# `mapfile` is missing from the bash of macOS, which deserves the message below, too.
read -r -a packages <<<"$(missing_packages | tr '\n' ' ')"
[ "${#packages[@]}" -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
  fail "missing here: ${packages[*]} (Debian's names)." \
    "This machine has no apt-get. Install Redis 7 or later by its own package manager, for instance" \
    "  dnf install redis    apk add redis    pacman -S redis    brew install redis" \
    "so that redis-server, redis-cli and redis-sentinel are found in PATH, and run this again."
fi
if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null 2>&1; then
  fail "missing here: ${packages[*]}, and this user is not root and has no sudo." \
    "Run as root:  apt-get install ${packages[*]}"
fi

as_root true || fail "missing here: ${packages[*]}, and sudo refused (without a terminal it may not ask)." \
  "Run as root:  apt-get install ${packages[*]}"

say "installing ${packages[*]}"
forbid_services
# The lists may be fresh enough; on a new machine there are none.
if ! apt install --no-install-recommends -y "${packages[@]}" >/dev/null 2>&1; then
  say "refreshing the package lists"
  apt update || say "some package lists could not be refreshed"
  apt install --no-install-recommends -y "${packages[@]}" >/dev/null ||
    fail "apt-get could not install ${packages[*]}; its own message stands above."
fi
for package in "${packages[@]}"; do
  case "$package" in redis-server | redis-sentinel) switch_off "$package" ;; esac
done

read -r -a packages <<<"$(missing_packages | tr '\n' ' ')"
[ "${#packages[@]}" -eq 0 ] || fail "installed, but still not found in PATH: ${packages[*]}"
say "done; no service was left running"
