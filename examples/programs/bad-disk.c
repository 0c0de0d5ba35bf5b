/* A file whose end the disk cannot read: read(2) answers EIO, a program that touches such a page
 * gets SIGBUS, a call that is given its address answers EFAULT, and the pages before it are as
 * always. Nothing of this may wait for ever. The argument is the file: PAGES pages, each byte of a
 * page one more than the page's number, of which GOOD whole ones can be read. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 8, GOOD = 4, PAGE = 4096, SECONDS = 60 };

/* What ends a child that loads a byte: the signal's number, or 0. */
static int touch(const volatile unsigned char *byte, unsigned char wanted)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        alarm(SECONDS);
        _exit(*byte != wanted);
    }
    if (child < 0 || waitpid(child, &status, 0) != child)
        return -1;
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status) * 1000;
}

int main(int count, char **arguments)
{
    static unsigned char bytes[PAGES * PAGE];
    struct stat facts;
    int file = count > 1 ? open(arguments[1], O_RDONLY) : -1;
    int ends[2];

    alarm(SECONDS);
    if (file < 0 || fstat(file, &facts) != 0 || pipe(ends) != 0)
        return 2;
    tell("the whole size", facts.st_size, PAGES * PAGE);

    tell("a read up to the damage", answer(read(file, bytes, sizeof bytes)), GOOD * PAGE);
    long wrong = 0;
    for (int at = 0; at < GOOD * PAGE; at++)
        wrong += bytes[at] != at / PAGE + 1;
    tell("wrong bytes before it", wrong, 0);
    tell("a read across", answer(pread(file, bytes, PAGE, GOOD * PAGE - 100)), 100);
    tell("a read of it", answer(read(file, bytes, PAGE)), -EIO);
    tell("the same again", answer(read(file, bytes, PAGE)), -EIO);
    tell("a read behind it", answer(pread(file, bytes, 1, (PAGES - 1) * PAGE)), -EIO);
    tell("a read past the end", answer(pread(file, bytes, 1, PAGES * PAGE)), 0);

    unsigned char *map = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    unsigned char *full = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
    if (map == MAP_FAILED || full == MAP_FAILED)
        return 3;
    tell("a load before it", touch(map + PAGE, 2), 0);
    tell("a load of it", touch(map + GOOD * PAGE, 0), SIGBUS);
    tell("a load behind it", touch(map + (PAGES - 1) * PAGE, 0), SIGBUS);
    tell("a load before it, populated", touch(full + PAGE, 2), 0);
    tell("a load of it, populated", touch(full + GOOD * PAGE, 0), SIGBUS);
    tell("write(2) from it", answer(write(ends[1], map + GOOD * PAGE, 1)), -EFAULT);
    tell("write(2) across", answer(write(ends[1], map + GOOD * PAGE - 3, 3)), 3);
    tell("a path in it", answer(open((char *)map + GOOD * PAGE, O_RDONLY)), -EFAULT);
    tell("a load before it, at last", touch(map, 1), 0);
    printf("bad disk: %s\n", failed ? "FAILED" : "ok");
    return failed;
}
