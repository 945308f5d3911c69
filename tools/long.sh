# Sourced.  long WHAT COMMAND...: runs a command that takes long.  On a terminal
# it shows by itself how far it is; in a log, a line on the standard error every
# ten seconds says that it still works.

long() {
    local what=$1 period=${LONG_PERIOD:-10} ticker="" status=0
    shift
    if [ ! -t 2 ]; then
        # Waits on a pipe that nobody writes to: a sleep of its own would outlive the ticker,
        # and keep the log open.
        (
            exec 3<> <(:) >/dev/null
            for ((s = period; ; s += period)); do
                read -rt "$period" -u 3 || true
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
