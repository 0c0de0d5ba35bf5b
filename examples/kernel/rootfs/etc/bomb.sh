#!/bin/sh
# A fork bomb and a memory bomb: the kernel must stay up, answer with errno or kill the
# offenders, and leak nothing (its summary says so).

echo "bomb: as many processes as there can be"
sh -c 'while :; do sleep 60 & done' 2>/dev/null
echo "bomb: no more processes (status $?)"
kill -KILL -1
sleep 1

echo "bomb: more memory than there is"
i=0
while [ $i -lt 24 ]; do
    awk 'BEGIN { s = "xxxxxxxx"; while (length(s) < 16000000) s = s s; system("sleep 60") }' 2>/dev/null &
    i=$((i + 1))
done
sleep 5
echo "bomb: still there"
kill -KILL -1
sleep 1

[ "$(echo alive | cat)" = alive ] || exit 1
echo "script: ok"
