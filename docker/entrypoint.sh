#!/bin/sh
# Makes the lab on the first start, then serves it. $AUTORESEARCH_TOKEN must be set: the server answers beyond this container.
set -eu
lab="/labs/${LAB:-lab}"
[ -e "$lab/lab.toml" ] || autoresearch-mcp init --yes "$lab"
set -- "$@" --http 0.0.0.0:8765
[ -z "${LAB_HOST:-}" ] || set -- "$@" --allow-host "$LAB_HOST"
exec autoresearch-mcp serve "$lab" "$@"
