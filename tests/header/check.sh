#!/bin/sh
# usage: check.sh HEADER INCLUDE-DIR
set -e
printf '#include <%s>\n#include <%s>\n' "$1" "$1" | cc -std=c99 -pedantic -Wall -Wextra -Werror -I"$2" -fsyntax-only -x c -
printf '#include <%s>\n' "$1" | c++ -std=c++11 -pedantic -Wall -Wextra -Werror -I"$2" -fsyntax-only -x c++ -
