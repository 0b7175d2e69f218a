#!/bin/sh
# A thumbnail of every picture below this directory, in thumbs/, under the picture's name.
#
# /// script
# [tool.cascadefs]
# watch = ["**/*.{jpg,jpeg,png}", "!thumbs/**"]
# kinds = ["write", "move"]
# emit = "thumbs/"
# timeout = "30s"
# ///
set -e
[ -s /proc/self/fd/3 ] || exit 0 # a new file is empty until its first close
case $CASCADE_PATH in
*/*) mkdir -p "$CASCADE_OUT/${CASCADE_PATH%/*}" ;;
esac
# What is no picture will not be one at the next attempt either: 65 is EX_DATAERR.
convert - -thumbnail '64x64>' "$CASCADE_OUT/$CASCADE_PATH" || exit 65
