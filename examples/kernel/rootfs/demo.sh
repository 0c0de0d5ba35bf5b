#!/bin/sh
# What the kernel can do, shown by an unmodified static busybox. Each line of md5sum is compared
# with the host's own; a part that goes wrong says WRONG, and the script's status counts them.
wrong=0

expect() {
    if [ "$2" = "$3" ]; then
        echo "$1: ok"
    else
        echo "$1: WRONG: '$2' instead of '$3'"
        wrong=$((wrong + 1))
    fi
}

echo "== the machine"
uname -a
expect "variables and arithmetic" $((6 * 7)) 42

echo "== loops, fork, exec and wait"
sum=0
for n in 1 2 3 4 5 6 7 8 9 10; do
    sum=$((sum + $(/bin/busybox expr "$n" '*' "$n")))
done
expect "ten programs in a loop" "$sum" 385
(exit 3)
expect "status of a subshell" $? 3
sleep 0 &
wait $!
expect "a job in the background" $? 0
/bin/busybox nosuchapplet 2>/dev/null
expect "status of a program that fails" $? 127

echo "== pipes and redirection"
expect "a pipe of five" "$(cat /etc/planets | tail -n +2 | head -n 5 | wc -l | tr -d ' ')" 5
echo one >/tmp/file
echo two >>/tmp/file
expect "append" "$(tr '\n' ' ' </tmp/file)" "one two "
expect "a here document" "$(cat <<END
three
END
)" three
yes | head -n 1000 >/tmp/yes
expect "a writer whose reader goes away" "$(wc -l </tmp/yes | tr -d ' ')" 1000

echo "== sort, awk, sed, grep, find"
sort -k 3 -n /etc/planets | awk '{ printf "%-8s %7d km\n", $1, $2 }'
expect "the nearest planet" "$(sort -k 3 -n /etc/planets | head -n 1 | cut -d ' ' -f 1)" Mercury
expect "awk adds up" "$(awk '{ km += $2 } END { print km }' /etc/planets)" 392752
expect "sed replaces" "$(echo ab-cd | sed 's/-/+/')" ab+cd
expect "grep counts" "$(grep -c us /etc/planets)" 2
expect "find finds" "$(find /etc -name planets)" /etc/planets

echo "== files in /tmp"
mkdir -p /tmp/a/b
cp /etc/planets /tmp/a/b/copy
mv /tmp/a/b/copy /tmp/a/moved
expect "copied and moved" "$(cmp /etc/planets /tmp/a/moved && echo same)" same
rm -r /tmp/a
expect "removed" "$(ls /tmp/a 2>/dev/null | wc -l | tr -d ' ')" 0
dd if=/dev/zero of=/tmp/zeros bs=4096 count=64 2>/dev/null
expect "256 KiB of zeros" "$(wc -c </tmp/zeros | tr -d ' ')" 262144

echo "== checksums, which the host computes too"
md5sum /bin/busybox
md5sum /etc/planets /demo.sh
gzip -c /bin/busybox >/tmp/busybox.gz
gunzip -c /tmp/busybox.gz | md5sum
expect "packing makes it smaller" "$([ "$(wc -c </tmp/busybox.gz)" -lt "$(wc -c </bin/busybox)" ] && echo yes)" yes
gunzip -c /tmp/busybox.gz >/tmp/busybox
chmod +x /tmp/busybox
expect "a program that was packed and unpacked runs" "$(/tmp/busybox echo hello)" hello

echo "== memory"
grep -q stack /proc/self/maps
expect "a process sees its stack in its maps" $? 0
sh -c 'kill -SEGV $$' 2>/dev/null
expect "status of a program that a signal killed" $? 139

rm -rf /tmp/*
echo "demo: $wrong parts went wrong"
exit $wrong
