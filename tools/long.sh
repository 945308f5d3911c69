# Sourced.  long WHAT COMMAND...: runs a command that takes long.  On a terminal
# it shows by itself how far it is; in a log, a line on the standard error every
# ten seconds says that it still works.

long() {
    local what=$1 period=${LONG_PERIOD:-10} ticker="" status=0
    shift
    if [ ! -t 2 ]; then
        # The sleep ends with the ticker, and does not keep the log open.
        (
            pause=""
            trap '[ -z "$pause" ] || kill "$pause" 2>/dev/null; exit 0' TERM
            for ((s = period; ; s += period)); do
                sleep "$period" </dev/null >/dev/null 2>&1 &
                pause=$!
                wait "$pause" || true
                echo "==> still $what ($s s)" >&2
            done
        ) &
        ticker=$!
    fi
    "$@" || status=$?
    if [ -n "$ticker" ]; then
        kill "$ticker" 2>/dev/null || true
        wait "$ticker" 2>/dev/null || true
    fi
    return "$status"
}
