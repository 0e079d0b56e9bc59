#!/bin/sh
# The shipped configuration for a run on this machine: it is the same but for addresses and paths.
#
#   nginx/local.sh DIR PORT HOST:PORT…                  before these instances
#   nginx/local.sh DIR PORT --dns RESOLVER HOST:PORT    before all addresses that HOST has
#
#   nginx -c DIR/nginx.conf -g 'daemon off;'
#
# BALANCE=least_conn takes the alternative to ip_hash. What nginx writes is in DIR, also access.log
# and error.log. Tests and measurements go through it, so that what they try is what is shipped.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 3 ] || { sed -n '4,7p' "$0" >&2; exit 2; }
dir=$1 port=$2
shift 2
mkdir -p "$dir/conf.d"
# Workers are not who started them.
chmod 755 "$dir" "$dir/conf.d"

# change FILE WHAT BY_WHAT: sed's words; it must be there.
change() {
    grep -q -- "$2" "$1" || { echo "nginx/local.sh: no \"$2\" in $1" >&2; exit 1; }
    sed -i "s|$2|$3|g" "$1"
}

cp "$here/nginx.conf" "$dir/nginx.conf"
change "$dir/nginx.conf" ' /tmp/' " $dir/"
change "$dir/nginx.conf" ' /run/' " $dir/"
change "$dir/nginx.conf" '/dev/stdout' "$dir/access.log"
change "$dir/nginx.conf" '/dev/stderr' "$dir/error.log"
change "$dir/nginx.conf" 'listen 8080' "listen 127.0.0.1:$port"

where=$dir/conf.d/ringcast.conf
if [ "$1" = --dns ]; then
    cp "$here/scale.d/ringcast.conf" "$where"
    change "$where" '127\.0\.0\.11 ' "$2 "
    change "$where" 'server:8080;' "$3;"
    exit
fi
cp "$here/conf.d/ringcast.conf" "$where"
if [ "${BALANCE:-ip_hash}" = least_conn ]; then
    change "$where" '^    ip_hash;' '    #ip_hash;'
    change "$where" '^    #least_conn;' '    least_conn;'
fi
# The line of the first instance stands for those of all.
change "$where" ' server-[23]:8080.*' ''
sed -i '/^    server$/d' "$where"
for instance; do
    change "$where" '^\( *server\) server-1:8080\(.*\)' "\1 $instance\2\n\1 server-1:8080\2"
done
sed -i '/ server-1:8080/d' "$where"
