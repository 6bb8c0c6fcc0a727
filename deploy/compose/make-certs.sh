#!/bin/sh
# Makes a throw-away CA and a server's certificate: make-certs.sh DIRECTORY HOST
# Does nothing where they are there already. For development only: the keys lie beside the certificates.
set -eu
cd "$1"
host=$2
[ -e server.crt ] && exit 0

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj '/CN=throw-away CA' \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -keyout ca.key -out ca.crt
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$host" -keyout server.key -out server.csr
printf 'subjectAltName=DNS:%s,DNS:localhost\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' "$host" >server.ext
# The last step: an interrupted run begins again.
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile server.ext -out server.new
chmod 644 ca.crt server.new
chmod 600 ca.key server.key
# 999 is the user of the redis image; without the right to give files away, the server runs as who runs this.
if [ "$(id -u)" = 0 ]; then chown 999 server.key; fi
rm -f server.csr server.ext
mv server.new server.crt
