#!/bin/sh
# An Orthanc with the plugin and a node beside it, as plain commands: what compose.yaml does, without containers.
#
#   deploy/orthanc/run.sh [FOLDER]        # keeps everything in FOLDER (default: ./orthanc-and-node); Ctrl-C ends both
#
# Needs `make demo` once (it makes .venv) and: apt-get install orthanc orthanc-python orthanc-dicomweb orthanc-webviewer
# The environment may name other ports: ORTHANC_DICOM_PORT, ORTHANC_HTTP_PORT, DICOMNODE_PORT, DICOMNODE_WEB_PORT.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
top=$(dirname "$(dirname "$here")")
mkdir -p "${1:-orthanc-and-node}"
folder=$(CDPATH= cd -- "${1:-orthanc-and-node}" && pwd)
mkdir -p "$folder/etc" "$folder/storage"

program=$(command -v Orthanc) || { echo "Orthanc is not installed: apt-get install orthanc" >&2; exit 1; }
plugins=""
for name in Python DicomWeb WebViewer; do
    library=/usr/share/orthanc/plugins/libOrthanc$name.so
    if [ -e "$library" ]; then plugins="$plugins${plugins:+, }\"$library\""; fi
done
case $plugins in *Python*) ;; *) echo "the Python plugin is missing: apt-get install orthanc-python" >&2; exit 1 ;; esac

cp "$here/orthanc.json" "$folder/etc/orthanc.json"
cat > "$folder/etc/here.json" <<JSON
{
  "StorageDirectory" : "$folder/storage",
  "IndexDirectory" : "$folder/storage",
  "Plugins" : [ $plugins ],
  "PythonScript" : "$top/orthanc-plugin/python/dicomnode_orthanc.py",
  "RemoteAccessAllowed" : false
}
JSON

export TCP_NODELAY=1  # Debian's DCMTK sends many times slower without
export DICOMNODE__NODE__HOST=127.0.0.1
export DICOMNODE__NODE__SPOOL="$folder/spool"
export DICOMNODE__NODE__PORT="${DICOMNODE_PORT:-11112}"
export DICOMNODE__WEB__PORT="${DICOMNODE_WEB_PORT:-8080}"
export DICOMNODE__DESTINATIONS__0__PORT="${ORTHANC_DICOM_PORT:-4242}"
export DICOMNODE__SOURCES__0__PORT="${ORTHANC_DICOM_PORT:-4242}"

"$top/.venv/bin/dicomnode" serve --config "$here/node.yaml" >> "$folder/node.log" 2>&1 &
node=$!
"$program" "$folder/etc" >> "$folder/orthanc.log" 2>&1 &
orthanc=$!
trap 'kill $orthanc $node 2>/dev/null; wait' EXIT
trap 'exit 0' INT TERM
echo "Orthanc: http://127.0.0.1:${ORTHANC_HTTP_PORT:-8042}   scanners send to ORTHANC, port ${ORTHANC_DICOM_PORT:-4242}"
echo "logs: $folder/orthanc.log, $folder/node.log   Ctrl-C ends both"
while kill -0 $node 2>/dev/null && kill -0 $orthanc 2>/dev/null; do sleep 1; done
echo "one of the two has ended by itself; the logs say why" >&2
exit 1
