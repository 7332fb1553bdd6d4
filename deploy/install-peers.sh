#!/bin/sh
# Installs the DICOM programs the tests talk to. Where apt may not run, says what is missing and goes on:
# the tests that need them then skip with a reason. With PEERS_REQUIRED=1 a missing one is an error.
set -u
missing=""
for package in "$@"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

root=""
[ "$(id -u)" = 0 ] || root="sudo -n"
if command -v apt-get >/dev/null 2>&1; then
    # shellcheck disable=SC2086  # a list of names
    $root apt-get update -qq >/dev/null 2>&1 && DEBIAN_FRONTEND=noninteractive \
        $root apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 && exit 0
fi
echo "not installed:$missing - tests that need them skip; to run them: apt-get install$missing"
[ "${PEERS_REQUIRED:-0}" = 1 ] && exit 1
exit 0
