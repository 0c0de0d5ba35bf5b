#!/bin/sh
# Threads and processes on all CPUs at once.
fails=0

echo "== threads on one address space"
/usr/bin/smp-threads || fails=$((fails + 1))

echo "== what happens at the same moment"
/usr/bin/same-moment || fails=$((fails + 1))

echo "== a storm of forks"
/usr/bin/fork-storm || fails=$((fails + 1))

echo "== processes that wait in shared memory"
/usr/bin/shared-futex || fails=$((fails + 1))

echo "== both at once, with a shell that forks and pipes beside them"
/usr/bin/smp-threads >/tmp/threads1 & first=$!
/usr/bin/fork-storm >/tmp/storm & second=$!
lines=0
for i in 1 2 3 4 5 6 7 8; do
    got=$(echo "$i" | cat | sed 's/^/line /' | wc -l)
    lines=$((lines + got))
done
wait $first || fails=$((fails + 1))
wait $second || fails=$((fails + 1))
cat /tmp/threads1 /tmp/storm
echo "$lines lines came through pipes"
[ "$lines" = 8 ] || fails=$((fails + 1))

echo "== threads that are killed where they run"
for i in 1 2; do
    /usr/bin/smp-threads forever >/dev/null & victim=$!
    sleep 0.3
    kill -9 $victim
    wait $victim
    [ $? = 137 ] || { echo "status $? of a killed process"; fails=$((fails + 1)); }
done

echo "smp: $fails parts failed"
exit $fails
