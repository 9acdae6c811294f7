#!/bin/sh
# redis-server for options and configuration files alone, as user redis; reachable from outside when nobody configured it.
set -e
case ${1:-} in -*|*.conf) set -- redis-server "$@" ;; esac
if [ "$1" = redis-server ]; then
    if [ $# = 1 ]; then set -- "$@" --protected-mode no; fi
    if [ "$(id -u)" = 0 ]; then
        find . \! -user redis -exec chown redis '{}' +
        exec setpriv --reuid redis --regid redis --init-groups "$@"
    fi
fi
exec "$@"
