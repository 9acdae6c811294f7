#!/bin/sh
# What stands in /docker-entrypoint.d is run before the server, in the order of the names.
set -e
if [ "${1:-}" = nginx ] || [ "${1:-}" = nginx-debug ]; then
    for script in /docker-entrypoint.d/*.sh; do
        # shellcheck source=/dev/null
        if [ -x "$script" ]; then "$script"; elif [ -f "$script" ]; then . "$script"; fi
    done
fi
exec "$@"
