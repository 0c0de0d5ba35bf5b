#!/bin/sh
# Bad input of every kind. The kernel answers with an errno or ends the offender; afterwards
# everything works as before, and the summary shows that nothing leaked.
fails=0

echo "== memory calls with bad arguments, and bad accesses"
/usr/bin/bad-maps || fails=$((fails + 1))

echo "== wild pointers to every system call"
# No terminal to read: that waits for input, and never comes to the pointer.
/usr/bin/bad-pointers </dev/null >/dev/console || fails=$((fails + 1))

echo "== a file that the disk has lost the end of"
/usr/bin/bad-disk /zz/damaged || fails=$((fails + 1))

echo "== programs that are cut off"
for program in /cut/busybox-*; do
    said=$("$program" echo "it runs")
    echo "cut at ${program##*-}: status $?"
    # Called so, busybox does what its first argument says. An empty file is a script that does nothing; of the others none may get as far as this.
    [ "$said" != "it runs" ] || fails=$((fails + 1))
done
[ "$(/uncut/busybox echo "it runs")" = "it runs" ] || fails=$((fails + 1))

echo "== all memory taken"
/usr/bin/memory-hog || fails=$((fails + 1))

echo "== and still alive"
words=$(echo one two three | tr ' ' '\n' | sort | wc -l)
[ "$words" = 3 ] || fails=$((fails + 1))
md5sum /bin/busybox || fails=$((fails + 1))

echo "bad input: $fails parts failed"
exit $fails
