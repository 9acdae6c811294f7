#!/bin/bash
# The first start makes a cluster in $PGDATA, by POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, POSTGRES_INITDB_ARGS and
# POSTGRES_HOST_AUTH_METHOD, and runs what stands in /docker-entrypoint-initdb.d; each later one just serves.
set -euo pipefail

case ${1:-} in -*) set -- postgres "$@" ;; esac
if [[ ${1:-} != postgres ]]; then exec "$@"; fi

if (($(id -u) == 0)); then
    mkdir -p "$PGDATA" /var/run/postgresql
    chmod 700 "$PGDATA"
    chown -R postgres: "$PGDATA" /var/run/postgresql
    exec setpriv --reuid postgres --regid postgres --init-groups "${BASH_SOURCE[0]}" "$@"
fi

# A secret may be in a file that a variable names.
from_file() {
    local file=${1}_FILE
    if [[ ${!file:-} ]]; then
        [[ ! ${!1:-} ]] || { echo "error: both $1 and $file are set" >&2; exit 1; }
        export "$1=$(<"${!file}")"
    fi
}

initialize() {
    from_file POSTGRES_PASSWORD; from_file POSTGRES_USER; from_file POSTGRES_DB; from_file POSTGRES_INITDB_ARGS
    local user=${POSTGRES_USER:-postgres} method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256} arguments script
    local database=${POSTGRES_DB:-$user}
    if [[ ! ${POSTGRES_PASSWORD:-} && $method != trust ]]; then
        echo "Error: Database is uninitialized and superuser password is not specified: set POSTGRES_PASSWORD" >&2
        exit 1
    fi
    read -ra arguments <<<"${POSTGRES_INITDB_ARGS:-}"
    initdb --username="$user" --pwfile=<(printf '%s\n' "${POSTGRES_PASSWORD:-unused}") "${arguments[@]}"
    printf "\nhost all all all %s\n" "$method" >>"$PGDATA/pg_hba.conf"
    printf "\nlisten_addresses = '*'\n" >>"$PGDATA/postgresql.conf"
    # Nobody else sees the server until it is whole.
    pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
    export PGUSER=$user PGPASSWORD=${POSTGRES_PASSWORD:-}
    if [[ $database != postgres ]]; then createdb --no-password --maintenance-db=postgres "$database"; fi
    for script in /docker-entrypoint-initdb.d/*; do
        # shellcheck source=/dev/null
        case $script in
            *.sh) if [[ -x $script ]]; then "$script"; else . "$script"; fi ;;
            *.sql) psql -v ON_ERROR_STOP=1 --no-password --dbname "$database" -f "$script" ;;
            *.sql.gz) gunzip -c "$script" | psql -v ON_ERROR_STOP=1 --no-password --dbname "$database" ;;
        esac
    done
    pg_ctl -D "$PGDATA" -m fast -w stop
    unset PGUSER PGPASSWORD
    echo "PostgreSQL init process complete; ready for start up."
}

if [[ ! -s $PGDATA/PG_VERSION ]]; then initialize; fi
exec "$@"
