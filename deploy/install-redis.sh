#!/usr/bin/env bash
# Installs redis-server, redis-cli and redis-sentinel where they are missing. Tests and the demo
# need them; Breakwater itself does not. Running it again changes nothing.
#
# Debian's packages start their services and enable them at boot. A Redis that nobody asked for must
# not listen on 6379 because of us, so services of packages that this script installs stay off.
set -euo pipefail
me=install-redis
. "$(dirname "${BASH_SOURCE[0]}")/apt.sh"

# Command and Debian package, side by side.
needed=(redis-server:redis-server redis-cli:redis-tools redis-sentinel:redis-sentinel)
policy=/usr/sbin/policy-rc.d

# The packages whose command is not found. Daemons live in sbin on some systems.
missing_packages() {
  local pair
  for pair in "${needed[@]}"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null 2>&1 || printf '%s\n' "${pair##*:}"
  done
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

require_apt "Install Redis 7 or later by its own package manager, for instance
  dnf install redis    apk add redis    pacman -S redis    brew install redis
so that redis-server, redis-cli and redis-sentinel are found in PATH, and run this again." "${packages[@]}"
say "installing ${packages[*]}"
forbid_services
install_packages "${packages[@]}"
for package in "${packages[@]}"; do
  case "$package" in redis-server | redis-sentinel) switch_off "$package" ;; esac
done

read -r -a packages <<<"$(missing_packages | tr '\n' ' ')"
[ "${#packages[@]}" -eq 0 ] || fail "installed, but still not found in PATH: ${packages[*]}"
say "done; no service was left running"
