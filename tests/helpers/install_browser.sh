#!/usr/bin/env bash
# Installs what the tests of the app drive: Debian's Chromium. `make test` calls it; nothing else needs it.
set -euo pipefail
if command -v chromium > /dev/null || command -v chromium-browser > /dev/null; then
  exit 0
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  as_root=(sudo --non-interactive)
fi
if command -v apt-get > /dev/null && "${as_root[@]}" true 2> /dev/null; then
  echo "Installing Chromium for the tests of the app."
  "${as_root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends chromium > /dev/null
else
  echo "No Chromium, and no way to install it here: tests in a browser are skipped. Install the package chromium." >&2
fi
