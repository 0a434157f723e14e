# Writes the access control list: the rules of each user, with the SHA-256 of its passwords. The password USER and, while it is
# being rotated, USER.other are valid. With "reload", run in the container of the server, the server takes over the list, and its
# certificate, if it has one.
set -eu
umask 077
list=/run/redis/users.acl keeper=/run/redis/keeper
digest() { printf %s "$(cat "$1")" | sha256sum | cut -d " " -f 1; }
# Who may make the server read these files again, and nothing else: its password never leaves this pod.
[ -s "$keeper" ] || head -c 32 /dev/urandom | sha256sum | cut -d " " -f 1 > "$keeper"
{
  echo "user default on nopass -@all +ping"
  echo "user keeper on #$(digest "$keeper") -@all +acl|load +config|set"
  for rules in /etc/redis/users/*; do
    user=${rules##*/} hashes=
    for password in "/etc/redis/passwords/$user" "/etc/redis/passwords/$user.other"; do
      [ ! -s "$password" ] || hashes="$hashes #$(digest "$password")"
    done
    [ -n "$hashes" ] || { echo "user $user has no password" >&2; exit 2; }
    echo "user $user on$hashes $(cat "$rules")"
  done
} > "$list.new"
mv "$list.new" "$list"
[ "${1-}" = reload ] || exit 0
as_keeper() { REDISCLI_AUTH=$(cat "$keeper") redis-cli -e -s /run/redis/redis.sock --user keeper "$@"; }
as_keeper acl load
tls=/etc/redis/tls
[ ! -e "$tls/tls.crt" ] || as_keeper config set tls-cert-file "$tls/tls.crt" tls-key-file "$tls/tls.key" tls-ca-cert-file "$tls/ca.crt"
sed -n 's/^user \([^ ]*\) on \(#.*\) .*$/\1 \2/p' "$list" | while read -r user hashes; do
  echo "$user: $(printf %s "$hashes" | grep -o '#' | wc -l | tr -d ' ') password(s)"
done
