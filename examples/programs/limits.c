/* Limits of processes: what they are set to holds, for memory and for descriptors, also after fork
 * and exec. Prints the same on every kernel. */
#define _GNU_SOURCE
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MIB = 1 << 20, FILES = 20 };

static long limit(int resource, rlim_t soft)
{
    struct rlimit limit;
    if (getrlimit(resource, &limit) != 0)
        return -errno;
    limit.rlim_cur = soft;
    return answer(setrlimit(resource, &limit));
}

static long limited_to(int resource)
{
    struct rlimit limit;
    return getrlimit(resource, &limit) != 0 ? -errno : (long)limit.rlim_cur;
}

/* Whether so much can be mapped. */
static long mapped(size_t bytes, int prot)
{
    void *at = mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return -errno;
    munmap(at, bytes);
    return 0;
}

/* How a child ends that runs this: its status, or its signal, below zero. */
static long child(void (*run)(void))
{
    int status;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        failed = 0;
        run();
        fflush(stdout);
        _exit(failed);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return -errno;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void space(void)
{
    check("much before", mapped(100 * MIB, PROT_NONE), 0);
    check("limit the space", limit(RLIMIT_AS, 64 * MIB), 0);
    check("the limit of the space", limited_to(RLIMIT_AS), 64 * MIB);
    check("too much", mapped(100 * MIB, PROT_NONE), -ENOMEM);
    check("not too much", mapped(32 * MIB, PROT_NONE), 0);
    check("no limit", limit(RLIMIT_AS, RLIM_INFINITY), 0);
    check("much again", mapped(100 * MIB, PROT_NONE), 0);
}

static void data(void)
{
    check("limit data", limit(RLIMIT_DATA, 16 * MIB), 0);
    check("too much data", mapped(32 * MIB, PROT_READ | PROT_WRITE), -ENOMEM);
    check("what is no data", mapped(32 * MIB, PROT_READ), 0);
    check("brk", sbrk(32 * MIB) == (void *)-1 ? -errno : 0, -ENOMEM);
    check("not too much data", mapped(MIB, PROT_READ | PROT_WRITE), 0);
}

static void touch(long below)
{
    char here;
    unsigned long there = (unsigned long)&here - below;
    /* No compiler knows what is there. */
    __asm__ volatile("" : "+r"(there));
    *(volatile char *)there = 1;
}

static void deep_stack(void)
{
    touch(2 * MIB);
}

static void short_stack(void)
{
    check("limit the stack", limit(RLIMIT_STACK, MIB), 0);
    touch(2 * MIB);
}

static void files(void)
{
    int fds[FILES], count = 0;
    check("limit files", limit(RLIMIT_NOFILE, FILES), 0);
    check("the limit of files", limited_to(RLIMIT_NOFILE), FILES);
    while (count < FILES && (fds[count] = open("/", O_RDONLY)) >= 0)
        count++;
    check("files end", errno, EMFILE);
    check("the last one", fds[count - 1], FILES - 1);
    check("dup", answer(dup(0)), -EMFILE);
    check("dup2, past the limit", answer(dup2(0, FILES)), -EBADF);
    check("F_DUPFD, past the limit", answer(fcntl(0, F_DUPFD, FILES)), -EINVAL);
    check("F_DUPFD, up to it", answer(fcntl(0, F_DUPFD, FILES - 1)), -EMFILE);
    int ends[2];
    close(fds[count - 1]);
    check("a pipe, with room for one end", answer(pipe(ends)), -EMFILE);
    check("the room is there still", answer(dup(0)), FILES - 1);
    struct pollfd polled[FILES + 1];
    memset(polled, -1, sizeof polled);
    check("poll as many", answer(poll(polled, FILES, 0)), 0);
    check("poll more", answer(poll(polled, FILES + 1, 0)), -EINVAL);
    check("a lower limit", limit(RLIMIT_NOFILE, 4), 0);
    check("what is open stays", answer(fcntl(fds[count - 2], F_GETFD)), 0);
    check("nothing is opened", answer(open("/", O_RDONLY)), -EMFILE);
}

static void refused(void)
{
    struct rlimit crossed = { 2, 1 }, old, less;
    check("soft above hard", answer(setrlimit(RLIMIT_NOFILE, &crossed)), -EINVAL);
    check("no such limit", answer(setrlimit((__rlimit_resource_t)16, &crossed)), -EINVAL);
    check("ask and set", answer(prlimit(getpid(), RLIMIT_CORE, &(struct rlimit){ 0, 5 }, &old)), 0);
    check("ask after it", answer(prlimit(0, RLIMIT_CORE, NULL, &less)), 0);
    check("the hard limit", less.rlim_max, 5);
    check("no process", answer(prlimit(0x7ffffff, RLIMIT_CORE, NULL, &less)), -ESRCH);
}

static void exec(void)
{
    check("limit files", limit(RLIMIT_NOFILE, FILES), 0);
    check("limit the space", limit(RLIMIT_AS, 64 * MIB), 0);
    execl("/proc/self/exe", "limits", "again", NULL);
    check("exec", -errno, 0);
}

static void vforked(void)
{
    pid_t pid = vfork();
    if (pid == 0) {
        limit(RLIMIT_AS, 64 * MIB);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    check("the parent after a vfork", mapped(100 * MIB, PROT_NONE), 0);
}

int main(int count, char **arguments)
{
    (void)arguments;
    if (count > 1) {
        check("files after exec", limited_to(RLIMIT_NOFILE), FILES);
        check("too much after exec", mapped(100 * MIB, PROT_NONE), -ENOMEM);
        return failed;
    }
    check("the space", child(space), 0);
    check("data", child(data), 0);
    check("a deep stack", child(deep_stack), 0);
    check("a short stack", child(short_stack), -SIGSEGV);
    check("files", child(files), 0);
    check("what is refused", child(refused), 0);
    check("exec", child(exec), 0);
    check("vfork", child(vforked), 0);
    check("much after all", mapped(100 * MIB, PROT_NONE), 0);
    printf("limits: %s\n", failed ? "FAILED" : "ok");
    return failed;
}
