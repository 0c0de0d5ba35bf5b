#!/bin/sh
# Other static programs than busybox, built in other ways against other C libraries.
fails=0

expect() {
    if [ "$2" = "$3" ]; then
        echo "$1: ok"
    else
        echo "$1: WRONG, '$2' instead of '$3'"
        fails=$((fails + 1))
    fi
}

echo "== mksh: klibc, fixed addresses"
expect arithmetic "$(/usr/bin/mksh -c 'echo $((6 * 7))')" 42
expect "fork and pipe" "$(/usr/bin/mksh -c 'echo one | while read -r x; do echo "$x two"; done')" "one two"

echo "== ldconfig: glibc, position-independent"
/usr/bin/ldconfig -V | head -n 1
expect status "$(/usr/bin/ldconfig -V >/tmp/version; echo $?)" 0

echo "== hello: no C library at all"
/usr/bin/hello again || fails=$((fails + 1))

echo "== threads: glibc, fixed addresses, one address space for all"
/usr/bin/threads || fails=$((fails + 1))

echo "== shared-futex: glibc, processes that wait in shared memory"
/usr/bin/shared-futex || fails=$((fails + 1))

echo "== memory-calls: glibc, what is mapped, locked, advised, rearranged and sealed"
/usr/bin/memory-calls || fails=$((fails + 1))

echo "== memory-files: glibc, files without a name, below /dev/shm, sealed ones"
/usr/bin/memory-files || fails=$((fails + 1))

echo "== about-self: glibc, what the kernel says of a program and its memory"
/usr/bin/about-self || fails=$((fails + 1))

echo "== file-calls: glibc, calls that fail or stop half way"
/usr/bin/file-calls || fails=$((fails + 1))

echo "== names: glibc, directories that are moved and removed"
/usr/bin/names || fails=$((fails + 1))

echo "== small-calls: glibc, calls with small answers"
/usr/bin/small-calls || fails=$((fails + 1))

echo "== limits: glibc, processes that are held to their limits"
/usr/bin/limits || fails=$((fails + 1))

echo "== group-exit: glibc, processes that are killed in their sleep"
/usr/bin/group-exit || fails=$((fails + 1))

echo "== processes: glibc, vfork, exec and signals with threads"
/usr/bin/processes || fails=$((fails + 1))

if [ -x /usr/bin/registers ]; then
    echo "== registers: glibc, signals and faults by the dozen"
    /usr/bin/registers || fails=$((fails + 1))
fi

echo "other programs: $fails parts failed"
exit $fails
