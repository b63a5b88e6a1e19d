#!/bin/sh
# A Millrace function: arguments on stdin, result on stdout, exit status 0. To fail, exit with another status: what
# stands on stderr is kept with the call, and the call is tried again.
set -eu

name=$(cat)
printf 'hello, %s' "${name:-world}"
