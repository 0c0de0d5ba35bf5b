#!/bin/sh
# Programs cut off in the middle: each must fail as a file or as a process, and nothing
# else may be touched.

size=$(wc -c </bin/busybox)
part=1
while [ $part -le 16 ]; do
    bytes=$((part < 9 ? part * 8 - 1 : size / 16 * (part - 8) + part))
    head -c $bytes /bin/busybox >/tmp/cut
    chmod +x /tmp/cut
    /tmp/cut true 2>/dev/null
    echo "cut at $bytes: status $?"
    part=$((part + 1))
done
echo "not a program" >/tmp/text
chmod +x /tmp/text
/tmp/text 2>/dev/null
echo "text: status $?"
printf '#!/bin/none\n' >/tmp/orphan
chmod +x /tmp/orphan
/tmp/orphan 2>/dev/null
echo "script without interpreter: status $?"
printf '#!/bin/sh -e\necho "from a script: $0 $*"\n' >/tmp/script
chmod +x /tmp/script
/tmp/script one two || exit 1
rm -f /tmp/cut /tmp/text /tmp/orphan /tmp/script
echo "script: ok"
