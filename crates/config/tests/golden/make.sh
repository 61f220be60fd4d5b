#!/bin/sh
# Asks the `nix` that is installed what it makes of the configuration below
# `fixtures/`, one directory per case, and keeps the answer as `expected.json`.
#
#     sh crates/config/tests/golden/make.sh
#
# `nix --version` when they were last made: 2.8.0.
#
# A case has `system/nix.conf` (NIX_CONF_DIR), `user-*.conf` in the order of
# NIX_USER_CONF_FILES, and `environment.conf` (NIX_CONFIG); all may be missing.
# `expected.json` maps the settings that are not at their defaults to values, or
# `error` to the message.
set -eu

fixtures=$(cd "$(dirname "$0")/fixtures" && pwd)

ask() {
    env -i PATH="$PATH" HOME=/homeless NIX_CONF_DIR="$1/system" \
        NIX_USER_CONF_FILES="$2" NIX_CONFIG="$3" \
        nix --extra-experimental-features nix-command show-config --json
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ask "$work" "" "" >"$work/defaults"

for case in "$fixtures"/*/; do
    case=${case%/}
    users=
    for file in "$case"/user-*.conf; do
        if [ -e "$file" ]; then users=${users:+$users:}$file; fi
    done
    environment=
    if [ -e "$case/environment.conf" ]; then environment=$(cat "$case/environment.conf"); fi
    ask "$case" "$users" "$environment" >"$work/answer" 2>"$work/error" || true
    python3 - "$work" "$case" >"$case/expected.json" <<'PY'
import json, sys
work, case = sys.argv[1:]
defaults = json.load(open(work + "/defaults"))
try:
    answer = json.load(open(work + "/answer"))
    values = {name: setting["value"] for name, setting in sorted(answer.items())
              if setting["value"] != defaults[name]["value"]
              # Both follow from the directory that is asked about.
              and setting["value"] not in ("@" + case + "/system/machines", case + "/system/netrc")
              # Is shown as a list of numbers.
              and name != "experimental-features"}
except ValueError:
    lines = open(work + "/error").read().splitlines()
    values = {"error": [line for line in lines if line.startswith("error:")][0].replace(case, "CASE")}
print(json.dumps(values, indent=1))
PY
done
