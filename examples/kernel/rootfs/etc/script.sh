#!/bin/sh
# The long form of the demonstration: what a shell and its tools ask of a kernel, part by
# part. Lines of md5sum are compared with the host's sums. The last line is "script: ok";
# any failure ends the script before it.

fail() {
    echo "script: FAILED: $*"
    exit 1
}
expect() { # what, got, wanted
    [ "$2" = "$3" ] || fail "$1: got '$2', wanted '$3'"
    echo "ok: $1"
}

echo "running on $(uname -s) $(uname -m), process $$, in $(pwd)"

# Loops, arithmetic, functions.
sum=0
for i in 1 2 3 4 5 6 7 8 9 10; do sum=$((sum + i)); done
expect "for loop" $sum 55
n=0
while [ $n -lt 200 ]; do n=$((n + 1)); done
expect "while loop" $n 200
fib() { if [ $1 -lt 2 ]; then echo $1; else echo $(($(fib $(($1 - 1))) + $(fib $(($1 - 2))))); fi; }
expect "recursion in subshells" "$(fib 7)" 13

# Pipes, fork and exec.
expect "pipe" "$(echo one two three | wc -w | tr -d ' ')" 3
expect "long pipe" "$(seq 1 1000 | grep 7 | sed s/7/x/ | tail -n 1)" 99x
expect "exit status" "$(/bin/sh -c 'exit 42'; echo $?)" 42
expect "signal status" "$(/bin/sh -c 'kill -TERM $$'; echo $?)" 143
expect "a writer nobody reads" "$(seq 1 100000 | head -n 1)" 1
expect "redirection" "$(echo text >/tmp/a && cat </tmp/a)" text
expect "append" "$(echo more >>/tmp/a && cat /tmp/a | tr '\n' ' ')" "text more "

# Sorting and awk.
seq 1 500 | sort -r -n >/tmp/down
sort -n /tmp/down >/tmp/up
expect "sort" "$(head -n 1 /tmp/down) $(head -n 1 /tmp/up) $(wc -l </tmp/up)" "500 1 500"
expect "awk" "$(awk '{ s += $1 } END { print s }' /tmp/up)" 125250
expect "awk words" "$(echo 'b a c a b a' | tr ' ' '\n' | sort | uniq -c | sort -rn | awk '{ printf "%s%s ", $2, $1 }')" "a3 b2 c1 "

# Here-documents and variables.
expect "here-document" "$(cat <<END
value $sum
END
)" "value 55"
expect "quoted here-document" "$(cat <<'END'
value $sum
END
)" 'value $sum'

# Background jobs.
(sleep 1; echo late >/tmp/late) &
job=$!
echo early >/tmp/early
wait $job || fail "wait"
expect "background job" "$(cat /tmp/early /tmp/late | tr '\n' ' ')" "early late "
for i in 1 2 3 4 5; do (exit $i) & done
wait
expect "several jobs" done done
trap 'echo caught >/tmp/caught' USR1
kill -USR1 $$
expect "trap" "$(cat /tmp/caught)" caught
trap - USR1

# Files.
mkdir -p /tmp/dir/sub && echo x >/tmp/dir/sub/f && mv /tmp/dir/sub/f /tmp/dir/g && rmdir /tmp/dir/sub || fail "files"
ln -s g /tmp/dir/link
expect "links and globs" "$(cd /tmp/dir && echo *)" "g link"
expect "through a link" "$(cat /tmp/dir/link)" x
rm -r /tmp/dir
expect "removal" "$(ls /tmp | grep -c dir)" 0
expect "read-only root" "$(touch /etc/x 2>/dev/null; echo $?)" 1
expect "dup and close" "$( (echo to-three >&3) 3>&1 )" to-three
printf '#!/bin/sh -e\necho "$0 $*"\n' >/tmp/script
chmod +x /tmp/script
expect "a script with an interpreter" "$(/tmp/script one two)" "/tmp/script one two"
printf '#!/bin/none\n' >/tmp/script
expect "a script without one" "$(/tmp/script 2>/dev/null; echo $?)" 127
expect "find" "$(find /etc -name script.sh)" /etc/script.sh

# Compression, and sums that the host compares.
gzip -c /bin/busybox >/tmp/b.gz || fail "gzip"
gunzip -c /tmp/b.gz >/tmp/b || fail "gunzip"
cmp /bin/busybox /tmp/b || fail "gzip and gunzip do not give the file back"
echo "ok: gzip and gunzip"
md5sum /bin/busybox /etc/script.sh || fail "md5sum"
md5sum </tmp/b || fail "md5sum"
expect "md5sum of a pipe" "$(cat /tmp/b | md5sum)" "$(md5sum </bin/busybox)"
tar -cf /tmp/t.tar -C / etc/script.sh && tar -xOf /tmp/t.tar etc/script.sh | md5sum || fail "tar"

# The kernel's own files.
grep -q "r-xp.*/bin/busybox" /proc/self/maps || fail "maps: program"
grep -q "rw-p.*stack" /proc/self/maps || fail "maps: stack"
expect "program link" "$(readlink /proc/self/exe)" /bin/busybox
head -c 100000 /dev/zero | wc -c | grep -q 100000 || fail "/dev/zero"

rm -f /tmp/script /tmp/a /tmp/b /tmp/b.gz /tmp/up /tmp/down /tmp/early /tmp/late /tmp/caught /tmp/t.tar
echo "script: ok"
