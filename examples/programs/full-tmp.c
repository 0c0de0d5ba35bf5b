/* Files in memory until there is no room: by writes, into a hole, through a mapping. Who asks for more
 * is told so, nobody else is concerned, and what was there can still be written. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, LARGE = 1 << 30, ENOUGH = 64 << 20, LITTLE = 256 << 10 };

static const char NAME[] = "/tmp/full";

static int failed;

static void check(const char *what, const char *when, long got, long wanted)
{
    if (got == wanted)
        return;
    printf("%s, %s: %ld instead of %ld\n", what, when, got, wanted);
    failed = 1;
}

/* Somebody else needs memory: it must be there. */
static void others_live(const char *when)
{
    static char some[LITTLE];
    pid_t child = fork();
    if (child == 0) {
        memset(some, 1, sizeof some);
        _exit(7);
    }
    int status = 0;
    waitpid(child, &status, 0);
    check("another process", when, status, 7 << 8);
}

static char piece[1 << 16];

/* Writes until that fails; answers how much, and checks the error. */
static long fill(const char *when, int fd)
{
    long written = 0, n;
    while ((n = write(fd, piece, sizeof piece)) > 0)
        written += n;
    check("the error of a write", when, n < 0 ? errno : 0, ENOSPC);
    return written;
}

static void by_writes(const char *when, long size)
{
    int fd = open(NAME, O_RDWR | O_CREAT | O_TRUNC, 0600);
    check("its size", when, ftruncate(fd, size), 0);
    check("something was written", when, fill(when, fd) > 0, 1);
    others_live(when);
    check("what is there is written again", when, pwrite(fd, piece, PAGE, 0), PAGE);
    close(fd);
    unlink(NAME);
}

static void by_stores(void)
{
    int fd = open(NAME, O_RDWR | O_CREAT | O_TRUNC, 0600);
    check("its size", "stores", ftruncate(fd, ENOUGH), 0);
    char *file = mmap(NULL, ENOUGH, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    pid_t child = fork();
    if (child == 0) {
        for (long at = 0; at < ENOUGH; at += PAGE)
            file[at] = 1;
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    check("who stores", "stores", WIFSIGNALED(status) ? WTERMSIG(status) : 0, SIGBUS);
    others_live("stores");
    file[0]++;
    check("what is there", "stores", file[0], 2);
    // What the child had besides is free again.
    fill("stores", fd);
    // More than there is: not one of the kernel's promises.
    int unpromised = MAP_PRIVATE | MAP_NORESERVE;
    char *copy = mmap(NULL, ENOUGH, PROT_READ | PROT_WRITE, unpromised, fd, 0);
    child = fork();
    if (child == 0)
        _exit(copy[ENOUGH - PAGE]);
    waitpid(child, &status, 0);
    check("who looks", "stores", WIFSIGNALED(status) ? WTERMSIG(status) : 0, SIGBUS);
    munmap(copy, ENOUGH);
    int zero = open("/dev/zero", O_RDONLY);
    check("a read into it", "stores", read(zero, file + ENOUGH - PAGE, PAGE) < 0, 1);
    close(zero);
    munmap(file, ENOUGH);
    close(fd);
    unlink(NAME);
}

int main(void)
{
    by_writes("a file that grows", 0);
    by_writes("a hole", LARGE);
    by_stores();
    by_writes("a file that grows again", 0);
    printf("full tmp: %s\n", failed ? "FAILED" : "ok");
    return failed;
}
